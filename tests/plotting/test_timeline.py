"""What threads did when: nothing is lost on the way to the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.errors import InputError
from dask_gmm.execution.span import Span
from dask_gmm.plotting import plot_timeline
from dask_gmm.plotting.timeline import _course, _spread
from tests.traced import MadeTimeline, MadeTrace, timeline


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_moments_hold_what_boxes_hold(seed: int) -> None:
    """Against the overlap of every box with every moment."""
    rng = np.random.default_rng(seed)
    n, L, M = 12, 3, 17
    edges = np.linspace(0.0, 10.0, M + 1)
    lane = rng.integers(0, L, n)
    begun = rng.uniform(0, 9, n) if seed % 2 else rng.integers(0, 9, n) * edges[1]
    seconds = np.minimum(rng.gamma(1, 1, n) + 1e-9, 10.0 - begun)
    height = rng.random(n) / n  # so that no moment is full
    found = _spread(height, lane, begun, seconds, edges, np.ones(L, int))
    expected = np.zeros((L, M))
    for i, b, s, h in zip(lane, begun, seconds, height, strict=True):
        inside = np.minimum(edges[1:], b + s) - np.maximum(edges[:-1], b)
        expected[i] += h * np.maximum(inside, 0.0) / edges[1]
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("workers", "threads", "kind", "lanes"),
    [(2, 4, "thread", 8), (1, 60, "thread", 60), (10, 7, "worker", 10), (61, 1, "61 threads", 0)],
)
def test_lanes(workers: int, threads: int, kind: str, lanes: int) -> None:
    trace = timeline(workers, threads, 3, 4 * workers * threads)
    spans = [span for traced in trace.passes for span in traced.spans]
    course = _course(trace, spans)
    assert (course.kind, len(course.names)) == (kind, lanes)
    each = workers * threads / max(lanes, 1)  # threads of a lane
    worked = (course.computing + course.waiting).sum() * course.edges[1] * each
    assert worked == pytest.approx(sum(span.seconds for span in spans), rel=1e-3)
    waited = course.waiting.sum() * course.edges[1] * each
    assert waited == pytest.approx(sum(span.waiting for span in spans), rel=1e-3)


def test_a_thread_that_waited_is_light_and_one_that_did_nothing_white() -> None:
    spans = (
        Span(0, "", 1, 100.0, 10.0, 0.0, 1, 0),
        Span(1, "", 2, 100.0, 5.0, 5.0, 1, 0),
    )
    ax: Any = plot_timeline(MadeTimeline([MadeTrace(1, spans, 0)]))
    image = np.asarray(ax.images[0].get_array())
    assert image.shape[0] == 2
    assert image[0, :, 3] == pytest.approx(1.0)
    assert image[1, 500:, 3] == pytest.approx(0.0)
    assert image[1, 100, :3].sum() > 1.5 > 0.9 > image[0, 100, :3].sum()


def test_passes_are_numbered_and_what_was_lost_is_said() -> None:
    ax: Any = plot_timeline(timeline(again={2: 3}))
    assert [text.get_text() for text in ax.texts if text.get_text()[0].isdigit()] == [
        "2 ×3",
        "1",
        "3",
        "4",
        "5",
    ]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "units done again" in legend
    assert "before the passes" in legend
    ax = plot_timeline(timeline())
    assert "units done again" not in [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("seconds", "unit"), [(1e-3, "seconds"), (60.0, "minutes"), (3600.0, "hours")]
)
def test_units_of_time(seconds: float, unit: str) -> None:
    assert plot_timeline(timeline(seconds=seconds)).get_xlabel() == unit


def test_errors() -> None:
    with pytest.raises(InputError, match="timeline is list"):
        plot_timeline([])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has seen no unit of a pass"):
        plot_timeline(MadeTimeline())
