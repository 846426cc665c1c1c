"""`open_source`: whatever a user may pass, as a `Source`; metadata reads only."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import zarr
from zarr.abc.store import Store

from dask_gmm.data.alignment import check_aligned
from dask_gmm.data.base import Source
from dask_gmm.data.conventions import attributes_of, decoding_of, suspicious_fill
from dask_gmm.data.conversion import frame_layout, kind_of, partition_rows, plain_array
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.decoding import Remedies
from dask_gmm.data.frames import as_frame, column_names_of, narrowed
from dask_gmm.data.grid import BlockRef
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.open_arrays import (
    each_of,
    holds_arrays,
    is_pattern_of_stores,
    open_arrays,
    placed_arrays,
)
from dask_gmm.data.open_encoded import is_anndata, open_encoded, with_gene_names
from dask_gmm.data.open_features import (
    check_features,
    is_dataset,
    open_dataset,
    open_stored_features,
)
from dask_gmm.data.open_weights import beside_rows, with_weights, with_where
from dask_gmm.data.provenance import check_complete
from dask_gmm.data.sparse_source import SparseSource, is_sparse
from dask_gmm.data.stores import ChunkPolicies, MissingChunks, StoreSpec, store_spec
from dask_gmm.data.tables.find import holds_parquet, is_table
from dask_gmm.data.tables.open import is_arrow_dataset, open_arrow_dataset, open_table
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import scheme_of
from dask_gmm.data.zarr_open import (
    FoundArray,
    FoundGroup,
    find_by_url,
    find_group_by_url,
    find_group_in,
    find_in_node,
    find_in_store,
)
from dask_gmm.data.zarr_source import ZarrSource
from dask_gmm.errors import ArrayNotFoundError, InputError, StoreNotFoundError

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
    missing_chunks: str | Mapping[str, str] = "error",
    array: str | None = None,
    block_rows: int | None = None,
    sample_weight: Any = None,
    features: Sequence[str] | None = None,
    where: Any = None,
    columns: Sequence[str] | None = None,
    fitted_columns: Sequence[str] | None = None,
    arrays: str | Sequence[str] | None = None,
) -> Source:
    """Describe an input as blocks of rows.

    Parameters
    ----------
    X : array, collection, path or URL, or a list or dict of these
        A NumPy array or whatever `numpy.asarray` takes, a frame of pandas, polars or Arrow, a
        `dask.array` or Dask DataFrame, an `xarray.DataArray` or `xarray.Dataset`, a `zarr.Array` or
        `zarr.Group`, the path or URL of a Zarr array or group, or that of a Parquet table: a file,
        a folder of files, or a pattern. Any number of axes from two up: one holds the features, the
        others, flattened in C order block by block, are the rows. Where attributes say that values
        are packed or missing, the rows are measurements, and NaN (see `conventions`). Of a list of
        arrays, or a dict by the names of samples, the rows are those of all, one array's after
        another's; see `open_arrays`.
    feature_axis : int or str, default=-1
        Which axis holds the features; a dimension's name for xarray objects and for Zarr arrays
        that name their dimensions. Of several variables it is the dimension along which each
        gives several features; -1 where each is one.
    storage_options : mapping, optional
        For URLs: endpoint, region, skip_signature (anonymous), timeouts; never credentials.
    missing_chunks : {"error", "fill"} or mapping, default="error"
        Whether a Zarr chunk that is not in the store is an error or holds the fill value; of the
        rows, the mask and the weights one by one with the keys "X", "where" and "sample_weight".
    array : str, optional
        Name of the array in a Zarr group; may be left out if the group holds exactly one.
    block_rows : int, optional
        Most rows in a block of an in-memory array; by default as many as make 8 MiB.
    sample_weight : array, collection, name, path or URL, optional
        The weight of each row, of the samples' shape; see `dask_gmm.data.open_weights`. A row of
        weight zero is absent. Of a Dataset also the name of one of its variables, of a table that
        of a column, which then is no feature. Of many arrays a list or dict of theirs, such a name
        for each, or "equal-per-array".
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
    arrays : str or sequence of str, optional
        Names, or patterns of names, of many arrays of the group that X is or leads to, or of
        stores in a folder.

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
    policies = ChunkPolicies.of(missing_chunks)
    policy = policies.X
    check_aligned("sample_weight", X, sample_weight)
    check_aligned("where", X, where)
    names = None if features is None else check_features(features)
    if names is not None and array is not None:
        raise InputError(
            f"array={array!r} and features={names!r} both say what to read: leave one of them out."
        )
    reading = _Reading(feature_axis, policy, array, block_rows, names, columns, fitted_columns)
    placed = None
    if arrays is not None or (columns is None and is_pattern_of_stores(X)):
        placed = placed_arrays(X, arrays, storage_options, policy)
    remote = any(map(is_remote, each_of(X)))
    if placed is not None and any(isinstance(item, FoundArray) for item in placed.values()):
        _refuse_beside_arrays(arrays, array=array, features=names, columns=columns)
    X = X if placed is None else placed
    many = placed is not None or holds_arrays(X)
    given = [sample_weight, where]
    # One set of options serves data and what lies beside them, whichever of them are URLs.
    elsewhere = any(is_remote(item) for one in given for item in each_of(one))
    own = storage_options if remote or not elsewhere else None
    if many:
        source, beside = open_arrays(X, given, partial(_open_one_of_many, reading, own, remote))
    else:
        source, beside = reading.open(X, own, given)
    sample_weight, where = beside
    return beside_rows(source, sample_weight, where, storage_options, policies)


@dataclass(frozen=True)
class _Reading:
    """How to read an input, or each of many; see `open_source`."""

    feature_axis: int | str
    policy: MissingChunks
    array: str | None
    block_rows: int | None
    features: list[str] | None
    columns: Sequence[str] | None
    fitted_columns: Sequence[str] | None

    def open(
        self, X: Any, storage_options: Mapping[str, Any] | None, beside: list[Any]
    ) -> tuple[Source, list[Any]]:
        """Describe rows; what was given beside them may be named variables or columns of theirs."""
        zarr_only = {
            "array": self.array,
            "features": self.features,
            "feature_axis": self.feature_axis,
        }
        place = _table_place(X, self.columns, storage_options, self.policy, zarr_only)
        wanted = self.fitted_columns if self.columns is None else self.columns
        if is_arrow_dataset(X):
            _refuse_zarr_only(zarr_only, self.policy, "a pyarrow Dataset")
            return open_arrow_dataset(X, wanted, beside)
        if place is not None:
            return open_table(place, wanted, beside)
        if is_dataset(X):
            roles = zip(("weights", "mask"), beside, strict=True)
            beside = [_variable_in(X, role, item, self.features) for role, item in roles]
        X, beside = narrowed(as_frame(X), self.columns, beside)
        try:
            return self._rows(X, storage_options), beside
        except StoreNotFoundError:
            # Of a prefix in an object store only a listing tells that it is a table.
            remote = is_remote(X) and self.array is None
            spec = store_spec(X, storage_options, self.policy) if remote else None
            if spec is None or self.features is not None or not holds_parquet(spec):
                raise
            return open_table(spec, wanted, beside)

    def of_item(self, item: Any) -> _Reading:
        """How to read one of many, to which not all options mean something."""
        group = isinstance(item, str | os.PathLike | zarr.Group | Store)
        place = isinstance(item, str | os.PathLike) or is_arrow_dataset(item)
        named = place or column_names_of(as_frame(item)) is not None
        return replace(
            self,
            array=self.array if group else None,
            features=self.features if group or is_dataset(item) else None,
            # Rows as they were fitted may come from where no names are known.
            columns=self.columns if named or self.fitted_columns is None else None,
        )

    def _rows(self, X: Any, storage_options: Mapping[str, Any] | None) -> Source:
        return _open_rows(
            X,
            self.feature_axis,
            storage_options,
            self.policy,
            self.array,
            self.block_rows,
            self.features,
        )


def _refuse_beside_arrays(arrays: Any, **options: Any) -> None:
    """Refuse what says which arrays of a group to read, or which columns, where others do."""
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f"arrays={arrays!r} names arrays of a Zarr group, of which {name}={value!r} says "
                f"nothing: leave one of them out."
            )


def _open_one_of_many(
    reading: _Reading,
    storage_options: Mapping[str, Any] | None,
    remote: bool,
    item: Any,
    beside: list[Any],
) -> tuple[Source, list[Any]]:
    """Describe one of many arrays, of which some may be remote."""
    if isinstance(item, FoundArray):
        return item.source(reading.feature_axis), beside
    item = as_frame(item)  # a reader can be read once
    place = isinstance(item, str | os.PathLike)
    own = storage_options if is_remote(item) or (place and not remote) else None
    return reading.of_item(item).open(item, own, beside)


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
        return _open_placed(spec, feature_axis, array, block_rows, features)
    if storage_options:
        raise InputError(
            f"storage_options go with a path or URL, not with a {type(X).__name__} that is "
            f"already open."
        )
    if isinstance(X, zarr.Array | zarr.Group | Store):
        return _open_node(X, feature_axis, policy, array, block_rows, features)
    if array is not None:
        raise InputError(f"array={array!r} names an array of a Zarr group; X is {kind_of(X)}.")
    if is_dataset(X):
        return open_dataset(X, features, feature_axis, block_rows)
    if features is not None:
        raise InputError(
            f"features={features!r} names arrays of a Zarr group or variables of a Dataset; X is "
            f"{kind_of(X)}."
        )
    if is_anndata(X):
        names = tuple(str(name) for name in X.var_names)
        source = _open_rows(X.X, feature_axis, None, policy, None, block_rows, None)
        return replace(source, feature_names=names)  # type: ignore[type-var]
    if is_sparse(X):
        return SparseSource.of(X, feature_axis, block_rows=block_rows)
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(X, xarray.DataArray):
        return _open_dataarray(X, feature_axis, block_rows)
    if isinstance(X, da.Array):
        return DaskSource.of(X, feature_axis)
    if kind_of(X).startswith("dask.") and hasattr(X, "to_dask_array"):
        return _open_lazy_frame(X, feature_axis)
    return open_memory(X, plain_array(X, _memory_name(X)), feature_axis, block_rows=block_rows)


def _open_placed(
    spec: StoreSpec,
    feature_axis: int | str,
    array: str | None,
    block_rows: int | None,
    features: list[str] | None,
) -> Source:
    """Describe what a path or URL leads to."""
    if features is not None:
        return open_stored_features(
            lambda name, fill: find_by_url(_filled(spec, fill=fill), name),
            features,
            feature_axis,
        )
    return _array_or_encoded(
        lambda: find_by_url(spec, array),
        lambda: find_group_by_url(spec, array),
        feature_axis,
        block_rows,
    )


def _open_node(
    X: Any,
    feature_axis: int | str,
    policy: MissingChunks,
    array: str | None,
    block_rows: int | None,
    features: list[str] | None,
) -> Source:
    """Describe what a user has opened with Zarr."""
    find: Callable[..., FoundArray] = find_in_store if isinstance(X, Store) else find_in_node
    if features is not None:
        return open_stored_features(
            lambda name, fill: find(X, missing_chunks="fill" if fill else policy, array=name),
            features,
            feature_axis,
        )
    return _array_or_encoded(
        lambda: find(X, missing_chunks=policy, array=array),
        lambda: (
            None if isinstance(X, zarr.Array) else find_group_in(X, array, missing_chunks=policy)
        ),
        feature_axis,
        block_rows,
    )


def _array_or_encoded(
    find: Callable[[], FoundArray],
    find_group: Callable[[], FoundGroup | None],
    feature_axis: int | str,
    block_rows: int | None,
) -> Source:
    """Describe an array, or the matrix of a group that says how it is encoded."""
    try:
        found = find()
    except ArrayNotFoundError:
        group = find_group()
        encoded = None if group is None else open_encoded(group, feature_axis, block_rows)
        if encoded is None:
            raise
        return encoded
    return with_gene_names(found, found.source(feature_axis))


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
    layout = frame_layout(X)
    name = _memory_name(X)
    attributes = {} if layout is not None else attributes_of(X)
    decoding = decoding_of(attributes, array.dtype, name, Remedies("X[...]", "X[...]"))
    source = NumpySource.of(
        array, feature_axis, name=name, block_rows=block_rows, decoding=decoding
    )
    names = None if layout is None or source.feature_axis == 0 else layout.names
    return replace(source, feature_names=names)


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
