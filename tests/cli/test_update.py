"""`dask-gmm update`: new rows for a model, by passes over them alone or by one step."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def rows(n: int, seed: int, by: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice([-4.0, 4.0], size=(n, 1)) + rng.normal(size=(n, 2)) + [by, 0.0]


@pytest.fixture(scope="module")
def places(folder: Path, run: Run) -> dict[str, Path]:
    found = {name: folder / f"{name}.update.zarr" for name in ("old", "new", "model")}
    zarr.create_group(found["old"]).create_array("x", data=rows(600, 0), chunks=(100, 2))
    group = zarr.create_group(found["new"])
    group.create_array("x", data=rows(300, 1), chunks=(100, 2))
    group.create_array("w", data=np.full(300, 2.0), chunks=(300,))
    words = ("--array", "x", "-k", 2, "--seed", 0, "-o", found["model"])
    assert run("fit", found["old"], *words).exit_code == 0
    return found


def test_it_does_as_the_estimator_does(places: dict[str, Path], tmp_path: Path, run: Run) -> None:
    new, out = tmp_path / "m.zarr", places["new"]
    words = ("update", out, "--array", "x", "--weights", "w", "-m", places["model"], "-o", new)
    done = run(*words, "--tol", 1e-6, "--check", places["old"], "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    gm = GaussianMixture.load(places["model"]).set_params(tol=1e-6, array="x")
    gm.update(out, sample_weight="w", check=places["old"])
    assert printed["means"] == gm.means_.tolist()
    assert (printed["n_updates"], printed["n_rows"], printed["n_rows_fitted"]) == (1, 300, 900)
    assert printed["drift"] == vars(gm.drift_)
    written = GaussianMixture.load(new)
    assert (written.tol, written.drift_, written.n_rows_) == (1e-3, gm.drift_, 900)
    shown = run("show", new)
    assert shown.exit_code == 0
    assert "900 rows" in shown.stdout
    assert "came after a fit to 600 rows" in " ".join(shown.stdout.split())
    card = json.loads(run("show", new, "--card").stdout)
    assert [one["kind"] for one in card["fit"]["updates"]["runs"]] == ["fit", "update"]


def test_a_stream_goes_on_in_one_place(places: dict[str, Path], tmp_path: Path, run: Run) -> None:
    new, words = tmp_path / "m.zarr", (places["new"], "--array", "x", "--online")
    assert run("update", *words, "-m", places["model"], "-o", new).exit_code == 0
    refused = run("update", *words, "-m", new, "-o", new)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    done = run("update", *words, "-m", new, "-o", new, "--half-life", 100, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert "took in 2 batches" in done.stdout
    gm = GaussianMixture.load(places["model"]).partial_fit(rows(300, 1))
    gm.partial_fit(rows(300, 1), half_life=100)
    np.testing.assert_array_equal(GaussianMixture.load(new).means_, gm.means_)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--online", "--tol", 1), "--tol means nothing with --online"),
        (("--online", "--max-iter", 1), "--max-iter means nothing with --online"),
        (("--online", "--check", "x"), "--check means nothing with --online"),
        (("--online", "--checkpoint", "x"), "--checkpoint means nothing with --online"),
        (("--exponent", 0.7), "--exponent is one of --online"),
        (("--half-life", 7), "--half-life is one of --online"),
        (("--online", "--half-life", 7, "--exponent", 1), "--half-life takes the place"),
    ],
)
def test_options_that_do_not_go_together(
    given: tuple[Any, ...], said: str, places: dict[str, Path], run: Run
) -> None:
    done = run("update", places["old"], "-m", places["model"], "-o", "nowhere.zarr", *given)
    assert done.exit_code == 2
    assert said in done.stderr


def test_what_cannot_be_updated_is_told(
    places: dict[str, Path], tmp_path: Path, points: Path, run: Run
) -> None:
    where = ("--array", "x", "-m", places["model"], "-o", tmp_path / "m.zarr")
    done = run("update", points, *where[2:])
    assert done.exit_code == 1
    assert "has 3 features" in done.stderr
    done = run("update", places["old"], "-m", places["model"], "-o", places["old"])
    assert done.exit_code == 1
    done = run("update", places["old"], *where, "--check", places["new"])
    assert done.exit_code == 1
    assert "check has 300 rows" in done.stderr
    done = run("update", places["old"], "--max-iter", 1, *where)
    assert done.exit_code == 3
    assert GaussianMixture.load(tmp_path / "m.zarr").n_rows_ == 1200
