"""`--missing` and `--where`: rows with gaps, and rows that a mask leaves out."""

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
ROWS = RNG.permutation(np.concatenate([RNG.normal(m, 1.0, size=(900, 3)) for m in (-5, 5)]))
SEA = RNG.random(1800) < 0.7
ROWS[RNG.random(ROWS.shape) < 0.1] = np.nan
ROWS[~SEA] = np.inf
COMPLETE = np.isfinite(ROWS).all(axis=1)


@pytest.fixture(scope="module")
def gappy(folder: Path) -> Path:
    path = folder / "gappy.zarr"
    group = zarr.create_group(path)
    group.create_array("x", data=ROWS, chunks=(400, 3))
    group.create_array("sea", data=SEA, chunks=(1800,))
    return path


@pytest.fixture(scope="module")
def gappy_model(gappy: Path, run: Run) -> Path:
    path = gappy.with_name("gappy-model.zarr")
    words = ("--array", "x", "--where", "sea", "--missing", "marginalize", "-k", 2, "--seed", 0)
    done = run("fit", gappy, *words, "-o", path, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["missing"], printed["where"]) == ("marginalize", "sea")
    assert printed["n_rows_fitted"] == (SEA & ~np.isnan(ROWS).all(axis=1)).sum()
    assert printed["n_incomplete_rows"] == (SEA & ~COMPLETE).sum()
    theirs = GaussianMixture(2, array="x", missing="marginalize", random_state=0)
    np.testing.assert_array_equal(printed["means"], theirs.fit(gappy, where="sea").means_)
    return path


def test_predict_and_score_do_as_the_fit_did(
    gappy: Path, gappy_model: Path, tmp_path: Path, run: Run
) -> None:
    data = (gappy, "--array", "x", "--where", "sea", "-m", gappy_model)
    assert run("predict", *data, "-o", tmp_path / "l.zarr").exit_code == 0
    labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[:])
    np.testing.assert_array_equal(labels == -1, ~SEA)
    scored = json.loads(run("score", *data, "--json").stdout)
    assert scored["n_rows"] == (SEA & ~np.isnan(ROWS).all(axis=1)).sum()
    dropped = json.loads(run("score", *data, "--missing", "drop", "--json").stdout)
    assert dropped["n_rows"] == COMPLETE.sum()


def test_the_story_says_what_became_of_them(gappy: Path, run: Run) -> None:
    words = ("--array", "x", "--where", "sea", "--missing", "drop", "-k", 2)
    done = run("fit", gappy, *words)
    assert f"{(SEA & ~COMPLETE).sum()} rows miss values: left out" in done.stdout
    assert "rows where" in done.stdout
    done = run("select", gappy, *words[:-1], "1:2", "--covariance", "full")
    assert f"{(SEA & ~COMPLETE).sum()} rows miss values: left out" in done.stdout
    done = run("plan", gappy, *words)
    assert done.exit_code == 0, done.stderr


def test_impute(gappy: Path, gappy_model: Path, tmp_path: Path, run: Run) -> None:
    rows = zarr.create_array(
        tmp_path / "x.zarr", data=np.where(SEA[:, None], ROWS, np.nan), chunks=(400, 3)
    )
    words = (tmp_path / "x.zarr", "-m", gappy_model)
    done = run("impute", *words, "-o", tmp_path / "m.zarr", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["n_rows"] == 1800
    gm = GaussianMixture.load(gappy_model)
    written = np.asarray(zarr.open_array(tmp_path / "m.zarr", mode="r")[:])
    np.testing.assert_allclose(written, gm.impute(np.asarray(rows[:])), rtol=1e-11)
    done = run("impute", *words, "-o", tmp_path / "d.zarr", "--draw", "--seed", 5)
    assert "imputed rows" in done.stdout
    drawn = np.asarray(zarr.open_array(tmp_path / "d.zarr", mode="r")[:])
    again = gm.set_params(random_state=5).impute(np.asarray(rows[:]), draw=True)
    np.testing.assert_allclose(drawn, again, rtol=1e-11)


def test_what_zarr_leaves_out_of_a_mask(tmp_path: Path, run: Run) -> None:
    """The sentence says what to type, and that does; so does whoever predicts."""
    group = zarr.create_group(tmp_path / "g.zarr")
    group.create_array("x", data=np.nan_to_num(ROWS, posinf=0.0), chunks=(400, 3))
    land = group.create_array("land", shape=(1800,), chunks=(400,), dtype=bool)
    land[900:] = True
    words = ("fit", tmp_path / "g.zarr", "--array", "x", "--where", "land", "-k", 2, "--seed", 0)
    done = run(*words)
    assert done.exit_code == 1
    assert "pass `--missing-chunks where=fill`" in done.stderr
    model = tmp_path / "m.zarr"
    done = run(*words, "--missing-chunks", "where=fill", "-o", model)
    assert done.exit_code == 0, done.stderr
    assert "900 of 1,800 take part" in done.stdout
    gm = GaussianMixture.load(model)
    assert (gm.n_rows_, gm.missing_chunks) == (900, {"where": "fill"})
    done = run(*words, "--missing-chunks", "weights=fill,data=fill")
    assert "pass `--missing-chunks where=fill`" in done.stderr
    done = run(*words, "--missing-chunks", "land=fill")
    assert done.exit_code == 2
    assert "where=fill,weights=fill" in done.stderr
    data = (*words[1:6], "--missing-chunks", "where=fill", "-m", model)
    assert run("predict", *data, "-o", tmp_path / "l.zarr").exit_code == 0
    labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[:])
    assert (labels[:900] == -1).all()
    assert (labels[900:] >= 0).all()


def test_mistakes(gappy: Path, gappy_model: Path, run: Run) -> None:
    data = (gappy, "--array", "x", "-k", 2)
    done = run("fit", *data, "--where", "sea")
    assert done.exit_code == 1
    assert "by --missing drop" in done.stderr
    done = run("fit", *data, "--where", "land")
    assert "--where 'land' was found nowhere" in done.stderr
    done = run("predict", *data[:3], "--where", "sea", "-m", gappy_model, "-o", gappy / "sea")
    assert "would destroy the input" in done.stderr
