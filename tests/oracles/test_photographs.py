"""Real input: the pixels of scikit-learn's photographs, against scikit-learn on the whole array.

All their pixels in the slow tests; in the fast ones every third line and column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sklearn.mixture
import zarr
from sklearn.datasets import load_sample_image
from sklearn.exceptions import ConvergenceWarning

from dask_gmm import GaussianMixture
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

CHUNKS = (1_000, 10_007, 300_000)
PHOTOGRAPHS = [
    pytest.param((name, step), id=f"{name}, every {step}", marks=marks)
    for name in ("china.jpg", "flower.jpg")
    for step, marks in ((3, ()), (1, pytest.mark.slow))
]
RELATIVE = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def settings(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Eight pixels far apart as means, and twelve iterations."""
    rng = np.random.default_rng(0)
    return {
        "n_components": 8,
        "means_init": pixels[rng.choice(len(pixels), 8, replace=False)].astype(float),
        "precisions_init": np.stack([np.eye(3) / 400.0] * 8),
        "weights_init": np.full(8, 1 / 8),
        "max_iter": 12,
        "tol": 0.0,
    }


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def photograph(request: pytest.FixtureRequest) -> tuple[NDArray[np.uint8], Any]:
    """A photograph's pixels, and scikit-learn's fit of them."""
    name, step = request.param
    pixels = load_sample_image(name)[::step, ::step].reshape(-1, 3)
    with pytest.warns(ConvergenceWarning):
        theirs = sklearn.mixture.GaussianMixture(**settings(pixels)).fit(pixels.astype(float))
    return pixels, theirs


def write(path: Path, pixels: NDArray[np.uint8], rows: int) -> str:
    """Write the pixels to a Zarr array with chunks of so many rows."""
    array = zarr.create_array(path, shape=pixels.shape, chunks=(rows, 3), dtype="uint8")
    array[...] = pixels
    return str(path)


def assert_same_mixture(ours: GaussianMixture, theirs: Any) -> None:
    """Equal to the relative precision that the project promises, iteration for iteration."""
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=RELATIVE)
    np.testing.assert_allclose(ours.weights_, theirs.weights_, rtol=RELATIVE)
    scale = np.sqrt(np.diagonal(theirs.covariances_, axis1=1, axis2=2))
    # In σ: a black cluster's mean is 0, and nothing is small relative to that.
    assert np.max(np.abs(ours.means_ - theirs.means_) / scale) < RELATIVE
    error = np.abs(ours.covariances_ - theirs.covariances_)
    assert np.max(error / (scale[:, :, None] * scale[:, None, :])) < RELATIVE


@pytest.mark.parametrize("rows", quick_ones(CHUNKS, [10_007]))
def test_in_process(photograph: tuple[NDArray[np.uint8], Any], rows: int, tmp_path: Path) -> None:
    pixels, theirs = photograph
    ours = GaussianMixture(**settings(pixels), acceleration=None).fit(
        write(tmp_path / "pixels", pixels, rows)
    )
    assert_same_mixture(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("rows", CHUNKS)
def test_on_a_cluster(
    photograph: tuple[NDArray[np.uint8], Any],
    rows: int,
    tmp_path: Path,
    two_processes: Client,
) -> None:
    pixels, theirs = photograph
    path = write(tmp_path / "pixels", pixels, rows)
    with two_processes.as_current():
        ours = GaussianMixture(**settings(pixels), acceleration=None).fit(path)
    assert ours.history_[0].tasks > 1
    assert_same_mixture(ours, theirs)
