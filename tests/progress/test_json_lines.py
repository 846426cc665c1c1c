"""The JSON lines are what their documentation says, for every event that there is."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import UTC, datetime
from typing import Any, get_args

import numpy as np
import pytest

from dask_gmm.execution.backend import PassProgress
from dask_gmm.fitting import events
from dask_gmm.fitting.events import FitFinished, Judgement, Outcome, StepKind
from dask_gmm.progress import json_lines
from dask_gmm.progress.json_lines import NOT_WRITTEN, JsonLines
from dask_gmm.progress.run import Ending, Run

EVENTS = get_args(events.Event)


def documented() -> dict[str, list[str]]:
    """The fields of each event, by the docstring."""
    text = json_lines.__doc__ or ""
    table = re.findall(r"^([A-Z]\w+) : (.+)$", text.replace("\\\n", ""), re.MULTILINE)
    return {name: fields.split(", ") for name, fields in table}


def written(event: Any) -> dict[str, Any]:
    said: list[str] = []
    JsonLines(said.append, Run("fit"))(event)
    (line,) = said
    found: dict[str, Any] = json.loads(line, parse_constant=pytest.fail)
    return found


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_is_documented(event: Any) -> None:
    """Whoever adds an event, or a field, says so in the module's docstring."""
    left_out = NOT_WRITTEN.get(event.__name__, frozenset())
    fields = [f.name for f in dataclasses.fields(event) if f.name not in left_out]
    assert documented()[event.__name__] == fields


def test_nothing_else_is_documented() -> None:
    names = {event.__name__ for event in EVENTS}
    assert set(documented()) - names == {"RunEnded"}


SAMPLES: dict[str, Any] = {
    "int": 3,
    "float": 0.5,
    "str": "x",
    "bool": True,
    "int | None": None,
    "float | None": float("nan"),
    "tuple[float, ...]": (1.5, float("-inf")),
    "Outcome": Outcome.MAX_ITER,
    "StepKind": StepKind.REJECTED,
    "Judgement": Judgement(StepKind.PLAIN, np.float64(-1.5), None),
    "Judgement | None": None,
    "PassProgress": PassProgress(1, 2, 3, None, 4, 0.5),
    "tuple[Span, ...]": (),
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_is_a_line_of_finite_numbers(event: Any) -> None:
    line = written(event(**{f.name: SAMPLES[str(f.type)] for f in dataclasses.fields(event)}))
    assert list(line)[:3] == ["time", "run", "event"]
    assert line["event"] == event.__name__
    assert re.fullmatch("[0-9a-f]{12}", line["run"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    when = datetime.fromisoformat(line["time"])
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60
    assert list(line)[3:] == documented()[event.__name__]


def test_what_objects_hold() -> None:
    progress = written(events.PassAdvanced(1, PassProgress(1, 2, 3, None, 4, 0.5)))["progress"]
    assert progress == {
        "blocks_done": 1,
        "blocks_total": 2,
        "rows_done": 3,
        "rows_total": None,
        "bytes_read": 4,
        "seconds": 0.5,
    }
    judgement = written(events.PassJudged(1, Judgement(StepKind.START, -1.5, float("inf"))))
    assert judgement["judgement"] == {"kind": "start", "objective": -1.5, "remaining_gain": None}


@pytest.mark.parametrize(
    ("how", "finished", "last"),
    [
        ("done", True, "FitFinished"),
        ("done", False, "RunEnded"),
        ("failed", True, "RunEnded"),
        ("interrupted", False, "RunEnded"),
    ],
)
def test_there_is_always_a_last_line(how: str, finished: bool, last: str) -> None:
    said: list[str] = []
    lines = JsonLines(said.append, Run("scoring"))
    lines(events.PassStarted(1, 1))
    if finished:
        lines(FitFinished(Outcome.CONVERGED, 2, -2.5, 2, 5.0))
    lines.close(Ending(how, "InputError" if how == "failed" else None, 1.5, "scoring"))
    line = json.loads(said[-1])
    assert line["event"] == last
    lines.close(Ending("done", None, 2.0, "scoring"))
    assert json.loads(said[-1]) == line, "it is said once"
    if last == "RunEnded":
        assert list(line)[3:] == documented()["RunEnded"]
        assert (line["how"], line["doing"]) == (how, "scoring")
