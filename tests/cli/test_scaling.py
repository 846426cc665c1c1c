"""`--transform`, `--standardize` and `--n-pca`: fits of scaled rows, and what is said of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

RNG = np.random.default_rng(0)
ROWS = np.exp(np.concatenate([RNG.normal(m, 0.4, size=(900, 3)) for m in (0, 3)])) * [1, 100, 0.01]


@pytest.fixture(scope="module")
def skewed(folder: Path) -> Path:
    path = folder / "skewed.zarr"
    zarr.create_array(path, data=ROWS, chunks=(400, 3))
    return path


@pytest.fixture(scope="module")
def scaled_model(skewed: Path, run: Run) -> Path:
    path = skewed.with_name("scaled-model.zarr")
    words = ("--transform", "0=arcsinh:5", "--transform", "1=log1p", "--standardize", "moments")
    done = run("fit", skewed, "-k", 2, "--seed", 0, *words, "-o", path, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    gm = GaussianMixture(
        2, feature_transform={0: ("arcsinh", 5), 1: "log1p"}, standardize=True, random_state=0
    ).fit(skewed)
    np.testing.assert_array_equal(printed["means"], gm.means_)
    np.testing.assert_array_equal(printed["means_original"], gm.original_units().means)
    assert "covariances_original" not in printed
    assert printed["scaling"]["transform"] == ["arcsinh", "log1p", ""]
    assert printed["scaling"]["standardize"] == "moments"
    np.testing.assert_array_equal(printed["scaling"]["scale"], gm.scaling_.standard.scale)
    return path


def test_models_scale_wherever_they_are_used(
    skewed: Path, scaled_model: Path, tmp_path: Path, run: Run
) -> None:
    gm = GaussianMixture.load(scaled_model)
    assert run("predict", skewed, "-m", scaled_model, "-o", tmp_path / "l.zarr").exit_code == 0
    labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[:])
    np.testing.assert_array_equal(labels, gm.predict(ROWS))
    scored = json.loads(run("score", skewed, "-m", scaled_model, "--json").stdout)
    assert scored["scaled"]
    assert scored["score"] == pytest.approx(gm.score(ROWS))
    words = ("--original-units", "--json")
    scored = json.loads(run("score", skewed, "-m", scaled_model, *words).stdout)
    assert not scored["scaled"]
    assert scored["bic"] == pytest.approx(gm.bic(ROWS, original_units=True))
    assert "see --original-units" in run("score", skewed, "-m", scaled_model).stdout


def test_show_says_what_rows_are_scaled_by(skewed: Path, scaled_model: Path, run: Run) -> None:
    printed = run("show", scaled_model).stdout
    assert "arcsinh with cofactor 5 of feature 0; log1p of feature 1; means and dev" in printed
    assert "units of the scaled rows" in printed
    other = skewed.with_name("linear-model.zarr")
    words = ("--standardize", "robust", "--n-pca", "0.999", "--scaling-from", "sample")
    assert run("fit", skewed, "-k", 2, "--seed", 0, *words, "-o", other).exit_code == 0
    printed = run("show", other).stdout
    assert "principal components (" in printed
    assert "in the data's units" in printed
    shown = json.loads(run("show", other, "--json").stdout)
    assert np.shape(shown["covariances_original"]) == (2, 3, 3)
    compared = run("show", other, "--compare", scaled_model)
    assert compared.exit_code == 1
    assert "scaled differently" in compared.stderr


def test_checkpoints_and_selections(skewed: Path, tmp_path: Path, run: Run) -> None:
    words = ("--standardize", "moments", "--seed", 0, "--checkpoint", tmp_path / "c")
    done = run("select", skewed, "-k", "1:3", "--transform", "log1p", *words, "--json")
    assert done.exit_code == 0, done.stderr
    best = json.loads(done.stdout)["best"]
    assert best["scaling"]["transform"] == ["log1p"] * 3
    shown = run("show", tmp_path / "c")
    assert "log1p of all features; means and deviations" in shown.stdout
    again = run("select", skewed, "-k", "1:3", *words)
    assert again.exit_code == 1
    assert "scaling was" in again.stderr


def test_plans_are_those_of_scaled_rows(skewed: Path, run: Run) -> None:
    words = ("--n-pca", 2, "--transform", "log1p")
    planned = json.loads(run("plan", skewed, "-k", 4, *words, "--json").stdout)
    assert (planned["n_features"], planned["data_features"]) == (2, 3)
    assert planned["block_shape"][-1] == 3
    assert planned["decoded_bytes"] == planned["n_rows"] * 3 * 8
    assert planned["block_read_seconds"] > 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--transform", "sqrt"), "write log1p, arcsinh, arcsinh:150"),
        (("--transform", "arcsinh:x"), "write log1p, arcsinh, arcsinh:150"),
        (("--transform", "log1p:2"), "write log1p, arcsinh, arcsinh:150"),
        (("--transform", "log1p", "--transform", "0=arcsinh"), "says twice"),
        (("--transform", "0=log1p", "--transform", "0=arcsinh"), "says twice"),
        (("--n-pca", "1.5"), "5, 0.95"),
        (("--n-pca", "x"), "5, 0.95"),
        (("--standardize", "minmax"), "robust"),
    ],
)
def test_slips_are_told(skewed: Path, run: Run, words: tuple[str, ...], message: str) -> None:
    done = run("fit", skewed, "-k", 2, *words)
    assert done.exit_code == 2
    assert message in done.stderr.replace("\n", " ")


def test_mistakes_are_told(skewed: Path, run: Run) -> None:
    for words in (("--n-pca", 4), ("--transform", "CD4=log1p")):
        done = run("fit", skewed, "-k", 2, *words)
        assert done.exit_code == 1
        assert "feature" in done.stderr
