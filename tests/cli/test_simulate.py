"""`simulate`: the same rows however they are written, and their truth beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.cli.synthetic import TILE, WIDEST, Recipe, Rows, draw_mixture
from dask_gmm.model_file import load_model

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

ROWS = 2 * TILE + 1234


def values(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(path, mode="r")[...])


@pytest.fixture(scope="module")
def plain(folder: Path, run: Run) -> Path:
    path = folder / "plain.zarr"
    assert run("simulate", path, "-n", ROWS, "-d", 4, "--seed", 7, "-q").exit_code == 0
    return path


@pytest.mark.parametrize(
    "words",
    [
        "--chunk 1000 --threads 1",
        "--chunk 10007 --compressor none",
        "--chunk 100kB --zarr-format 2 --compressor zstd",
        "--chunk 100kB --zarr-format 2 --compressor lz4",
        "--chunk 1000 --shard 5000 --compressor lz4",
        "--chunk 1000 --shard 200kB --compressor gzip",
    ],
)
def test_the_seed_alone_decides(words: str, plain: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.zarr"
    done = run("simulate", path, "-n", ROWS, "-d", 4, "--seed", 7, *words.split(), "-q")
    assert done.exit_code == 0, done.stderr
    np.testing.assert_array_equal(values(path), values(plain))


def test_another_seed_makes_other_rows(plain: Path, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.zarr"
    assert run("simulate", path, "-n", ROWS, "-d", 4, "--seed", 8, "-q").exit_code == 0
    assert not np.any(values(path) == values(plain))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * TILE), st.integers(0, 3 * TILE))
def test_any_part_of_the_rows_at_any_time(a: int, b: int) -> None:
    rows = Rows(draw_mixture(Recipe(3, 2, 3.0, "diag", 1)), 1, np.dtype("float32"))
    start, stop = sorted((a, b))
    whole = rows.between(0, 3 * TILE)
    np.testing.assert_array_equal(rows.between(start, stop), whole[start:stop])


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical"])
def test_the_rows_are_those_of_the_truth(covariance: str) -> None:
    truth = draw_mixture(Recipe(1, 3, 3.0, covariance, 0))
    rows = Rows(truth, 0, np.dtype("float64")).between(0, 20 * TILE)
    expected = truth.family.form.covariances(truth.precisions_cholesky)
    dense = {
        "full": lambda: expected[0],
        "tied": lambda: expected,
        "diag": lambda: np.diag(expected[0]),
        "spherical": lambda: expected[0] * np.eye(3),
    }[covariance]()
    np.testing.assert_allclose(rows.mean(axis=0), truth.means[0], atol=0.02)
    np.testing.assert_allclose(np.cov(rows.T), dense, atol=0.03)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 20), st.integers(1, 10), st.floats(0.5, 10), st.sampled_from(["full", "tied"])
)
def test_means_are_as_far_apart_as_asked(k: int, d: int, separation: float, name: str) -> None:
    truth = draw_mixture(Recipe(k, d, separation, name, 3))
    gaps = np.linalg.norm(truth.means[:, None] - truth.means[None], axis=2)
    closest = gaps[~np.eye(k, dtype=bool)].min()
    assert closest == pytest.approx(WIDEST * separation)
    assert truth.weights.min() >= 0.1 / k


def test_the_truth_lies_beside(plain: Path, run: Run) -> None:
    truth = load_model(plain.with_name("plain.truth.zarr"))
    assert truth.parameters == draw_mixture(Recipe(8, 4, 4.0, "full", 7))
    attributes = dict(zarr.open_array(plain, mode="r").attrs)
    recorded = attributes["simulated_by_dask_gmm"]
    assert isinstance(recorded, dict)
    assert recorded["seed"] == 7
    done = run("show", plain.with_name("plain.truth.zarr"))
    assert "the truth of simulated data" in done.stdout


def test_json(tmp_path: Path, run: Run) -> None:
    done = run("simulate", tmp_path / "x.zarr", "-n", "2k", "-d", 2, "-k", 2, "--json")
    printed = json.loads(done.stdout)
    assert (printed["n_rows"], printed["bytes"]) == (2000, 32_000)
    assert np.shape(printed["mixture"]["means"]) == (2, 2)


def test_overwrite_replaces_data_and_truth(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.zarr"
    assert run("simulate", path, "-n", 100, "-k", 2).exit_code == 0
    assert run("simulate", path, "-n", 200, "-k", 3).exit_code == 1
    assert run("simulate", path, "-n", 200, "-k", 3, "--overwrite").exit_code == 0
    assert values(path).shape == (200, 8)
    assert load_model(tmp_path / "x.truth.zarr").parameters.n_components == 3


def test_a_full_disk_leaves_nothing(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def between(self: Rows, start: int, stop: int) -> np.ndarray:
        if start:
            raise OSError(28, "No space left on device")
        return np.ones((stop - start, 8))

    monkeypatch.setattr(Rows, "between", between)
    done = run("simulate", tmp_path / "x.zarr", "-n", 1000, "--chunk", 100, "-q")
    assert done.exit_code == 1
    assert "The disk is full" in done.stderr
    assert list(tmp_path.iterdir()) == []
