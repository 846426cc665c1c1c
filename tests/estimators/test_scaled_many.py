"""Many arrays, scaled as one: whatever is asked of them is what it is of arrays scaled before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture, select_gaussian_mixture

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client
    from numpy.typing import NDArray

COFACTOR = 150.0


def samples() -> dict[str, NDArray[np.float64]]:
    """Raw rows of four samples: two populations, in parts and numbers of rows that differ."""
    rng, found = np.random.default_rng(0), {}
    for number, n in enumerate((120, 300, 60, 240)):
        part = rng.random(n) < 0.2 + 0.2 * number
        rows = rng.standard_normal((n, 3)) + np.where(part, 6.0, 0.0)[:, None]
        found[f"s{number}"] = COFACTOR * np.sinh(rows)
    return found


def before(arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    return {name: np.arcsinh(rows / COFACTOR) for name, rows in arrays.items()}


@pytest.fixture(scope="module")
def pair() -> tuple[GaussianMixture, GaussianMixture]:
    """A mixture that scales, and one of rows that were scaled before."""
    equal: dict[str, Any] = {"sample_weight": "equal-per-array"}
    scales = GaussianMixture(2, feature_transform=("arcsinh", COFACTOR), random_state=0)
    plain = GaussianMixture(2, random_state=0)
    return scales.fit(samples(), **equal), plain.fit(before(samples()), **equal)


def stored(folder: Path) -> str:
    for name, rows in samples().items():
        zarr.create_array(folder / "in" / f"{name}.zarr", data=rows, chunks=(50, 3))
    return f"{folder}/in/s*.zarr"


def test_what_is_handed_back(pair: tuple[GaussianMixture, GaussianMixture]) -> None:
    scales, plain = pair
    raw, done = samples(), before(samples())
    np.testing.assert_allclose(scales.means_, plain.means_, rtol=1e-9, atol=1e-9)
    for method in ("predict", "predict_proba", "score_samples"):
        ours, theirs = getattr(scales, method)(raw), getattr(plain, method)(done)
        assert list(ours) == list(theirs)
        for name, expected in theirs.items():
            np.testing.assert_allclose(ours[name], expected, rtol=1e-9, atol=1e-9)
    for counts in (False, True):
        found = scales.proportions(raw, counts=counts)
        np.testing.assert_allclose(found[0], plain.proportions(done, counts=counts)[0], atol=1e-9)
    part = scales.proportions(raw)
    assert np.ptp(part[:, 0]) > 0.5  # 0.2, 0.4, 0.6 and 0.8 of them
    assert scales.score(raw) == pytest.approx(plain.score(done), abs=1e-9)


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_what_is_written(
    where: str,
    pair: tuple[GaussianMixture, GaussianMixture],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    scales, plain = pair
    places, output = stored(tmp_path), tmp_path / "labels.zarr"
    if where == "cluster":
        client: Client = request.getfixturevalue("two_processes")
        with client.as_current():
            scales.predict_to(places, output)
    else:
        scales.predict_to(places, output)
    done = before(samples())
    labels: Any = plain.predict(done)
    for name, expected in labels.items():
        np.testing.assert_array_equal(zarr.open_array(output / "labels" / name)[:], expected)
    table = xr.open_zarr(output)
    np.testing.assert_allclose(table["proportions"], plain.proportions(done), atol=1e-9)


def test_a_selection() -> None:
    found = select_gaussian_mixture(
        samples(),
        range(1, 4),
        covariance_types="full",
        sample_weight="equal-per-array",
        feature_transform=("arcsinh", COFACTOR),
        standardize=True,
        random_state=0,
    )
    assert found.best_n_components == 2
