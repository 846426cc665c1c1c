"""`dask-gmm select`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm import GaussianMixture, select_gaussian_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_select_finds_what_the_library_finds(points: Path, tmp_path: Path, run: Run) -> None:
    words = ("-k", "2:4", "--covariance", "full", "--covariance", "diag", "--seed", 0)
    done = run("select", points, *words, "-o", tmp_path / "best.zarr", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    theirs = select_gaussian_mixture(points, (2, 3, 4), random_state=0)
    assert printed["best_n_components"] == theirs.best_n_components == 3
    assert printed["best_covariance_type"] == theirs.best_covariance_type
    assert [row["bic"] for row in printed["table"]] == [row.bic for row in theirs.table]
    assert printed["reads"] == printed["passes"] + 1
    model = GaussianMixture.load(tmp_path / "best.zarr")
    np.testing.assert_array_equal(model.means_, theirs.best_model.means_)


def test_a_prior_from_the_shell(points: Path, tmp_path: Path, run: Run) -> None:
    words = ("--prior", "fraley-raftery", "--reg-covar", 0, "--seed", 0)
    done = run("fit", points, "-k", 3, *words, "-o", tmp_path / "one.zarr")
    assert done.exit_code == 0, done.stderr
    assert "log-posterior" in done.stdout
    shown = run("show", tmp_path / "one.zarr").stdout
    assert "means (shrinkage 0.01), covariances (5 degrees of freedom)" in shown
    assert "log-posterior" in shown
    one = GaussianMixture.load(tmp_path / "one.zarr")
    found = run("select", points, "-k", "3", *words, "-o", tmp_path / "best.zarr")
    assert found.exit_code == 0, found.stderr
    best = GaussianMixture.load(tmp_path / "best.zarr")
    assert best.prior == one.prior == "fraley-raftery"
    assert best.prior_ == one.prior_
    wrong = run("fit", points, "-k", 3, "--prior", "jeffreys")
    assert wrong.exit_code == 2
    assert "fraley-raftery" in wrong.stderr


def test_select_prints_a_table_and_how_it_went(points: Path, run: Run) -> None:
    done = run("select", points, "-k", "2,3", "--seed", 0, "--heldout", 0.2)
    assert done.exit_code == 0, done.stderr
    (best,) = (line for line in done.stdout.splitlines() if "← best" in line)
    assert best.split()[0] == "3"
    assert "held out" in done.stdout
    assert "best     3 components, full covariance" in done.stdout
    assert "and a sample of 8 of 8 blocks, for 2 mixtures" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].startswith("sample: all rows from 8 block(s)")
    assert lines[1].startswith("2 starts by kmeans")
    assert any(line.startswith("3 components, full: converged after") for line in lines)


def test_select_says_how_it_was_fitted(points: Path, run: Run) -> None:
    words = ("-k", "2:3", "--seed", 0, "--tol", 0, "--max-passes", 3)
    done = run("select", points, *words, "--acceleration", "squarem")
    assert done.exit_code == 3, done.stderr
    assert "steps    squarem" in done.stdout
    assert "max_passes ← best" in done.stdout
    printed = json.loads(run("select", points, *words, "--acceleration", "none", "--json").stdout)
    assert [row["acceleration"] for row in printed["table"]] == [None, None]
    assert printed["passes"] == 3
    assert "plain EM" in run("select", points, "-k", 2).stdout, "all rows are in the sample"


def test_work_on_the_sample_is_shown(
    points: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may last longer than a pass: the starts at first, the steps after each read."""
    monkeypatch.setattr("dask_gmm.fitting.sample_progress._INTERVAL", 0.0)
    words = ("select", points, "-k", "2:3", "--acceleration", "variance-reduced", "--seed", 0)
    done = run(*words, "--progress", "json")
    printed = [json.loads(line) for line in done.stderr.splitlines()]
    work = [(e["work"], e["done"], e["total"]) for e in printed if e["event"] == "SampleAdvanced"]
    assert work[:2] == [("fitting the sample", 1, 2), ("fitting the sample", 2, 2)]
    assert work[2:4] == [("finding the next steps", 1, 2), ("finding the next steps", 2, 2)]
    monkeypatch.setattr("dask_gmm.progress.lines.LINE_EVERY", 0.0)
    assert "fitting the sample: 1 of 2 mixtures" in run(*words).stderr
    assert run(*words, "--progress", "bar").exit_code == 0


def test_select_on_a_terminal_shows_candidates(points: Path, run: Run) -> None:
    done = run("select", points, "-k", "2:3", "--progress", "bar")
    assert done.exit_code == 0, done.stderr


def test_progress_as_json(points: Path, run: Run) -> None:
    done = run("select", points, "-k", "1:2", "--progress", "json", "--init-params", "k-means||")
    kinds = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert kinds[0] == "SelectionStarted"
    assert kinds[-1] == "SelectionFinished"
    assert kinds.count("PointFinished") == 2
    assert kinds.count("StartRead") == 4


def test_a_best_that_did_not_converge_is_exit_code_3(points: Path, run: Run) -> None:
    done = run("select", points, "-k", "2:3", "--tol", 0, "--max-iter", 2)
    assert done.exit_code == 3


def test_a_fit_by_k_means_parallel_says_what_it_read(points: Path, run: Run) -> None:
    words = ("-k", 3, "--init-params", "k-means||", "--on-collapse", "merge", "--seed", 0)
    done = run("fit", points, *words)
    assert done.exit_code == 0, done.stderr
    assert "4 reads for the start and a sample of 8 of 8 blocks" in done.stdout
    printed = json.loads(run("fit", points, *words, "--json").stdout)
    assert printed["reads"] == printed["passes"] + 5


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("-k 0:3", 2, "no range of numbers"),
        ("-k 5:2", 2, "no range of numbers"),
        ("-k two", 2, "no range of numbers"),
        ("-k 2:3 --criterion dic", 2, "'dic'"),
        ("-k 2:3 --heldout 1", 2, "--heldout"),
        ("-k 2,4001", 1, "lower --components"),
    ],
)
def test_mistakes(words: str, code: int, expected: str, points: Path, run: Run) -> None:
    done = run("select", points, *words.split())
    assert done.exit_code == code, done.output
    assert expected in done.stderr
    assert done.stderr.count("error:") == 1
    assert done.stdout == ""
