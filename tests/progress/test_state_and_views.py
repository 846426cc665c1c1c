"""The numbers of the progress line, and the ways of writing them on a terminal and in a log."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from dask_gmm.cli.progress import observing
from dask_gmm.cli.session import Session
from dask_gmm.execution.backend import PassProgress
from dask_gmm.fitting.events import (
    FitFinished,
    FitStarted,
    Judgement,
    Outcome,
    OutputResumed,
    PassAdvanced,
    PassFinished,
    PassJudged,
    PassStarted,
    RareComponentsFound,
    SampleAdvanced,
    SampleDrawn,
    StartsFound,
    StepKind,
)
from dask_gmm.progress.bar import Bar
from dask_gmm.progress.lines import Lines
from dask_gmm.progress.state import ProgressState


def started(tol: float = 1e-3, max_iter: int = 100) -> FitStarted:
    return FitStarted("x", "here", 1000, 2, 10, 3, 1, max_iter, tol)


def advanced(number: int, blocks: int, seconds: float) -> PassAdvanced:
    progress = PassProgress(blocks, 10, 100 * blocks, 1000, 1600 * blocks, seconds)
    return PassAdvanced(number, progress)


def finished(number: int, *bounds: float, seconds: float = 2.0) -> PassFinished:
    return PassFinished(number, bounds, 1000, 10, 16_000, seconds, 4, 0)


def fit(bounds: list[float], tol: float, max_iter: int = 100) -> ProgressState:
    """A fit that is in the pass after those bounds."""
    state = ProgressState()
    state.take(started(tol, max_iter))
    for number, bound in enumerate(bounds, 1):
        state.take(PassStarted(number, 1))
        state.take(finished(number, bound))
    state.take(PassStarted(len(bounds) + 1, 1))
    return state


def test_time_left_of_a_pass_is_proportional() -> None:
    state = ProgressState()
    state.take(started())
    state.take(PassStarted(1, 1))
    assert state.seconds_left() is None
    state.take(advanced(1, 4, 2.0))
    assert state.seconds_left() == pytest.approx(3.0)
    assert state.rates() == (200.0, 3200.0)
    state.take(advanced(1, 10, 5.0))
    assert state.seconds_left() is None


def test_a_new_pass_is_expected_to_take_as_long_as_the_last() -> None:
    assert fit([-3.0], 1e-3).seconds_left() == 2.0


def test_passes_left_follow_the_rate_of_convergence() -> None:
    """Changes halve: 8e-3, 4e-3, 2e-3, 1e-3 ... below 1e-5 seven passes later."""
    bounds = [-3.0]
    for change in (8e-3, 4e-3, 2e-3, 1e-3):
        bounds.append(bounds[-1] + change)
    state = fit(bounds, 1e-5)
    assert state.passes_left() == 6, "seven, one of which is running"
    assert state.fit_seconds_left() == pytest.approx(14.0)


def test_the_guess_is_bounded_by_max_iter() -> None:
    bounds = [-3.0, -2.9, -2.81, -2.729, -2.6561]
    state = fit(bounds, 1e-9, max_iter=8)
    assert state.passes_left() == 2


@pytest.mark.parametrize(
    "bounds",
    [
        [-3.0, -2.9],
        [-3.0, -2.9, -2.7, -2.4, -2.0],
        [-3.0, -3.0, -3.0, -3.0, -3.0],
    ],
)
def test_without_a_ground_nothing_is_promised(bounds: list[float]) -> None:
    state = fit(bounds, 1e-5)
    assert state.passes_left() is None
    assert state.fit_seconds_left() is None
    assert fit([-3, -2, -1.5, -1.25, -1.125], 0.0).passes_left() is None


def test_restarts_that_drop_out_begin_a_new_series() -> None:
    state = ProgressState()
    state.take(started())
    for number in range(1, 6):
        state.take(PassStarted(number, 2))
        state.take(finished(number, -3.0 - number, -2.0 - 2.0**-number))
    state.take(PassStarted(6, 1))
    assert state.passes_left() is None
    assert state.bounds[-1] == -2.0 - 2.0**-5


def test_the_bar_fits_its_terminal() -> None:
    bar = Bar(fit([-3.0, -2.5], 1e-3))
    for width in (40, 80, 200):
        out = io.StringIO()
        console = Console(file=out, force_terminal=True, width=width, color_system=None)
        bar(advanced(3, 4, 2.0))
        console.print(bar)
        lines = out.getvalue().splitlines()
        assert len(lines) == 2
        assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("pass 3 of ≤ 100")
    assert "4/10 blocks · 3.0 s left" in lines[0]
    assert "200 rows/s · 3.20 kB/s · log-likelihood -2.500000 (+5.0e-01)" in lines[1]


def test_the_bar_before_the_first_pass() -> None:
    bar = Bar(ProgressState())
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    bar(started())
    console.print(bar)
    assert "drawing a sample" in out.getvalue()


def test_lines() -> None:
    said: list[str] = []
    lines = Lines(ProgressState(), said.append)
    events: list[Any] = [
        started(),
        SampleDrawn(100, False, 5, 800, 0.5),
        StartsFound(2, "kmeans", 1.0),
        PassStarted(1, 1),
        advanced(1, 4, 2.0),
        finished(1, -3.0),
        finished(2, -2.5),
        FitFinished(Outcome.CONVERGED, 2, -2.5, 2, 5.0),
    ]
    for event in events:
        lines(event)
    assert said == [
        "sample: 100 rows from 5 block(s), 0.5 s",
        "2 starts by kmeans, 1.0 s",
        "pass 1: log-likelihood -3.000000, 2.0 s, 500 rows/s, 8.00 kB/s",
        "pass 2: log-likelihood -2.500000 (+5.0e-01), 2.0 s, 500 rows/s, 8.00 kB/s",
    ]


def test_rare_components_are_told_on_the_bar_too() -> None:
    state = fit([-3.0, -2.5], 1e-3)
    state.take(SampleAdvanced("looking for rare components", 0, 1))
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(Bar(state))
    state.take(RareComponentsFound(2, 0.01))
    state.take(PassStarted(4, 1))
    console.print(Bar(state))
    assert isinstance(console.file, io.StringIO)
    stage, *_, details = console.file.getvalue().strip().splitlines()
    assert "looking for rare components" in stage
    assert "2 rare component(s) found" in details


def test_what_was_finished_before_is_told() -> None:
    said: list[str] = []
    resumed = OutputResumed("labels.zarr", 7, 17)
    Lines(ProgressState(), said.append)(resumed)
    assert said == ["going on with labels.zarr: 7 of 17 blocks are finished"]
    out = io.StringIO()
    bar = Bar(ProgressState(verb="labelling"))
    for event in (resumed, PassStarted(1, 1), advanced(1, 4, 2.0)):
        bar(event)
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    console.print(bar)
    first, second = out.getvalue().splitlines()
    assert "4/10 blocks · 3.0 s left" in first, "of those that are left"
    assert second.endswith("· 7 blocks were finished before")


def test_what_remains_is_told_and_no_passes_are_guessed() -> None:
    state = fit([-3.0, -2.2, -1.8, -1.6, -1.5], 1e-5)
    assert state.passes_left() is not None
    state.take(PassJudged(5, Judgement(StepKind.ACCEPTED, -1.5, 2.5e-4)))
    assert state.passes_left() is None
    said: list[str] = []
    Lines(state, said.append)(PassJudged(6, Judgement(StepKind.REJECTED, -1.6, 2.5e-4)))
    assert said == ["pass 6: rejected, 2.5e-04 nats/row remaining"]
    assert state.rejected == {6}


def test_a_long_pass_gets_lines_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.progress.lines.LINE_EVERY", 0.0)
    said: list[str] = []
    lines = Lines(ProgressState(), said.append)
    lines(PassStarted(1, 1))
    lines(advanced(1, 4, 2.0))
    assert "pass 1: 4 of 10 blocks, 2.0 s, 200 rows/s, 3.20 kB/s, 3.0 s left" in said[0]


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with observing(Session(progress="json")) as observe:
        observe(finished(1, float("-inf")))
        observe(advanced(1, 4, 2.0))
        observe(FitFinished(Outcome.MAX_ITER, 2, -2.5, 2, 5.0))
    first, second, third = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["lower_bounds"] == [None]
    assert second["progress"]["blocks_done"] == 4
    assert third["outcome"] == "max_iter"
