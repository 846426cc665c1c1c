"""`--features`: several arrays of a group, from every command that reads data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata")


@pytest.fixture(scope="module")
def argo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    regime = np.repeat([0.0, 5.0], 200)
    profiles = xr.Dataset(
        {
            "TEMP": (("time", "depth"), regime[:, None] + rng.normal(size=(400, 3))),
            "PSAL": (("depth", "time"), 35 + 0.1 * rng.normal(size=(3, 400))),
            "weight": ("time", np.tile([0.0, 1.0], 200)),
        },
        coords={"depth": [5.0, 10.0, 20.0], "time": np.arange(400)},
    )
    path = tmp_path_factory.mktemp("argo") / "argo.zarr"
    chunks = {"TEMP": {"chunks": (100, 3)}, "PSAL": {"chunks": (3, 50)}}
    profiles.to_zarr(path, zarr_format=3, encoding=chunks)
    return path


WHAT = ("--features", "TEMP,PSAL", "--feature-axis", "depth")


def test_every_command_reads_them(argo: Path, tmp_path: Path, run: Run) -> None:
    model, out = tmp_path / "m.zarr", tmp_path / "out.zarr"
    done = run("fit", argo, *WHAT, "-k", 2, "--seed", 0, "--weights", "weight", "-o", model)
    assert done.exit_code == 0, done.stderr
    theirs = GaussianMixture(2, features=["TEMP", "PSAL"], feature_axis="depth", random_state=0)
    theirs.fit(argo, sample_weight="weight")
    ours = GaussianMixture.load(model)
    np.testing.assert_array_equal(ours.means_, theirs.means_)
    assert ours.feature_names_in_[1] == "TEMP[depth=10.0]"
    planned = json.loads(run("plan", argo, *WHAT, "-k", 2, "--json").stdout)
    assert (planned["n_features"], planned["n_blocks"], planned["reader"]) == (6, 4, "direct")
    chosen = run("select", argo, *WHAT, "-k", "1:2", "--seed", 0, "--covariance", "diag")
    assert chosen.exit_code == 0, chosen.stderr
    scored = json.loads(run("score", argo, *WHAT, "-m", model, "--json").stdout)
    assert scored["score"] == theirs.score(argo)
    written = run("predict", argo, *WHAT, "-m", model, "-o", out)
    assert written.exit_code == 0, written.stderr
    assert "out.zarr/labels" in written.stdout
    labels = xr.open_zarr(out)["labels"]
    assert labels.dims == ("time",)
    np.testing.assert_array_equal(labels["time"], np.arange(400))
    np.testing.assert_array_equal(labels, theirs.predict(argo))
    again = run("predict", argo, *WHAT, "-m", model, "-o", out)
    assert again.exit_code == 1
    assert "labels exists already" in again.stderr
    words = ("-m", model, "-o", out, "--overwrite", "--probabilities")
    assert run("predict", argo, *WHAT, *words).exit_code == 0
    assert set(xr.open_zarr(out)) == {"labels", "posteriors"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--features", "TEMP,weight"), "--feature-axis 'depth'"),
        (("--features", "TEMP,X"), "has no array 'X'"),
        (("--features", "TEMP,,X"), "is no list of names: write a,b,c"),
        (("--array", "TEMP", "--features", "TEMP"), "--features TEMP both say what to read"),
        ((), "pass --array NAME, or --features NAME,NAME for several"),
        (("--features", "TEMP", "--feature-axis", "0"), "name that of the features"),
    ],
)
def test_mistakes_are_answered_in_options(
    words: tuple[str, ...], message: str, argo: Path, run: Run
) -> None:
    done = run("fit", argo, "-k", 2, *words)
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())


def test_other_variables_than_the_models_are_refused(argo: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "m.zarr"
    run("fit", argo, *WHAT, "-k", 2, "-o", model)
    swapped = ("--features", "PSAL,TEMP", "--feature-axis", "depth")
    done = run("predict", argo, *swapped, "-m", model, "-o", tmp_path / "out.zarr")
    assert done.exit_code == 1
    assert "X has PSAL[depth=5.0]" in done.stderr
    assert not (tmp_path / "out.zarr").exists()


def test_with_a_mask_and_gaps(argo: Path, tmp_path: Path, run: Run) -> None:
    values = xr.open_zarr(argo).load()
    rng = np.random.default_rng(1)
    values["sea"] = ("time", rng.random(400) < 0.7)
    for name in ("TEMP", "PSAL"):
        values[name] = values[name].where(rng.random(values[name].shape) < 0.8)
    packing = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -32768}
    data, model, out = tmp_path / "argo.zarr", tmp_path / "m.zarr", tmp_path / "out.zarr"
    kept = values.drop_encoding()
    kept.to_zarr(data, zarr_format=3, encoding={"TEMP": packing, "PSAL": packing})
    gaps, sea = ("--missing", "marginalize"), ("--where", "sea")
    theirs = GaussianMixture(
        2, features=["TEMP", "PSAL"], feature_axis="depth", random_state=0, missing="marginalize"
    ).fit(data, where="sea")
    done = run("fit", data, *WHAT, *sea, *gaps, "-k", 2, "--seed", 0, "-o", model)
    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(GaussianMixture.load(model).means_, theirs.means_)
    done = run("predict", data, *WHAT, *sea, *gaps, "-m", model, "-o", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["features"] == ["TEMP", "PSAL"]
    done = run("impute", data, *WHAT, "-m", model, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert "out.zarr/imputed" in done.stdout
    written = xr.open_zarr(out)
    assert set(written.data_vars) == {"labels", "imputed"}
    assert np.isfinite(written["imputed"].values).all()
    np.testing.assert_array_equal(written["labels"] == -1, ~values["sea"])
    scored = json.loads(run("score", data, *WHAT, *sea, *gaps, "-m", model, "--json").stdout)
    assert scored["score"] == theirs.score(data, where="sea")
    for command in (("plan",), ("select", "--covariance", "diag", "--seed", 0)):
        done = run(*command, data, *WHAT, *sea, *gaps, "-k", "1" if command[0] == "plan" else "1:2")
        assert done.exit_code == 0, done.stderr
