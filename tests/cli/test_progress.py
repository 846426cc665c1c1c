"""``--progress``: every command that shows progress has it, and its JSON lines are such."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

import dask_gmm.cli
from dask_gmm.cli.main import main

if TYPE_CHECKING:
    from tests.cli.conftest import Run

COMMANDS: dict[str, list[Any]] = {
    "fit": ["POINTS", "-k", 2],
    "select": ["POINTS", "--components", "1:2"],
    "predict": ["POINTS", "-m", "MODEL", "-o", "OUT/labels.zarr"],
    "merge": ["MODEL", "POINTS"],
    "impute": ["POINTS", "-m", "MODEL", "-o", "OUT/imputed.zarr"],
    "regress": ["POINTS", "-m", "MODEL", "--given", 0, "-o", "OUT/expected.zarr"],
    "score": ["POINTS", "-m", "MODEL"],
    "update": ["POINTS", "-m", "MODEL", "-o", "OUT/updated.zarr"],
    "report": ["MODEL", "POINTS", "-o", "OUT/report.html"],
    "simulate": ["OUT/new.zarr", "-n", 1000, "-d", 2, "-k", 2],
    "manifest": ["POINTS", "-o", "OUT/manifest.json"],
}
#: Those that begin processes, and report by the same means.
LARGE = {"demo", "doctor"}


def test_all_commands_that_show_progress_are_tested() -> None:
    """Who imports the views is in the table above, or reports through one that is."""
    folder = Path(dask_gmm.cli.__file__).parent
    users = {p.stem for p in folder.rglob("*.py") if "observing(" in p.read_text()}
    shared = {
        "writing": {"predict", "impute", "regress"},
        "examination": {"doctor"},
        "predict": {"score"},
        "reporting": {"report"},
    }
    found = set().union(*(shared.get(user, {user}) for user in users - {"progress"}))
    assert found == set(COMMANDS) | LARGE


@pytest.mark.parametrize("name", sorted(set(COMMANDS) | LARGE))
def test_every_one_has_the_option(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    (option,) = [p for p in command.params if p.name == "progress"]
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == ["auto", "bar", "lines", "json", "none"]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_line_is_an_object_of_one_run(
    name: str, points: Path, model: Path, tmp_path: Path, run: Run
) -> None:
    places = {"POINTS": points, "MODEL": model}
    words = [places.get(w, str(w).replace("OUT", str(tmp_path))) for w in COMMANDS[name]]
    done = run(name, *words, "--progress", "json")
    assert done.exit_code in (0, 3), done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines
    assert all(list(line)[:3] == ["time", "run", "event"] for line in lines)
    assert len({line["run"] for line in lines}) == 1
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    own = {"fit": "FitFinished", "update": "FitFinished", "select": "SelectionFinished"}
    last = own.get(name, "RunEnded")
    assert lines[-1]["event"] == last
