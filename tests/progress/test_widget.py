"""The notebook's widget: HTML that is well-formed, safe and self-contained; in a real kernel."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as ET

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from dask_gmm.fitting.events import (
    FitFinished,
    FitStarted,
    Judgement,
    Outcome,
    PassFinished,
    PassJudged,
    PassStarted,
    SearchFinished,
    StepKind,
)
from dask_gmm.progress.run import Ending, Run
from dask_gmm.progress.state import CURVE_POINTS, ProgressState, thinned_curve
from dask_gmm.progress.widget import widget_html
from tests.progress.fits import PASSES


def state_after(bounds: list[float], rejected: set[int] = frozenset()) -> ProgressState:  # type: ignore[assignment]
    state = ProgressState()
    state.take(FitStarted("x", "here", 1000, 2, 10, 3, 1, 100, 1e-3))
    state.take(SearchFinished(12, 3, 0.01, 1.0))
    for number, bound in enumerate(bounds, 1):
        state.take(PassStarted(number, 1))
        state.take(PassFinished(number, (bound,), 1000, 10, 16_000, 2.0, 4, 0))
        kind = StepKind.REJECTED if number in rejected else StepKind.ACCEPTED
        state.take(PassJudged(number, Judgement(kind, bound, 1e-3)))
    return state


def text_of(html: str) -> str:
    return " ".join(" ".join(ET.fromstring(html).itertext()).split())


def test_while_it_runs() -> None:
    state = state_after([-3.0, -2.5, -4.0, -2.4], {3})
    html = widget_html(Run("fit", "points.zarr"), state, None, 12.0)
    said = text_of(html)
    assert "fit · 3 components of 2 features · points.zarr" in said
    assert "pass 4 of ≤ 100" in said
    assert "-2.400000 nats/row" in said
    assert "4, 1 rejected" in said
    assert "12 moves tried, 3 accepted" in said
    assert "1.0e-03 nats/row" in said
    svg = next(ET.fromstring(html).iter("svg"))
    assert svg.attrib["role"] == "img"
    (line,) = svg.iter("polyline")
    assert len(line.attrib["points"].split()) == 3, "the rejected one is a ring"
    assert len(list(svg.iter("circle"))) == 2


@pytest.mark.parametrize(
    ("how", "error", "outcome", "words"),
    [
        ("done", None, Outcome.CONVERGED, "converged after 2 passes"),
        ("done", None, Outcome.MAX_ITER, "not converged after 2 passes"),
        ("failed", "SchedulerLostError", None, "failed (SchedulerLostError) after 2 passes"),
        ("interrupted", None, None, "interrupted after 2 passes"),
    ],
)
def test_in_the_end(how: str, error: str | None, outcome: Outcome | None, words: str) -> None:
    state = state_after([-3.0, -2.5])
    if outcome is not None:
        state.take(FitFinished(outcome, 2, -2.5, 2, 5.0, 1e-4))
    html = widget_html(Run("fit", "x"), state, Ending(how, error, 5.0), 0.0)
    assert words in text_of(html)
    assert "progressbar" not in html


@pytest.mark.parametrize("outcome", Outcome)
def test_endings_are_words(outcome: Outcome) -> None:
    """Of whatever ends a fit, and no name of the code but that of a setting."""
    state = ProgressState()
    state.take(FitFinished(outcome, 2, -2.5, 2, 5.0, 1e-4))
    assert state.outcome == outcome.value
    assert state.ending
    assert "max_iter" not in state.ending
    assert (state.ending == "converged") == (outcome is Outcome.CONVERGED)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_what_has_converged_is_ticked(outcome: Outcome) -> None:
    state = state_after([-3.0, -2.5])
    state.take(FitFinished(outcome, 2, -2.5, 2, 5.0, 1e-4))
    html = widget_html(Run("fit", "x"), state, Ending("done", None, 5.0), 0.0)
    assert ("✓" in html) == (outcome is Outcome.CONVERGED)


@given(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=80),
    st.lists(st.floats(-1e6, 1e6) | st.just(float("-inf")), max_size=8),
)
def test_it_is_well_formed_whatever_data_are_called(name: str, bounds: list[float]) -> None:
    html = widget_html(Run("fit", f"<script>{name}"), state_after(bounds), None, 1.0)
    tags = {node.tag for node in ET.fromstring(html).iter()}
    assert not tags & {"script", "style", "link", "img", "iframe"}
    assert not re.search(r"(?:src|href)=", html) or "src" in name or "href" in name


@given(st.integers(0, 2000))
def test_a_long_curve_is_thinned_and_keeps_its_ends(n: int) -> None:
    state = ProgressState(bounds=[float(i) for i in range(n)], numbers=list(range(1, n + 1)))
    points = thinned_curve(state)
    assert len(points) <= CURVE_POINTS
    if n:
        assert (points[0][0], points[-1][0]) == (1, n)


# -- in a kernel -----------------------------------------------------------------------------------

SETUP = """
import threading, time, warnings
warnings.simplefilter("ignore")
from dask_gmm import ProgressBar
from dask_gmm.fitting.events import PassFinished
from tests.progress.fits import X, mixture
def slowly(event):
    if isinstance(event, PassFinished):
        time.sleep(0.3)
"""
CELLS = {
    "callback": "mixture(callbacks=[ProgressBar(), slowly]).fit(X);",
    "context": "with ProgressBar():\n    gm = mixture().fit(X)\n    gm.score(X)",
    "threads": """
bar = ProgressBar()
both = threading.Barrier(2)
def fit(k):
    both.wait(10)
    mixture(n_components=k, callbacks=[bar, slowly]).fit(X)
threads = [threading.Thread(target=fit, args=(k,)) for k in (2, 5)]
for t in threads: t.start()
for t in threads: t.join()
""",
    "interrupted": """
def stop(event):
    if isinstance(event, PassFinished) and event.number == 2:
        raise KeyboardInterrupt
mixture(callbacks=[ProgressBar(), stop]).fit(X)
""",
}


class Notebook(NotebookClient):
    """Runs a notebook and counts what the kernel sends to the browser."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        counts = self.__dict__.setdefault("sent", {})
        kind = msg["msg_type"]
        counts[cell_index, kind] = counts.get((cell_index, kind), 0) + 1
        return super().process_message(msg, cell, cell_index)


@pytest.fixture(scope="module")
def executed() -> tuple[dict[str, Any], dict[tuple[str, str], int]]:
    """The outputs of each cell after a real run in a kernel, and how many messages made them."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *CELLS.values())]
    client = Notebook(nbformat.v4.new_notebook(cells=cells), timeout=120, allow_errors=True)
    notebook = client.execute()
    names = ["setup", *CELLS]
    sent = {(names[i], kind): n for (i, kind), n in client.__dict__["sent"].items()}
    outputs = {name: cell.outputs for name, cell in zip(names, notebook.cells, strict=True)}
    assert outputs["setup"] == []
    return outputs, sent


def shown(outputs: Any) -> list[str]:
    found = [o for o in outputs if o.output_type == "display_data"]
    assert all("text/plain" in o.data for o in found)
    return [text_of(o.data["text/html"]) for o in found]


@pytest.mark.slow
def test_a_fit_is_one_output_that_is_updated_in_place(executed: Any) -> None:
    outputs, sent = executed
    (end,) = shown(outputs["callback"])
    assert f"not converged after {PASSES} passes" in end, "the saved notebook has the summary"
    updates = sent["callback", "update_display_data"]
    assert 2 <= updates <= 12, "more than the end, and no more than four in a second"
    (output,) = outputs["callback"]
    assert output.data["text/plain"].startswith(f"fit: not converged after {PASSES} passes")


@pytest.mark.slow
def test_everything_in_a_context_is_shown(executed: Any) -> None:
    fit, score = shown(executed[0]["context"])
    assert f"not converged after {PASSES} passes" in fit
    assert "scoring" in score
    assert "done" in score


@pytest.mark.slow
def test_fits_in_threads_have_an_output_each(executed: Any) -> None:
    ends = shown(executed[0]["threads"])
    assert len(ends) == 2
    assert {re.search(r"(\d) components", end)[1] for end in ends} == {"2", "5"}  # type: ignore[index]
    assert all(f"after {PASSES} passes" in end for end in ends)


@pytest.mark.slow
def test_an_interrupted_fit_says_so(executed: Any) -> None:
    outputs = executed[0]["interrupted"]
    (end,) = shown(outputs)
    assert "interrupted after 2 passes" in end
    assert [o.ename for o in outputs if o.output_type == "error"] == ["KeyboardInterrupt"]


@pytest.mark.slow
def test_interrupting_the_kernel_ends_the_fit_and_not_the_kernel() -> None:
    """The button that notebooks have, pressed while the widget is being updated."""
    manager, client = start_new_kernel(kernel_name="python3")
    updates, ends = 0, []

    def look(message: Any) -> None:
        nonlocal updates
        if message["msg_type"] in ("display_data", "update_display_data"):
            updates += 1
            ends.append(text_of(message["content"]["data"]["text/html"]))
            if updates == 4:
                manager.interrupt_kernel()

    try:
        endless = "mixture(callbacks=[ProgressBar(), slowly], max_iter=10**6, tol=0.0).fit(X)"
        client.execute_interactive(SETUP, timeout=60)
        reply = client.execute_interactive(endless, timeout=60, output_hook=look)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert "interrupted after" in ends[-1]
        again = client.execute_interactive("mixture().fit(X)", timeout=60)
        assert again["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
