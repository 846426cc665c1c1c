"""A small image in every kind of container, for the tests of the estimators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FITTED = ("weights_", "means_", "covariances_", "precisions_cholesky_", "lower_bounds_")


def fitted_bits(gm: GaussianMixture) -> list[bytes]:
    return [np.asarray(getattr(gm, name)).tobytes() for name in FITTED]


def fit(X: Any, **settings: Any) -> Any:
    return GaussianMixture(2, **{"random_state": 0, **settings}).fit(X)


def kinds(cube: NDArray[np.float64], folder: Path) -> dict[str, tuple[Any, dict[str, Any]]]:
    """The same blocks of pixels in every kind of container, 10 × 25 pixels each."""
    v2, v3, sharded = (str(folder / name) for name in ("v2.zarr", "v3.zarr", "sharded.zarr"))
    zarr.create_array(v2, data=cube, chunks=(3, 10, 25), zarr_format=2)
    zarr.create_array(v3, data=cube, chunks=(1, 10, 25))
    zarr.create_array(sharded, data=cube, chunks=(3, 5, 25), shards=(3, 10, 25))
    group = zarr.create_group(str(folder / "group.zarr"))
    group.create_array("bands", data=cube, chunks=(3, 10, 25))
    group.create_array("other", data=np.zeros(3))
    lazy = da.from_array(cube, chunks=(3, 10, 25))
    last = np.ascontiguousarray(np.moveaxis(cube, 0, -1))
    return {
        "dask": (lazy, {"feature_axis": 0}),
        "dask, features chunked": (da.from_array(cube, chunks=(1, 10, 25)), {"feature_axis": 0}),
        "dask, features last": (da.from_array(last, chunks=(10, 25, 3)), {}),
        "xarray": (xr.DataArray(lazy, dims=("band", "y", "x")), {"feature_axis": "band"}),
        "zarr v2": (v2, {"feature_axis": 0}),
        "zarr v3": (v3, {"feature_axis": 0}),
        "zarr, sharded": (sharded, {"feature_axis": 0}),
        "zarr group": (str(folder / "group.zarr"), {"feature_axis": 0, "array": "bands"}),
        "zarr array": (zarr.open_array(v3, mode="r"), {"feature_axis": 0}),
    }
