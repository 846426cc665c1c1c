"""From whatever a user passes as `sample_weight` to the weights of a source's rows.

===================  ==============================  ===========================================
data                 weights                         how they are read
===================  ==============================  ===========================================
in memory            any                             all at once, when they are opened
a Zarr array         in memory                       from there; the data stay in this process
a Zarr array         a Zarr array                    block by block beside the data
a Zarr array         a Dask collection               refused: a task that reads a store runs no
                                                     graph
a Dask collection    in memory                       in the graph, block by block
a Dask collection    a Zarr array                    by a task for each block
a Dask collection    a Dask collection               by its graph, in the blocks of the data
===================  ==============================  ===========================================

A string is the name of an array beside the data, where they lie in a Zarr store: in the group that
holds them; of a Parquet table it is the name of a column. If there is none of that name, it is a
path or URL. What is said of a Zarr array as data holds for a Parquet table too.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr
from zarr.abc.store import Store

from dask_gmm.data.base import Source, check_dtype
from dask_gmm.data.conventions import NO_MARKS, Marks, Remedies, attributes_of, marks_of
from dask_gmm.data.conversion import frame_layout, kind_of, partition_rows, plain_weights
from dask_gmm.data.dask_source import DaskSource, DaskWeights, check_block_type, conventions_of
from dask_gmm.data.numpy_source import NumpySource
from dask_gmm.data.stored_array import dimension_names
from dask_gmm.data.stores import MissingChunks, store_spec
from dask_gmm.data.tables.open import column_weights
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.data.weights import checked_array
from dask_gmm.data.zarr_open import (
    FoundArray,
    find_beside,
    find_by_url,
    find_in_node,
    find_in_store,
)
from dask_gmm.data.zarr_source import ZarrSource, code_for
from dask_gmm.data.zarr_weights import ZarrWeights
from dask_gmm.errors import ArrayNotFoundError, InputError, StoreNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["with_weights"]

_NAME = "sample_weight"
_LABELLED = Remedies(
    _NAME,
    f"{_NAME}.drop_attrs()",
    f"xarray.decode_cf({_NAME}.to_dataset(name='decoded'))['decoded']",
)


def with_weights(
    source: Source,
    weights: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: MissingChunks = "error",
) -> Source:
    """Return a source whose rows have weights.

    Parameters
    ----------
    source : Source
    weights : array, Series, collection, name, path or URL
        One for each row, or of the samples' shape: array-likes and Series of any library, Dask
        arrays and Series, `xarray.DataArray` (its dimensions in any order where the data name
        theirs), a `zarr.Array`, a group or store that holds one, the name of an array beside the
        data, a path or URL. Boolean, integer or real floating.
    storage_options : mapping, optional
        For a URL.
    missing_chunks : {"error", "fill"}
        As for the data.

    Raises
    ------
    InputError
        They are of another shape, or no real numbers, or cannot be read beside such data.
    SampleWeightError
        One that is in memory is negative, no number, or beyond the range.
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If a path or URL leads nowhere, not to an array, or does not answer.
    """
    if isinstance(weights, str) and isinstance(source, ParquetSource):
        column = column_weights(source, weights)
        if column is not None:
            return replace(source, weights=column)
    if isinstance(weights, str | os.PathLike):
        return _stored(source, _named(source, weights, storage_options, missing_chunks))
    if isinstance(weights, zarr.Array | zarr.Group):
        found = find_in_node(weights, missing_chunks=missing_chunks, code=_NAME)
        return _stored(source, found)
    if isinstance(weights, Store):
        return _stored(source, find_in_store(weights, missing_chunks=missing_chunks, code=_NAME))
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(weights, xarray.Dataset):
        raise InputError(f"{_NAME} is an xarray.Dataset: pass one variable.")
    if xarray is not None and isinstance(weights, xarray.DataArray):
        return _labelled(source, weights)
    if isinstance(weights, da.Array):
        return _lazy(source, weights, conventions_of(weights, _NAME, _NAME)[0])
    if kind_of(weights).startswith("dask.") and hasattr(weights, "to_dask_array"):
        return _lazy(source, _column(weights), NO_MARKS)
    array = plain_weights(weights, _NAME)
    # What pandas calls attrs is the user's own.
    attributes = {} if hasattr(weights, "iloc") else attributes_of(weights)
    remedies = Remedies(f"{_NAME}[...]", f"{_NAME}[...]")
    return _here(source, array, marks_of(attributes, array.dtype, _NAME, remedies))


# -- in memory -------------------------------------------------------------------------------------


def _here(source: Source, array: NDArray[Any], marks: Marks) -> Source:
    """Give a source weights that are in memory."""
    _check_shape(source, array.shape, _NAME)
    if source.n_rows is None:
        raise InputError(
            f"{_NAME} is in memory, but {source.name} does not know the lengths of its chunks, so "
            f"that nobody can say which weights are whose: pass `X.compute_chunk_sizes()`."
        )
    return replace(source, weights=checked_array(array, _NAME, source.name, marks))  # type: ignore[type-var]


def _check_shape(source: Source, shape: Sequence[int | None], name: str, code: str = _NAME) -> None:
    expected = source.sample_shape
    fits = len(shape) == len(expected) and all(
        n is None or m is None or n == m for n, m in zip(shape, expected, strict=True)
    )
    if fits:
        return
    known = [n for n in expected if n is not None]
    sizes = [n for n in shape if n is not None]
    remedy = "one weight for each is needed."
    if len(known) == len(expected) and np.prod(known) == np.prod(sizes):
        remedy = f"pass `{code}.reshape({_spell(expected)})` if they are in that order."
    raise InputError(
        f"{name} has shape {_spell(shape)}, but the samples of {source.name} have shape "
        f"{_spell(expected)}: {remedy}"
    )


def _spell(shape: Sequence[int | None]) -> str:
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


# -- labelled --------------------------------------------------------------------------------------


def _labelled(source: Source, weights: Any) -> Source:
    """Give a source the weights of a DataArray."""
    names = _sample_names(source)
    dims = [str(dim) for dim in weights.dims]
    if names is not None:
        if sorted(names) != sorted(dims):
            missing = sorted(set(names) - set(dims))
            remedy = (
                f"pass `{_NAME}.broadcast_like(X.isel({source.axis_names[source.feature_axis]}=0, "  # type: ignore[index]
                f"drop=True))`"
                if missing and set(dims) < set(names)
                else "rename them to these"
            )
            raise InputError(
                f"{_NAME} has the dimensions {', '.join(dims) or '()'}, but the samples of "
                f"{source.name} have {', '.join(names)}: {remedy}."
            )
        weights = weights.transpose(*names)
    if weights.chunks is None and not weights._in_memory:
        weights = weights.chunk({})  # opened lazily: .values would load all of it
    dtype = np.dtype(weights.dtype)
    if weights.chunks is None:
        array = plain_weights(weights.data, _NAME)
        dtype = array.dtype
    else:
        check_dtype(dtype, _NAME, _NAME)
    marks = marks_of(weights.attrs, dtype, _NAME, _LABELLED, decoded=weights.encoding)
    if weights.chunks is None:
        return _here(source, array, marks)
    return _lazy(source, weights.data, marks)


def _sample_names(source: Source) -> list[str] | None:
    if source.axis_names is None:
        return None
    return [name for axis, name in enumerate(source.axis_names) if axis != source.feature_axis]


# -- lazy ------------------------------------------------------------------------------------------


def _column(frame: Any) -> da.Array:
    """Return a Dask Series, or the only column of a DataFrame, as an array."""
    frame = frame.to_frame(name=frame.name or "weight") if frame.ndim == 1 else frame
    layout = frame_layout(frame._meta, _NAME)
    assert layout is not None
    if len(frame.columns) != 1:
        raise InputError(
            f"{_NAME} is a Dask DataFrame of {len(frame.columns)} columns: pass one of them."
        )
    if not layout.plain:
        frame = frame.map_partitions(partition_rows, _NAME, meta=partition_rows(frame._meta))
    column: da.Array = frame.to_dask_array()[:, 0]
    return column


def _lazy(source: Source, collection: da.Array, marks: Marks) -> Source:
    """Give a source weights that a Dask graph makes."""
    shape = tuple(None if n != n else int(n) for n in collection.shape)  # noqa: PLR0124  NaN
    _check_shape(source, shape, _NAME)
    check_block_type(type(collection._meta), _NAME, _NAME)
    check_dtype(collection.dtype, _NAME, _NAME)
    if isinstance(source, DaskSource):
        weights = DaskWeights(_in_blocks(source, collection), _NAME, marks)
        return replace(source, weights=weights)
    if isinstance(source, NumpySource):
        computed = np.asarray(collection.compute())  # type: ignore[no-untyped-call]
        return _here(source, computed, marks)
    raise InputError(
        f"{_NAME} is a Dask collection, but {source.name} is read from its store by tasks that run "
        f"no graph. Pass `{_NAME}.compute()`, write the weights to a store and pass its path or "
        f"URL, or pass the data as a Dask collection too."
    )


def _in_blocks(source: DaskSource, collection: da.Array) -> da.Array:
    """Return weights in the blocks of the data, by number where their sizes are not known."""
    theirs = np.asarray([n for sizes in collection.chunks for n in sizes], dtype=float)
    if source.n_rows is not None and not np.isnan(theirs).any():
        rechunked: da.Array = collection.rechunk(source.sample_chunks)  # type: ignore[no-untyped-call]
        return rechunked
    expected = tuple(axis.n_blocks for axis in source.grid.axes)
    if collection.numblocks != expected:
        raise InputError(
            f"{_NAME} has {_spell(collection.numblocks)} blocks and {source.name} "
            f"{_spell(expected)}, and not all of their lengths are known: make them known by "
            f"`X.compute_chunk_sizes()` and `{_NAME}.compute_chunk_sizes()`."
        )
    return collection


# -- stored ----------------------------------------------------------------------------------------


def _named(
    source: Source,
    name: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    missing_chunks: MissingChunks,
) -> FoundArray:
    """Return the array beside the data, or the one at a path or URL."""
    text = os.fspath(name)
    # What no name of an array looks like is a path or URL.
    place = "://" in text or Path(text).is_absolute() or re.search(r"(^|/)\.\.?(/|$)", text)
    may_be_name = isinstance(name, str) and not place
    if may_be_name and isinstance(source, ZarrSource):
        found = find_beside(source, text)
        if found is not None:
            return found
    spec = store_spec(name, None, missing_chunks)
    if scheme_of(spec.url) != "file" and storage_options:
        spec = store_spec(name, storage_options, missing_chunks)
    try:
        return find_by_url(spec)
    except (ArrayNotFoundError, StoreNotFoundError) as error:
        if not may_be_name:
            raise
        what = f"an array of that name beside {source.name}"
        if isinstance(source, ParquetSource):
            what = f"a column of the table {source.name} that is called so"
        elif not isinstance(source, ZarrSource):
            what += " (only data in a Zarr store have arrays beside them)"
        raise ArrayNotFoundError(
            f"{_NAME}={text!r} was found nowhere: there is neither {what}, nor anything at "
            f"{spec.url}."
        ) from error


def _stored(source: Source, found: FoundArray) -> Source:
    """Give a source weights that lie in a store."""
    array, spec = found.array, found.spec
    name = join_url(spec.url, array.path)
    axes = _axes(source, array)
    # In memory: a Dask collection would not do beside rows in a store.
    code = code_for(spec, array.path, found.code) or f"zarr.open_array({name!r}, mode='r')"
    code = f"{code}[...]"
    _check_shape(source, [array.shape[axis] for axis in axes], name, code)
    check_dtype(np.dtype(array.dtype), name, code)
    if source.n_rows is None:
        raise InputError(
            f"{name} is stored, but {source.name} does not know the lengths of its chunks, so that "
            f"nobody can say which weights are whose: pass `X.compute_chunk_sizes()`."
        )
    weights = ZarrWeights.of(
        array,
        axes,
        source.grid,
        spec=spec,
        path=array.path,
        store=found.store,
        remedies=Remedies(code, code),
    )
    if isinstance(source, NumpySource):
        checked = checked_array(weights.whole(), name, source.name)
        return replace(source, weights=checked)
    return replace(source, weights=weights)  # type: ignore[type-var]


def _axes(source: Source, array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the array's axis for each sample axis: by name where both have the same names."""
    names, theirs = _sample_names(source), dimension_names(array)
    if names is None or theirs is None or sorted(names) != sorted(theirs):
        return tuple(range(array.ndim))
    return tuple(theirs.index(name) for name in names)
