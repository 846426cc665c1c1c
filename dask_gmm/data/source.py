"""`open_source`: whatever a user may pass, as a `Source`; metadata reads only."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import zarr
from zarr.abc.store import Store

from dask_gmm.data.base import Source
from dask_gmm.data.conventions import NO_MARKS, Remedies, attributes_of, chosen_fill, marks_of
from dask_gmm.data.conversion import frame_layout, kind_of, partition_rows, plain_array
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.grid import BlockRef
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.open_weights import with_weights, with_where
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.stores import MissingChunks, check_missing_chunks, store_spec
from dask_gmm.data.urls import scheme_of
from dask_gmm.data.zarr_open import find_by_url, find_in_node, find_in_store
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "BlockRef",
    "DaskSource",
    "NumpySource",
    "Source",
    "ZarrSource",
    "is_remote",
    "open_memory",
    "open_source",
    "with_weights",
    "with_where",
]


def open_source(
    X: Any,
    *,
    feature_axis: int | str = -1,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: str = "error",
    array: str | None = None,
    block_rows: int | None = None,
    sample_weight: Any = None,
    where: Any = None,
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
    sample_weight : array, collection, name, path or URL, optional
        The weight of each row, of the samples' shape; see `dask_gmm.data.open_weights`. A row of
        weight zero is absent.
    where : array, collection, name, path or URL, optional
        True for the rows that take part; opened as `sample_weight`.

    Returns
    -------
    Source
        Nothing but metadata has been read.

    Raises
    ------
    InputError
        If the input has no rows and features, or no real numbers, or options do not fit it.
    SampleWeightError
        A weight that is in memory is negative, no number, or beyond the range.
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If a path or URL leads nowhere, not to that array, or does not answer.
    """
    policy = check_missing_chunks(missing_chunks)
    if sample_weight is None and where is None:
        return _open_rows(X, feature_axis, storage_options, policy, array, block_rows)
    # One set of options serves data and weights, whichever of them lie behind a URL.
    elsewhere = is_remote(sample_weight) or is_remote(where)
    own = storage_options if is_remote(X) or not elsewhere else None
    source = _open_rows(X, feature_axis, own, policy, array, block_rows)
    options: dict[str, Any] = {"storage_options": storage_options, "missing_chunks": policy}
    if where is not None:
        source = with_where(source, where, **options)
    return source if sample_weight is None else with_weights(source, sample_weight, **options)


def is_remote(X: Any) -> bool:
    """Whether X is a URL of something that is not on this machine's disks."""
    return isinstance(X, str | os.PathLike) and scheme_of(os.fspath(X)) != "file"


def _open_rows(
    X: Any,
    feature_axis: int | str,
    storage_options: Mapping[str, Any] | None,
    policy: MissingChunks,
    array: str | None,
    block_rows: int | None,
) -> Source:
    if isinstance(X, str | os.PathLike):
        return find_by_url(store_spec(X, storage_options, policy), array).source(feature_axis)
    if storage_options:
        raise InputError(
            f"storage_options go with a path or URL, not with a {type(X).__name__} that is "
            f"already open."
        )
    if isinstance(X, zarr.Array | zarr.Group):
        return find_in_node(X, missing_chunks=policy, array=array).source(feature_axis)
    if isinstance(X, Store):
        return find_in_store(X, missing_chunks=policy, array=array).source(feature_axis)
    if array is not None:
        raise InputError(f"array={array!r} names an array of a Zarr group; X is {kind_of(X)}.")
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(X, xarray.Dataset):
        raise InputError(
            "X is an xarray.Dataset: pass one variable, or make its variables the features by "
            "`X.to_dataarray('feature')` and feature_axis='feature'."
        )
    if xarray is not None and isinstance(X, xarray.DataArray):
        return _open_dataarray(X, feature_axis, block_rows)
    if isinstance(X, da.Array):
        return DaskSource.of(X, feature_axis)
    if kind_of(X).startswith("dask.") and hasattr(X, "to_dask_array"):
        return _open_lazy_frame(X, feature_axis)
    return open_memory(X, plain_array(X, _memory_name(X)), feature_axis, block_rows=block_rows)


def open_memory(
    X: Any, array: NDArray[Any], feature_axis: int | str = -1, *, block_rows: int | None = None
) -> NumpySource:
    """Describe what lies in memory, and what its attributes say of its values if it has some.

    Parameters
    ----------
    X : array-like or frame
        What the user passed.
    array : ndarray
        The same as an array.
    """
    name = _memory_name(X)
    source = NumpySource.of(array, feature_axis, name=name, block_rows=block_rows)
    marks = NO_MARKS
    if name != "DataFrame":
        marks = marks_of(attributes_of(X), array.dtype, name, Remedies("X[...]", "X[...]"))
    return replace(source, marks=marks)


def _memory_name(X: Any) -> str:
    return "DataFrame" if frame_layout(X) is not None else "NumPy array"


def _open_lazy_frame(X: Any, feature_axis: int | str) -> Source:
    """Describe a Dask DataFrame; a Series is one column, and says so."""
    if X.ndim == 1:
        raise InputError(
            "Expected 2D array, got 1D array instead: X is a Dask Series. Pass `X.to_frame()`."
        )
    layout = frame_layout(X._meta)
    assert layout is not None
    if not layout.plain:
        X = X.map_partitions(partition_rows, meta=partition_rows(X._meta))
    source = DaskSource.of(X.to_dask_array(), feature_axis, name="Dask DataFrame")
    return replace(source, feature_names=layout.names)


def _open_dataarray(X: Any, feature_axis: int | str, block_rows: int | None) -> Source:
    names = [str(dim) for dim in X.dims]
    name = f"DataArray {X.name!r}" if X.name is not None else "DataArray"
    check_complete(X.attrs, name)
    if X.chunks is None and not X._in_memory:
        # Opened lazily without Dask: reading .values would load all of it.
        X = X.chunk({})
    source: DaskSource | NumpySource
    if X.chunks is not None:
        source = DaskSource.of(
            X.data, feature_axis, name=name, axis_names=names, conventions=(NO_MARKS, None)
        )
    else:
        source = NumpySource.of(
            plain_array(X.data, name),
            feature_axis,
            name=name,
            axis_names=names,
            block_rows=block_rows,
        )
    marks = marks_of(X.attrs, source.dtype, name, _LABELLED, decoded=X.encoding)
    fill = None if marks.values else chosen_fill(X.encoding.get("fill_value"), source.dtype)
    dim = X.dims[source.feature_axis]
    labels = X.coords[dim].values.tolist() if dim in X.coords else [None]
    return replace(source, marks=marks, fill=fill, feature_names=_all_strings(labels))


_LABELLED = Remedies(
    "X", "X.drop_attrs()", "xarray.decode_cf(X.to_dataset(name='decoded'))['decoded']"
)


def _all_strings(labels: Sequence[Any]) -> tuple[str, ...] | None:
    """Return labels as names if all are strings, which is what scikit-learn takes for names."""
    return tuple(labels) if all(isinstance(label, str) for label in labels) else None
