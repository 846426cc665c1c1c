"""`--noise` and `--degrees-of-freedom`: what comes of them is what the library makes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture, StudentTMixture, load_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def cluttered(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(900, 2)), rng.uniform(-30, 30, size=(300, 2))])
    path = folder / "cluttered.zarr"
    zarr.create_array(path, data=rows, chunks=(400, 2))
    return path


def test_noise(cluttered: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "m.zarr"
    done = run("fit", cluttered, "-k", 1, "--seed", 0, "--noise", "-o", model, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    gm = GaussianMixture(1, noise=True, random_state=0).fit(cluttered)
    assert printed["noise_weight"] == pytest.approx(float(gm.noise_weight_))
    assert f"{float(gm.noise_weight_):.3g} of the rows" in run("show", model).stdout
    assert run("predict", cluttered, "-m", model, "-o", tmp_path / "l.zarr").exit_code == 0
    labels = np.asarray(zarr.open_array(tmp_path / "l.zarr", mode="r")[:])
    np.testing.assert_array_equal(labels, gm.predict(cluttered))
    words = ("-k", "1:2", "--seed", 0, "--noise", "--json")
    assert json.loads(run("select", cluttered, *words).stdout)["best_n_components"] == 1


def test_t_distributions(cluttered: Path, tmp_path: Path, run: Run) -> None:
    model = tmp_path / "m.zarr"
    words = ("--degrees-of-freedom", "each", "--seed", 0, "-o", model, "--json")
    done = run("fit", cluttered, "-k", 1, *words)
    assert done.exit_code in (0, 3), done.stderr
    printed = json.loads(done.stdout)
    tm = StudentTMixture(1, random_state=0).fit(cluttered)
    np.testing.assert_allclose(printed["degrees_of_freedom"], tm.degrees_of_freedom_)
    assert isinstance(load_mixture(model), StudentTMixture)
    scored = json.loads(run("score", cluttered, "-m", model, "--json").stdout)
    assert scored["score"] == pytest.approx(tm.score(cluttered))
    told = run("fit", cluttered, "-k", 1, "--degrees-of-freedom", 4, "--seed", 0)
    assert "degrees of freedom  4" in told.stdout
    assert " scale " in told.stdout
    assert "standard deviation" not in told.stdout
    page = tmp_path / "fit.html"
    done = run("fit", cluttered, "-k", 1, *words[:4], "--report", page)
    assert done.exit_code in (0, 3), done.stderr
    assert "Mixture of 1 t component" in page.read_text(encoding="utf-8")
    later = run("report", model, cluttered, "-o", tmp_path / "later.html")
    assert later.exit_code == 0, later.stderr
