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
from dask_gmm.data.conventions import attributes_of, decoding_of, suspicious_fill
from dask_gmm.data.conversion import frame_layout, kind_of, partition_rows, plain_array
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.decoding import Remedies
from dask_gmm.data.frames import as_frame, narrowed
from dask_gmm.data.grid import BlockRef
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.open_features import (
    check_features,
    is_dataset,
    open_dataset,
    open_stored_features,
)
from dask_gmm.data.open_weights import with_weights, with_where
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.stores import MissingChunks, StoreSpec, check_missing_chunks, store_spec
from dask_gmm.data.tables.find import holds_parquet, is_table
from dask_gmm.data.tables.open import is_arrow_dataset, open_arrow_dataset, open_table
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import scheme_of
from dask_gmm.data.zarr_open import FoundArray, find_by_url, find_in_node, find_in_store
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import InputError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    features: Sequence[str] | None = None,
    where: Any = None,
    columns: Sequence[str] | None = None,
    fitted_columns: Sequence[str] | None = None,
) -> Source:
    """Describe an input as blocks of rows.

    Parameters
    ----------
    X : array, collection, path or URL
        A NumPy array or whatever `numpy.asarray` takes, a frame of pandas, polars or Arrow, a
        `dask.array` or Dask DataFrame, an `xarray.DataArray` or `xarray.Dataset`, a `zarr.Array` or
        `zarr.Group`, the path or URL of a Zarr array or group, or that of a Parquet table: a file,
        a folder of files, or a pattern. Any number of axes from two up: one holds the features, the
        others, flattened in C order block by block, are the rows. Where attributes say that values
        are packed or missing, the rows are measurements, and NaN (see `conventions`).
    feature_axis : int or str, default=-1
        Which axis holds the features; a dimension's name for xarray objects and for Zarr arrays
        that name their dimensions. Of several variables it is the dimension along which each
        gives several features; -1 where each is one.
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
        weight zero is absent. Of a Dataset also the name of one of its variables, of a table that
        of a column, which then is no feature.
    features : sequence of str, optional
        Names of the arrays of a Zarr group, or the variables of a Dataset, that are the features,
        in their order: see `dask_gmm.data.open_features`. All data variables of a Dataset by
        default.
    where : array, collection, name, path or URL, optional
        True for the rows that take part; opened as `sample_weight`.
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
    names = None if features is None else check_features(features)
    if names is not None and array is not None:
        raise InputError(
            f"array={array!r} and features={names!r} both say what to read: leave one of them out."
        )
    beside = [sample_weight, where]
    # One set of options serves data and what lies beside them, whichever of them are URLs.
    own = storage_options if is_remote(X) or not any(map(is_remote, beside)) else None
    zarr_only = {"array": array, "features": names, "feature_axis": feature_axis}
    place = _table_place(X, columns, own, policy, zarr_only)
    wanted = fitted_columns if columns is None else columns
    source: Source
    if is_arrow_dataset(X):
        _refuse_zarr_only(zarr_only, policy, "a pyarrow Dataset")
        source, beside = open_arrow_dataset(X, wanted, beside)
    elif place is not None:
        source, beside = open_table(place, wanted, beside)
    else:
        if is_dataset(X):
            roles = zip(("weights", "mask"), beside, strict=True)
            beside = [_variable_in(X, role, item, names) for role, item in roles]
        X, beside = narrowed(as_frame(X), columns, beside)
        try:
            source = _open_rows(X, feature_axis, own, policy, array, block_rows, names)
        except StoreNotFoundError:
            # Of a prefix in an object store only a listing tells that it is a table.
            spec = store_spec(X, own, policy) if is_remote(X) and array is None else None
            if spec is None or names is not None or not holds_parquet(spec):
                raise
            source, beside = open_table(spec, wanted, beside)
    sample_weight, where = beside
    options: dict[str, Any] = {"storage_options": storage_options, "missing_chunks": policy}
    if where is not None:
        source = with_where(source, where, **options)
    return source if sample_weight is None else with_weights(source, sample_weight, **options)


def is_remote(X: Any) -> bool:
    """Whether X is a URL of something that is not on this machine's disks."""
    return isinstance(X, str | os.PathLike) and scheme_of(os.fspath(X)) != "file"


def _table_place(
    X: Any,
    columns: Sequence[str] | None,
    storage_options: Mapping[str, Any] | None,
    policy: MissingChunks,
    zarr_only: Mapping[str, Any],
) -> StoreSpec | None:
    """Return the place of a Parquet table; None for what is none, or does not look like one."""
    if not isinstance(X, str | os.PathLike):
        return None
    spec = store_spec(X, storage_options, policy)
    if columns is None and not is_table(spec.url):
        return None
    kind = "a Parquet table" if columns is None else "a table, as columns= is given"
    _refuse_zarr_only(zarr_only, policy, f"{spec.url}, which is {kind}")
    return spec


def _refuse_zarr_only(options: Mapping[str, Any], policy: MissingChunks, what: str) -> None:
    """Refuse for a table what names arrays, axes and chunks."""
    for name, value in (*options.items(), ("missing_chunks", policy)):
        if value in _PLAIN.get(name, (None,)):
            continue
        remedy = "name columns=['a', 'b'] instead" if name == "features" else "leave it out"
        raise InputError(
            f"{name}={value!r} is for Zarr arrays and says nothing of {what}: {remedy}."
        )


_PLAIN: dict[str, tuple[Any, ...]] = {"feature_axis": (-1, 1), "missing_chunks": ("error",)}


def _open_rows(
    X: Any,
    feature_axis: int | str,
    storage_options: Mapping[str, Any] | None,
    policy: MissingChunks,
    array: str | None,
    block_rows: int | None,
    features: list[str] | None,
) -> Source:
    if isinstance(X, str | os.PathLike):
        spec = store_spec(X, storage_options, policy)
        if features is not None:
            return open_stored_features(
                lambda name, fill: find_by_url(_filled(spec, fill=fill), name),
                features,
                feature_axis,
            )
        return find_by_url(spec, array).source(feature_axis)
    if storage_options:
        raise InputError(
            f"storage_options go with a path or URL, not with a {type(X).__name__} that is "
            f"already open."
        )
    if isinstance(X, zarr.Array | zarr.Group | Store):
        find: Callable[..., FoundArray] = find_in_store if isinstance(X, Store) else find_in_node
        if features is not None:
            return open_stored_features(
                lambda name, fill: find(X, missing_chunks="fill" if fill else policy, array=name),
                features,
                feature_axis,
            )
        return find(X, missing_chunks=policy, array=array).source(feature_axis)
    if array is not None:
        raise InputError(f"array={array!r} names an array of a Zarr group; X is {kind_of(X)}.")
    if is_dataset(X):
        return open_dataset(X, features, feature_axis, block_rows)
    if features is not None:
        raise InputError(
            f"features={features!r} names arrays of a Zarr group or variables of a Dataset; X is "
            f"{kind_of(X)}."
        )
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(X, xarray.DataArray):
        return _open_dataarray(X, feature_axis, block_rows)
    if isinstance(X, da.Array):
        return DaskSource.of(X, feature_axis)
    if kind_of(X).startswith("dask.") and hasattr(X, "to_dask_array"):
        return _open_lazy_frame(X, feature_axis)
    return open_memory(X, plain_array(X, _memory_name(X)), feature_axis, block_rows=block_rows)


def _filled(spec: StoreSpec, *, fill: bool) -> StoreSpec:
    """Return a spec of the same store in which what is not there holds the fill value."""
    return replace(spec, missing_chunks="fill") if fill else spec


def _variable_in(X: Any, role: str, name: Any, features: list[str] | None) -> Any:
    """Return the variable of a Dataset that holds the weights or the mask; else what was given."""
    if not isinstance(name, str) or name not in X.variables:
        return name
    if name in (X.data_vars if features is None else features):
        others = [str(key) for key in (features or X.data_vars) if str(key) != name]
        raise InputError(
            f"{name!r} would be a feature and the {role} too: say features={others!r}."
        )
    return X[name]


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
    attributes = {} if name == "DataFrame" else attributes_of(X)
    decoding = decoding_of(attributes, array.dtype, name, Remedies("X[...]", "X[...]"))
    return NumpySource.of(array, feature_axis, name=name, block_rows=block_rows, decoding=decoding)


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
    values: Any = X.data if X.chunks is not None else plain_array(X.data, name)
    decoding = decoding_of(X.attrs, values.dtype, name, _LABELLED, decoded=X.encoding)
    fill = suspicious_fill(X.encoding.get("fill_value"), values.dtype, decoding, _LABELLED)
    source: DaskSource | NumpySource
    if X.chunks is not None:
        source = DaskSource.of(
            values, feature_axis, name=name, axis_names=names, conventions=(decoding, fill)
        )
    else:
        source = NumpySource.of(
            values,
            feature_axis,
            name=name,
            axis_names=names,
            block_rows=block_rows,
            decoding=decoding,
        )
    dim = X.dims[source.feature_axis]
    labels = X.coords[dim].values.tolist() if dim in X.coords else [None]
    return replace(source, fill=fill, feature_names=_all_strings(labels))


_LABELLED = Remedies(
    "X", "X.drop_attrs()", "xarray.decode_cf(X.to_dataset(name='decoded'))['decoded']"
)


def _all_strings(labels: Sequence[Any]) -> tuple[str, ...] | None:
    """Return labels as names if all are strings, which is what scikit-learn takes for names."""
    return tuple(labels) if all(isinstance(label, str) for label in labels) else None
