"""`--bayesian`: a posterior from the command line, and what every other command makes of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm import BayesianGaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def model(points: Path, run: Run) -> Path:
    path = points.with_name("bayesian.zarr")
    how = ("--bayesian", "distribution", "--weight-concentration", 0.01, "--seed", 0)
    done = run("fit", points, "-k", 6, *how, "-o", path, "--json")
    assert done.exit_code in (0, 3), done.stderr
    printed = json.loads(done.stdout)
    theirs = BayesianGaussianMixture(
        n_components=6,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.01,
        random_state=0,
    ).fit(points)
    np.testing.assert_array_equal(printed["means"], theirs.means_)
    assert printed["evidence_bound"] == theirs.evidence_bound_
    assert printed["lower_bound"] == theirs.lower_bound_
    return path


@pytest.mark.slow
def test_it_says_what_it_has_raised(points: Path, model: Path, run: Run, tmp_path: Path) -> None:
    shown = run("show", model)
    assert "lower bound" in shown.stdout
    assert "log-likelihood" not in shown.stdout
    assert json.loads(run("show", model, "--card").stdout)["model"]["priors"]
    scored = json.loads(run("score", points, "-m", model, "--json").stdout)
    fitted = BayesianGaussianMixture.load(model)
    assert scored["score"] == fitted.score(points)
    assert scored["bic"] is None
    assert "BIC" not in run("score", points, "-m", model).stdout
    assert run("predict", points, "-m", model, "-o", tmp_path / "l.zarr").exit_code == 0
    refused = run("score", points, "-m", model, "--n-effective", 10)
    assert refused.exit_code == 2
    assert "has none" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--weight-concentration", 1), "--bayesian process"),
        (
            ("--bayesian", "process", "--search", "thorough"),
            "--search thorough does not go with --bayesian: there it may be auto or off",
        ),
        (
            ("--bayesian", "process", "--on-collapse", "merge"),
            "--on-collapse merge does not go with",
        ),
        (("--bayesian", "process", "--acceleration", "variance-reduced"), "auto or squarem"),
        (("--bayesian", "process", "--noise"), "--noise and --bayesian do not go together"),
        (
            ("--bayesian", "process", "--prior", "fraley-raftery"),
            "--prior and --bayesian do not go together",
        ),
        (("--bayesian", "yes"), "'process'"),
    ],
)
def test_mistakes(points: Path, run: Run, words: tuple[object, ...], said: str) -> None:
    done = run("fit", points, "-k", 2, *words)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
