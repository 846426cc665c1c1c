"""Pages of fits by the command line: --report, and `dask-gmm report`."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.data import small_file
from dask_gmm.report import write as writing
from tests.cli.conftest import program, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def command_in(page: str) -> str:
    """What a page says repeats the fit."""
    found = re.search(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)
    assert found is not None
    return unescape(found[1])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and have no say in the rest."""
    monkeypatch.setattr(writing, "figures_of", lambda *_: [])


def test_a_fit_with_its_page(points: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "fit of mine.html"
    words = ("fit", points, "-k", 3, "--seed", 0, "--report", path)
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    assert "report" in done.stdout
    page = text_of(path)
    assert "Mixture of 3 Gaussian components" in page
    assert str(points) in page
    assert command_in(page) == shlex.join(["dask-gmm", *map(str, words)])
    for name in ("components", "convergence", "certainty", "overlap", "residuals", "timeline"):
        assert f'id="figure-{name}-desc"' in page, name


def test_a_selection_with_its_page(points: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "select.html"
    done = run("select", points, "-k", "2:4", "--seed", 0, "--report", path, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["report"] == str(path)
    page = text_of(path)
    assert "It was chosen by BIC among" in page
    assert 'id="figure-selection-desc"' in page


def test_a_page_of_a_model(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "model.html"
    words = ("report", model, points, "-o", path)
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {
        "command": "report",
        "data": str(points),
        "arrays": None,
        "features": None,
        "columns": None,
        "sample_weight": None,
        "where": None,
        "model": str(model),
        "report": str(path),
    }
    page = text_of(path)
    assert 'id="figure-convergence-desc"' in page  # a model knows how it was fitted
    said = command_in(page)
    assert "n_components=3" in said
    assert f").fit({str(points)!r})" in said
    assert shlex.join(["dask-gmm", *map(str, words), "--json"]) in said


@pytest.mark.usefixtures("undrawn")
def test_it_costs_one_read(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    words = ("report", model, points, "-o", tmp_path / "m.html", "--progress", "json")
    done = run(*words)
    assert done.exit_code == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    advanced = [event for event in events if event["event"] == "PassAdvanced"]
    assert {event["number"] for event in advanced} <= {1}
    assert advanced[-1]["progress"]["rows_done"] == 4000


@pytest.mark.usefixtures("undrawn")
def test_weights_and_a_mask(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    weights = write(tmp_path / "w.zarr", np.full(4000, 0.5), (500,))
    mask = write(tmp_path / "m.zarr", np.arange(4000) % 4 == 0, (500,))
    path = tmp_path / "r.html"
    words = ("--weights", weights, "--where", mask, "-q")
    done = run("report", model, points, "-o", path, *words)
    assert done.exit_code == 0, done.stderr
    assert "One more read, of 1,000 rows" in text_of(path)


@pytest.mark.usefixtures("undrawn")
def test_a_page_is_replaced_only_when_asked(
    points: Path, model: Path, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "r.html"
    for words, code in (((), 0), ((), 1), (("--overwrite",), 0)):
        done = run("report", model, points, "-o", path, "-q", *words)
        assert done.exit_code == code
    path.write_text("mine", encoding="utf-8")
    done = run("report", model, points, "-o", path, "-q", "--overwrite")
    assert done.exit_code == 1
    assert "is no report of dask-gmm's" in done.stderr
    assert text_of(path) == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fit.pdf", "let it end with .html"),
        ("no/fit.html", "there is no folder"),
        ("points.zarr/fit.html", "would destroy the input"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "select"])
def test_a_place_is_looked_at_before_the_fit(
    tmp_path: Path, run: Run, name: str, said: str, command: str
) -> None:
    """So that no hours are lost: there is not even a model afterwards."""
    data = write(tmp_path / "points.zarr", np.random.default_rng(0).normal(size=(200, 2)))
    words = (command, data, "-k", "2", "-o", tmp_path / "model.zarr", "-q")
    done = run(*words, "--report", tmp_path / name)
    assert done.exit_code == 1
    assert said in done.stderr
    assert not (tmp_path / "model.zarr").exists()
    assert not (tmp_path / name).exists()


def test_without_matplotlib_it_says_what_to_install_before_the_fit(
    points: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    path = tmp_path / "model.zarr"
    done = run("fit", points, "-k", 3, "-o", path, "--report", tmp_path / "fit.html", "-q")
    assert done.exit_code == 1
    assert "pip install 'dask-gmm[report]'" in done.stderr
    assert not path.exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("words", [("fit", "-k", 3), ("select", "-k", "2:3")])
def test_what_was_found_is_safe_where_the_page_is_not(
    points: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(small_file, "replace_file", full)
    path = tmp_path / "model.zarr"
    done = run(*words, points, "-o", path, "--report", tmp_path / "fit.html", "-q", "--json")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    printed = json.loads(done.stdout)
    assert printed["model"] == str(path)
    assert printed["report"] is None
    assert zarr.open_group(path, mode="r").attrs["format"] == "dask-gmm-model"


@pytest.mark.slow
def test_no_window_is_asked_for(
    points: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a shell's settings name a backend that this machine cannot have."""
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.delenv("DISPLAY", raising=False)
    done = program("report", model, points, "-o", tmp_path / "r.html", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "<figure" in text_of(tmp_path / "r.html")


@pytest.mark.usefixtures("undrawn")
def test_names_of_files_are_text(tmp_path: Path, run: Run) -> None:
    name = "<script>alert(1)</script>.zarr".replace("/", "\u2215")
    data = write(tmp_path / name, np.random.default_rng(0).normal(size=(300, 2)))
    path = tmp_path / "fit.html"
    done = run("fit", data, "-k", 1, "--seed", 0, "--report", path, "-q")
    assert done.exit_code == 0, done.stderr
    page = text_of(path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
