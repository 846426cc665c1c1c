"""A model on rows from the command line: `regress`, and what `predict` writes instead of labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import zarr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.mark.slow
def test_regress(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    gm, rows = GaussianMixture.load(model), np.asarray(zarr.open_array(points)[:])
    words = ("-m", model, "--given", "2,0", "--target", "1")
    done = run("regress", points, *words, "-o", tmp_path / "e.zarr")
    assert done.exit_code == 0, done.stderr
    assert "(mean, std)" in done.stdout
    mean, std = gm.predict_regression(rows, given=[2, 0], targets=1, return_std=True)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "e.zarr/mean")[:], mean)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "e.zarr/std")[:], std)
    done = run("regress", points, *words, "-o", tmp_path / "e.zarr")
    assert "exists already" in done.stderr
    again = (*words, "-o", tmp_path / "e.zarr", "--resume", "--json")
    assert json.loads(run("regress", points, *again).stdout)["blocks_skipped"] == 8
    some = tmp_path / "given.zarr"
    zarr.create_array(some, data=rows[:, [2, 0]], chunks=(500, 2))
    done = run("regress", some, *words, "-o", tmp_path / "g.zarr", "--spread", "none")
    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "g.zarr/mean")[:], mean)
    assert not (tmp_path / "g.zarr/std").exists()
    done = run("regress", points, "-m", model, "--given", "x", "-o", tmp_path / "h.zarr")
    assert "--given names the feature 'x'" in done.stderr


@pytest.mark.slow
def test_regress_a_table(tmp_path: Path, run: Run) -> None:
    rows = np.random.default_rng(0).normal(size=(900, 3))
    frame = pd.DataFrame(rows, columns=["g", "r", "z"]).assign(id=np.arange(900))
    frame.to_parquet(tmp_path / "x.parquet", row_group_size=200)
    fit = ("-k", 2, "--seed", 0, "--columns", "g,r,z", "-o", tmp_path / "m.zarr", "-q")
    assert run("fit", tmp_path / "x.parquet", *fit).exit_code in (0, 3)
    words = ("-m", tmp_path / "m.zarr", "--given", "r,g", "--keep", "id")
    frame[["r", "id", "g"]].to_parquet(tmp_path / "given.parquet", row_group_size=200)
    done = run("regress", tmp_path / "given.parquet", *words, "-o", tmp_path / "y.parquet")
    assert done.exit_code == 0, done.stderr
    found = pd.read_parquet(tmp_path / "y.parquet")
    assert list(found) == ["id", "z", "z_std"]
    gm = GaussianMixture.load(tmp_path / "m.zarr")
    mean = gm.predict_regression(frame, given=["r", "g"])
    np.testing.assert_array_equal(found[["z"]], mean)


def test_predict_instead_of_labels(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    gm, rows = GaussianMixture.load(model), np.asarray(zarr.open_array(points)[:])
    done = run("predict", points, "-m", model, "-o", tmp_path / "t.zarr", "--top-k", 2)
    assert done.exit_code == 0, done.stderr
    assert "(labels, posteriors)" in done.stdout
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "t.zarr/labels")[:], gm.top_k(rows, 2)[0]
    )
    words = ("predict", points, "-m", model, "-o", tmp_path / "a.zarr", "--json")
    found = json.loads(run(*words, "--false-alarm-rate", 0.01).stdout)
    threshold = gm.anomaly_threshold(false_alarm_rate=0.01)
    assert found["anomaly_threshold"] == threshold.log_density
    flags = gm.predict_anomaly(rows, threshold)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr/anomaly")[:], flags)
    score = ("score", points, "-m", model, "--false-alarm-rate", 0.01)
    assert "1 % of the rows lie below" in run(*score).stdout
    by_data = json.loads(run(*score, "--json").stdout)["anomaly_threshold"]
    assert by_data == gm.anomaly_threshold(rows, false_alarm_rate=0.01).log_density
    done = run(*words, "--anomaly-threshold", by_data, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert np.asarray(zarr.open_array(tmp_path / "a.zarr/anomaly")[:]).sum() == 40


def test_mistakes(points: Path, model: Path, tmp_path: Path, run: Run) -> None:
    words = ("predict", points, "-m", model, "-o", tmp_path / "x.zarr")
    done = run(*words, "--top-k", 2, "--probabilities")
    assert done.exit_code == 2
    assert "each say what to write: give one" in done.stderr
    assert "from 1 to 3" in run(*words, "--top-k", 4).stderr
    assert run(*words, "--false-alarm-rate", 1).exit_code == 2
    zarr.create_array(tmp_path / "y.zarr", data=np.zeros(3))
    done = run(*words[:-1], tmp_path / "y.zarr", "--top-k", 2)
    assert "holds a Zarr array" in done.stderr
