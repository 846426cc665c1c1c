"""--checkpoint and --resume of fit and select, and what show prints of a checkpoint."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm import GaussianMixture
from tests.cli.conftest import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

FIT = ("-k", 3, "--seed", 0, "--acceleration", "none", "--tol", 0)


@pytest.fixture
def begun(points: Path, tmp_path: Path, run: Run) -> Path:
    """The checkpoint of a fit that may make two passes only."""
    place = tmp_path / "c"
    done = run("fit", points, *FIT, "--max-passes", 2, "--checkpoint", place, "-q")
    assert done.exit_code == 3, done.stderr
    return place


def test_the_same_command_goes_on(points: Path, begun: Path, tmp_path: Path, run: Run) -> None:
    words = (*FIT, "--max-iter", 100, "--max-passes", 5)
    whole = json.loads(run("fit", points, *words, "--json").stdout)
    model = tmp_path / "m.zarr"
    done = run("fit", points, *words, "--checkpoint", begun, "-o", model)
    assert done.exit_code == 3, done.stderr
    assert "checkpoint: going on after pass 2" in done.stderr
    assert "pass 2: " not in done.stderr
    assert "pass 3: log-likelihood" in done.stderr
    assert re.search(r"5 passes \(2 of them before the fit was taken up\)", done.stdout)
    again = run("fit", points, *words, "--checkpoint", begun, "--resume", "--json")
    printed = json.loads(again.stdout)
    assert printed["resumed_after"] == 5
    for name in ("means", "covariances", "weights", "lower_bounds"):
        assert printed[name] == whole[name]
    np.testing.assert_array_equal(GaussianMixture.load(model).means_, whole["means"])


def test_a_fit_that_has_ended_says_so(points: Path, tmp_path: Path, run: Run) -> None:
    words = ("fit", points, "-k", 3, "--seed", 0, "--checkpoint", tmp_path / "c")
    first = run(*words, "--json")
    again = run(*words)
    assert again.exit_code == 0, again.stderr
    ends = f"has ended after pass {json.loads(first.stdout)['passes']}, nothing is left to do"
    assert ends in again.stderr


def test_other_settings_are_refused_in_a_line(points: Path, begun: Path, run: Run) -> None:
    done = run("fit", points, *FIT, "--checkpoint", begun, "--reg-covar", 0.5)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "reg_covar was 1e-06 and is 0.5" in line
    assert "--no-resume" in line
    anew = run("fit", points, *FIT, "--max-passes", 1, "--checkpoint", begun, "--no-resume")
    assert anew.exit_code == 3
    assert "pass 1: " in anew.stderr


def test_resume_wants_something_to_go_on_from(points: Path, tmp_path: Path, run: Run) -> None:
    for command in ("fit", "select"):
        words = (command, points, "-k", 3, "--checkpoint", tmp_path / "none", "--resume")
        done = run(*words)
        assert done.exit_code == 1
        assert "holds nothing to go on from" in done.stderr


@pytest.mark.parametrize("command", ["fit", "select"])
@pytest.mark.parametrize("switch", ["--resume", "--no-resume"])
def test_a_switch_without_a_place_is_wrong_usage(
    command: str, switch: str, points: Path, run: Run
) -> None:
    done = run(command, points, "-k", 3, switch)
    assert done.exit_code == 2
    assert f"{switch} needs to know where: say so with --checkpoint" in done.stderr


def test_places_that_would_destroy_something(points: Path, tmp_path: Path, run: Run) -> None:
    for place in (points, points / "c", points.parent):
        done = run("fit", points, "-k", 3, "--checkpoint", place)
        assert done.exit_code == 1
        assert "would destroy" in done.stderr
    both = ("--checkpoint", tmp_path / "m", "-o", tmp_path / "m")
    assert "would destroy" in run("fit", points, "-k", 3, *both).stderr


def test_a_selection_goes_on(points: Path, tmp_path: Path, run: Run) -> None:
    settings = ("--covariance", "full", "--seed", 0, "--tol", 1e-9, "--acceleration", "none")
    words = ("select", points, "-k", "2:4", *settings)
    whole = json.loads(run(*words, "--max-passes", 4, "--json").stdout)
    place = ("--checkpoint", tmp_path / "c")
    run(*words, *place, "--max-passes", 2)
    done = run(*words, *place, "--max-passes", 4, "--json")
    assert "going on after pass 2" in done.stderr
    assert json.loads(done.stdout)["best"] == whole["best"]
    shown = run("show", tmp_path / "c")
    assert "among 3 mixtures by bic" in shown.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--acceleration", "variance-reduced", "--standardize", "moments"),
        ("select", "--acceleration", "squarem", "--n-pca", "2"),
    ],
)
def test_another_process_prints_a_checkpoint(
    words: tuple[str, ...], points: Path, tmp_path: Path, run: Run
) -> None:
    command, *asked = words
    done = run(command, points, "-k", 3, "--seed", 0, *asked, "--checkpoint", tmp_path / "c", "-q")
    assert done.exit_code == 0, done.stderr
    shown = program("show", tmp_path / "c")  # which has fitted nothing before
    assert shown.returncode == 0, shown.stderr
    assert "scaled by" in shown.stdout


def test_show_prints_a_checkpoint(begun: Path, tmp_path: Path, run: Run) -> None:
    done = run("show", begun)
    assert done.exit_code == 0, done.stderr
    assert re.search(r"a fit to 4,000 rows of 3 features", done.stdout)
    assert re.search(r"after pass 2; it goes on from here with --checkpoint", done.stdout)
    assert re.search(r"log-likelihood +-\d+\.\d+ nats a row", done.stdout)
    assert re.search(r"by process \d+ on .*, commit 3", done.stdout)
    printed = json.loads(run("show", begun, "--json").stdout)
    assert printed["passes"] == 2
    assert printed["ended"] is False
    assert np.shape(printed["means"]) == (3, 3)
    assert run("show", begun, "--compare", begun).exit_code == 0
    missing = run("show", tmp_path / "none")
    assert missing.exit_code == 1
    assert "nothing to show" in missing.stderr
