"""`open_source`: whatever a user may pass, as a `Source`; metadata reads only."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr

from dask_gmm.data.base import Source
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.grid import BlockRef
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.stores import check_missing_chunks, store_spec
from dask_gmm.data.zarr_open import open_zarr_node, open_zarr_url
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["BlockRef", "DaskSource", "NumpySource", "Source", "ZarrSource", "open_source"]


def open_source(
    X: Any,
    *,
    feature_axis: int | str = -1,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: str = "error",
    array: str | None = None,
    block_rows: int | None = None,
) -> Source:
    """Describe an input as blocks of rows.

    Parameters
    ----------
    X : array, collection, path or URL
        A NumPy array or whatever `numpy.asarray` takes, a pandas DataFrame, a `dask.array` or Dask
        DataFrame, an `xarray.DataArray`, a `zarr.Array` or `zarr.Group`, or the path or URL of a
        Zarr array or group. Any number of axes from two up: one holds the features, the others,
        flattened in C order block by block, are the rows.
    feature_axis : int or str, default=-1
        Which axis holds the features; a dimension's name for xarray objects and for Zarr arrays
        that name their dimensions.
    storage_options : mapping, optional
        For URLs: endpoint, region, skip_signature (anonymous), timeouts; never credentials.
    missing_chunks : {"error", "fill"}, default="error"
        Whether a Zarr chunk that is not in the store is an error or holds the fill value.
    array : str, optional
        Name of the array in a Zarr group; may be left out if the group holds exactly one.
    block_rows : int, optional
        Most rows in a block of an in-memory array; by default as many as make 8 MiB.

    Returns
    -------
    Source
        Nothing but metadata has been read.

    Raises
    ------
    InputError
        If the input has no rows and features, or no real numbers, or options do not fit it.
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If a path or URL leads nowhere, not to that array, or does not answer.
    """
    policy = check_missing_chunks(missing_chunks)
    if isinstance(X, str | os.PathLike):
        spec = store_spec(X, storage_options, policy)
        return open_zarr_url(spec, feature_axis, array)
    if storage_options:
        raise InputError(
            f"storage_options go with a path or URL, not with a {type(X).__name__} that is "
            f"already open."
        )
    if isinstance(X, zarr.Array | zarr.Group):
        return open_zarr_node(X, feature_axis, missing_chunks=policy, array=array)
    if array is not None:
        raise InputError(f"array={array!r} names an array of a Zarr group; X is {_kind(X)}.")
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(X, xarray.Dataset):
        raise InputError(
            "X is an xarray.Dataset; pass one variable (X['name']), or stack them as features with "
            "X.to_dataarray('feature') and feature_axis='feature'."
        )
    if xarray is not None and isinstance(X, xarray.DataArray):
        return _open_dataarray(X, feature_axis, block_rows)
    if isinstance(X, da.Array):
        return DaskSource.of(X, feature_axis)
    if _kind(X).startswith("dask.") and hasattr(X, "to_dask_array"):
        _check_columns(X)
        frame = DaskSource.of(X.to_dask_array(), feature_axis, name="Dask DataFrame")
        return replace(
            frame, feature_names=_all_strings([column for column, _ in X.dtypes.items()])
        )
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(X, pandas.DataFrame):
        return NumpySource.of(
            _frame_values(X), feature_axis, name="DataFrame", block_rows=block_rows
        )
    return NumpySource.of(_array_of(X), feature_axis, block_rows=block_rows)


def _kind(X: Any) -> str:
    return f"{type(X).__module__}.{type(X).__qualname__}"


def _open_dataarray(X: Any, feature_axis: int | str, block_rows: int | None) -> Source:
    names = [str(dim) for dim in X.dims]
    name = f"DataArray {X.name!r}" if X.name is not None else "DataArray"
    if X.chunks is None and not X._in_memory:
        # Opened lazily without Dask: reading .values would load all of it.
        X = X.chunk({})
    source: DaskSource | NumpySource
    if X.chunks is not None:
        source = DaskSource.of(X.data, feature_axis, name=name, axis_names=names)
    else:
        source = NumpySource.of(
            _array_of(X.data), feature_axis, name=name, axis_names=names, block_rows=block_rows
        )
    dim = X.dims[source.feature_axis]
    if dim not in X.coords:
        return source
    return replace(source, feature_names=_all_strings(X.coords[dim].values.tolist()))


def _all_strings(labels: Sequence[Any]) -> tuple[str, ...] | None:
    """Return labels as names if all are strings, which is what scikit-learn takes for names."""
    return tuple(labels) if all(isinstance(label, str) for label in labels) else None


def _array_of(X: Any) -> NDArray[Any]:
    """Return X as a NumPy array, refusing what the conversion would silently change."""
    if isinstance(X, np.ma.MaskedArray):
        if np.ma.getmaskarray(X).any():
            raise InputError(
                "X is a masked array with masked values, which a mixture has no use for: drop or "
                "impute those rows, for example X[~X.mask.any(axis=1)]."
            )
        return np.asarray(X.data)
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise InputError(
            f"Sparse data was passed ({_kind(X)}), but dense data is required. Use X.toarray() to "
            f"convert it."
        )
    try:
        if isinstance(X, list | tuple) and any(isinstance(row, np.ma.MaskedArray) for row in X):
            return _array_of(np.ma.stack(X))  # asarray would read what lies under the masks
        return np.asarray(X)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"X ({_kind(X)}) cannot be made a NumPy array: {error}") from error


def _frame_values(frame: Any) -> NDArray[Any]:
    _check_columns(frame)
    values: NDArray[Any] = frame.to_numpy()
    if values.dtype == object:
        # Nullable columns: all are numeric, as was just checked, and NA is a missing number.
        values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _check_columns(frame: Any) -> None:
    """Refuse DataFrames with columns that are not numbers, by name."""
    import pandas as pd

    bad = [
        f"{column!r} ({dtype})"
        for column, dtype in frame.dtypes.items()
        if not pd.api.types.is_numeric_dtype(dtype) or pd.api.types.is_complex_dtype(dtype)
    ]
    if bad:
        raise InputError(
            f"A mixture needs real numbers, but the DataFrame has {_series(bad)}: drop or encode "
            f"them."
        )


def _series(items: Sequence[str]) -> str:
    noun = "column" if len(items) == 1 else "columns"
    shown = ", ".join(items[:5])
    return f"{noun} {shown}" + (f" and {len(items) - 5} more" if len(items) > 5 else "")
