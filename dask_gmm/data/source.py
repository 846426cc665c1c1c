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
from dask_gmm.data.frames import as_frame, narrowed
from dask_gmm.data.grid import BlockRef
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.open_weights import with_weights
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.stores import MissingChunks, StoreSpec, check_missing_chunks, store_spec
from dask_gmm.data.tables.find import holds_parquet, is_table
from dask_gmm.data.tables.open import is_dataset, open_dataset, open_table
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import scheme_of
from dask_gmm.data.zarr_open import find_by_url, find_in_node, find_in_store
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import InputError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "BlockRef",
    "DaskSource",
    "NumpySource",
    "ParquetSource",
    "Source",
    "ZarrSource",
    "is_remote",
    "open_memory",
    "open_source",
    "with_weights",
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
    columns: Sequence[str] | None = None,
    fitted_columns: Sequence[str] | None = None,
) -> Source:
    """Describe an input as blocks of rows.

    Parameters
    ----------
    X : array, collection, path or URL
        A NumPy array or whatever `numpy.asarray` takes, a frame of pandas, polars or Arrow, a
        `dask.array` or Dask DataFrame, an `xarray.DataArray`, a `zarr.Array` or `zarr.Group`, the
        path or URL of a Zarr array or group, or that of a Parquet table: a file, a folder of files,
        or a pattern. Any number of axes from two up: one holds the features, the others, flattened
        in C order block by block, are the rows.
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
        weight zero is absent. Of a table also the name of a column, which then is no feature.
    columns : sequence of str, optional
        The columns of a table that are features, in this order; by default all of them.
    fitted_columns : sequence of str, optional
        Their names where something was fitted before: the default for a stored table, which may
        have other columns too and in any order, and nothing else.

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
    # One set of options serves data and weights, whichever of them lie behind a URL.
    own = storage_options if is_remote(X) or not is_remote(sample_weight) else None
    place = _table_place(X, columns, feature_axis, own, policy, array)
    wanted = fitted_columns if columns is None else columns
    source: Source
    if is_dataset(X):
        source, sample_weight = open_dataset(X, wanted, sample_weight)
    elif place is not None:
        source, sample_weight = open_table(place, wanted, sample_weight)
    else:
        X, sample_weight = narrowed(as_frame(X), columns, sample_weight)
        try:
            source = _open_rows(X, feature_axis, own, policy, array, block_rows)
        except StoreNotFoundError:
            # Of a prefix in an object store only a listing tells that it is a table.
            spec = store_spec(X, own, policy) if is_remote(X) and array is None else None
            if spec is None or not holds_parquet(spec):
                raise
            source, sample_weight = open_table(spec, wanted, sample_weight)
    if sample_weight is None:
        return source
    return with_weights(
        source, sample_weight, storage_options=storage_options, missing_chunks=policy
    )


def is_remote(X: Any) -> bool:
    """Whether X is a URL of something that is not on this machine's disks."""
    return isinstance(X, str | os.PathLike) and scheme_of(os.fspath(X)) != "file"


def _table_place(
    X: Any,
    columns: Sequence[str] | None,
    feature_axis: int | str,
    storage_options: Mapping[str, Any] | None,
    policy: MissingChunks,
    array: str | None,
) -> StoreSpec | None:
    """Return the place of a Parquet table; None for what is none, or does not look like one."""
    if not isinstance(X, str | os.PathLike):
        return None
    spec = store_spec(X, storage_options, policy)
    if columns is None and not is_table(spec.url):
        return None
    for name, value, plain in (
        ("feature_axis", feature_axis, feature_axis in (-1, 1)),
        ("array", array, array is None),
        ("missing_chunks", policy, policy == "error"),
    ):
        if not plain:
            raise InputError(
                f"{name}={value!r} is for Zarr arrays and says nothing of {spec.url}, which is "
                f"{'a Parquet table' if columns is None else 'a table, as columns= is given'}: "
                f"leave it out."
            )
    return spec


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
