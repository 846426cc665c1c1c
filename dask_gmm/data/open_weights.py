"""From whatever a user passes as `sample_weight` to the weights of a source's rows.

===================  ==============================  ===========================================
data                 weights                         how they are read
===================  ==============================  ===========================================
in memory            any                             all at once, when they are opened
a Zarr array, or     in memory                       from there; the data stay in this process
several joined
a Zarr array         a Zarr array                    block by block beside the data
a Zarr array         a Dask collection               refused: a task that reads a store runs no
                                                     graph
a Dask collection    in memory                       in the graph, block by block
a Dask collection    a Zarr array                    by a task for each block
a Dask collection    a Dask collection               by its graph, in the blocks of the data
===================  ==============================  ===========================================

A mask (`where`) is opened as weights are, of zero and one (`data.masks`). Of many arrays each has
its own, opened beside it (`data.weights_of_many`).

Where dimensions have names, weights and masks may lack some of the samples': a mask on (lat, lon)
holds for each time, weights along lat for each longitude. They are repeated as they are read.

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

from dask_gmm.data.alignment import check_aligned_with_stored
from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.concatenated_weights import (
    EQUAL_PER_ARRAY,
    ConcatenatedWeights,
    EqualPerArray,
)
from dask_gmm.data.conventions import attributes_of, decoding_of
from dask_gmm.data.conversion import frame_layout, kind_of, partition_rows, plain_weights
from dask_gmm.data.dask_source import DaskSource, DaskWeights, check_block_type, conventions_of
from dask_gmm.data.decoding import Decoding, Remedies
from dask_gmm.data.joined_source import JoinedSource
from dask_gmm.data.layout import check_dtype
from dask_gmm.data.masks import MaskedWeights, checked_mask, nowhere
from dask_gmm.data.stored_array import dimension_names
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.stores import ChunkPolicies, MissingChunks, store_spec
from dask_gmm.data.tables.open import column_weights
from dask_gmm.data.tables.parquet_source import ParquetSource
from dask_gmm.data.urls import join_url, scheme_of
from dask_gmm.data.weights import ArrayWeights, Weights, checked_array, no_weight
from dask_gmm.data.weights_of_many import counting_alike, weights_of_each
from dask_gmm.data.zarr_open import (
    FoundArray,
    find_beside,
    find_by_url,
    find_in_node,
    find_in_store,
)
from dask_gmm.data.zarr_source import code_for
from dask_gmm.data.zarr_weights import ZarrWeights
from dask_gmm.errors import (
    ArrayNotFoundError,
    InputError,
    SampleWeightError,
    StoreNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.base import Source

__all__ = ["with_weights", "with_where"]

_NAME = "sample_weight"
_WHERE = "where"


def _labelled_remedies(role: str) -> Remedies:
    return Remedies(
        role,
        f"{role}.drop_attrs()",
        f"xarray.decode_cf({role}.to_dataset(name='decoded'))['decoded']",
    )


def with_weights(
    source: Source,
    weights: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: MissingChunks = "error",
    role: str = _NAME,
) -> Source:
    """Return a source whose rows have weights.

    Parameters
    ----------
    source : Source
        With a mask (`with_where`) it keeps that.
    weights : array, Series, collection, name, path or URL
        One for each row, or of the samples' shape: array-likes and Series of any library, Dask
        arrays and Series, `xarray.DataArray` (its dimensions in any order where the data name
        theirs), a `zarr.Array`, a group or store that holds one, `Weights` that are open, the name
        of an array beside the data, a path or URL. Boolean, integer or real floating.
    storage_options : mapping, optional
        For a URL.
    missing_chunks : {"error", "fill"}
        Whether a chunk of theirs that is not in the store is an error or holds the fill value.
    role : str
        What the user calls them.

    Raises
    ------
    InputError
        They are of another shape, or no real numbers, or cannot be read beside such data.
    SampleWeightError
        One that is in memory is negative, no number, or beyond the range.
    StoreNotFoundError, ArrayNotFoundError, StoreError
        If a path or URL leads nowhere, not to an array, or does not answer.
    """
    if isinstance(weights, str) and weights == EQUAL_PER_ARRAY and role == _NAME:
        weights = EqualPerArray()
    if isinstance(weights, EqualPerArray):
        options: dict[str, Any] = {
            "storage_options": storage_options,
            "missing_chunks": missing_chunks,
        }
        if not is_many(source) or role != _NAME:
            raise InputError(
                f"{role}={EQUAL_PER_ARRAY!r} lets each of many arrays count alike, but "
                f"{source.name} is one: leave it out, or pass a list or dict of arrays, or name "
                f"many by arrays='*'."
            )
        own = weights.weights
        weighed = source if own is None else with_weights(source, own, **options)
        assert is_many(weighed)
        return counting_alike(weighed)

    def opened(array: Source, own: Any) -> Source:
        return _opened(role, array, own, storage_options, missing_chunks)

    found = (
        weights_of_each(role, source, weights, opened)
        if is_many(source)
        else opened(source, weights)
    )
    _check_some(role, found)
    held = source.weights
    if role == _WHERE or not isinstance(held, MaskedWeights):
        return found
    assert found.weights is not None
    return replace(found, weights=MaskedWeights.of(held.mask, found.weights))  # type: ignore[type-var]


def _check_some(role: str, source: Source) -> None:
    """Refuse weights in memory of which all are zero, and a mask that is true nowhere."""
    weights = source.weights
    parts = weights.each if isinstance(weights, ConcatenatedWeights) else (weights,)
    if not source.n_rows or not all(isinstance(part, ArrayWeights) for part in parts):
        return
    if not any(part.array.any() for part in parts if isinstance(part, ArrayWeights)):
        name = next(part.name for part in parts if part is not None)
        raise nowhere(name) if role == _WHERE else no_weight(name)


def _opened(
    role: str,
    source: Source,
    weights: Any,
    storage_options: Mapping[str, Any] | None,
    missing_chunks: MissingChunks,
) -> Source:
    if isinstance(weights, dict):
        raise InputError(
            f"{role} is a dict, which says what belongs to each of many arrays, but {source.name} "
            f"is one: pass what belongs to its rows."
        )
    column = weights if isinstance(weights, Weights) else None
    if isinstance(weights, str) and isinstance(source, ParquetSource):
        column = column_weights(source, weights)
    if column is not None:
        return replace(source, weights=column)  # type: ignore[type-var]
    if isinstance(weights, str | os.PathLike):
        return _stored(role, source, _named(role, source, weights, storage_options, missing_chunks))
    if isinstance(weights, zarr.Array | zarr.Group):
        found = find_in_node(weights, missing_chunks=missing_chunks, code=role)
        return _stored(role, source, found)
    if isinstance(weights, Store):
        return _stored(
            role, source, find_in_store(weights, missing_chunks=missing_chunks, code=role)
        )
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(weights, xarray.Dataset):
        raise InputError(f"{role} is an xarray.Dataset: pass one variable.")
    if xarray is not None and isinstance(weights, xarray.DataArray):
        return _labelled(role, source, weights)
    if isinstance(weights, da.Array):
        return _lazy(role, source, weights, conventions_of(weights, role, role)[0])
    if kind_of(weights).startswith("dask.") and hasattr(weights, "to_dask_array"):
        return _lazy(role, source, _column(role, weights), None)
    array = plain_weights(weights, role)
    # What pandas calls attrs is the user's own.
    attributes = {} if hasattr(weights, "iloc") else attributes_of(weights)
    remedies = Remedies(f"{role}[...]", f"{role}[...]")
    return _here(role, source, array, decoding_of(attributes, array.dtype, role, remedies))


def with_where(
    source: Source,
    where: Any,
    *,
    storage_options: Mapping[str, Any] | None = None,
    missing_chunks: MissingChunks = "error",
) -> Source:
    """Return a source of which only the rows take part where a mask is true.

    Parameters
    ----------
    source : Source
        Whose weights, if it is to have some, are opened after the mask.
    where : array, Series, collection, name, path or URL
        As weights are given to `with_weights`; true, or 1, for rows that take part, false, or 0,
        for the others, which may hold anything.
    storage_options, missing_chunks
        As for `with_weights`.

    Raises
    ------
    InputError
        It is of another shape, cannot be read beside such data, or is true nowhere.
    WhereError
        It holds something else than true and false.
    """
    masked = with_weights(
        source,
        where,
        storage_options=storage_options,
        missing_chunks=missing_chunks,
        role=_WHERE,
    )
    assert masked.weights is not None
    return replace(masked, weights=MaskedWeights.of(masked.weights, None))  # type: ignore[type-var]


def beside_rows(
    source: Source,
    sample_weight: Any,
    where: Any,
    storage_options: Mapping[str, Any] | None,
    policies: ChunkPolicies,
) -> Source:
    """Return a source with the mask and the weights that were given, if any were.

    Raises
    ------
    InputError, SampleWeightError, WhereError, StoreNotFoundError, ArrayNotFoundError, StoreError
        As `with_weights` and `with_where`.
    """
    if where is not None:
        source = with_where(
            source, where, storage_options=storage_options, missing_chunks=policies.where
        )
    if sample_weight is None:
        return source
    return with_weights(
        source,
        sample_weight,
        storage_options=storage_options,
        missing_chunks=policies.sample_weight,
    )


# -- in memory -------------------------------------------------------------------------------------


def _here(
    role: str,
    source: Source,
    array: NDArray[Any],
    decoding: Decoding | None,
    name: str | None = None,
    lacking: tuple[int, ...] = (),
) -> Source:
    """Give a source weights that are in memory, the same along axes that they lack."""
    shape: list[int | None] = list(array.shape)
    for axis in lacking:
        shape[axis] = source.sample_shape[axis]
    _check_shape(source, shape, role, role)
    if source.n_rows is None:
        raise InputError(
            f"{role} is in memory, but {source.name} does not know the lengths of its chunks, so "
            f"that nobody can say which weights are whose: pass `X.compute_chunk_sizes()`."
        )
    if role == _WHERE:
        found = checked_mask(array if decoding is None else decoding.decode(array), name or role)
    else:
        taken = _taken(source)
        if taken is not None and lacking:
            taken = np.asarray(taken.any(axis=lacking, keepdims=True))
        try:
            found = checked_array(array, name or role, source.name, decoding, taken)
        except SampleWeightError:
            if taken is not None or not isinstance(source.weights, MaskedWeights):
                raise
            # The mask is read with the rows: whoever reads knows which weights nobody looks at.
            found = ArrayWeights(
                array if decoding is None else decoding.decode(array), name or role
            )
    if lacking:
        whole = tuple(n for n in source.sample_shape if n is not None)
        found = replace(found, array=np.broadcast_to(found.array, whole))
    return replace(source, weights=found)  # type: ignore[type-var]


def _taken(source: Source) -> NDArray[np.bool_] | None:
    """Return the mask of a source in memory: what rows weigh that take no part may be anything."""
    held = source.weights
    if isinstance(held, MaskedWeights) and isinstance(held.mask, ArrayWeights):
        return held.mask.array
    return None


def _check_shape(source: Source, shape: Sequence[int | None], name: str, code: str) -> None:
    expected = source.sample_shape
    fits = len(shape) == len(expected) and all(
        n is None or m is None or n == m for n, m in zip(shape, expected, strict=True)
    )
    if fits:
        return
    known = [n for n in expected if n is not None]
    sizes = [n for n in shape if n is not None]
    remedy = (
        "one for each is needed, or an array that names its dimensions as they do, of which it may "
        "lack some."
    )
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


def _labelled(role: str, source: Source, weights: Any) -> Source:
    """Give a source the weights of a DataArray."""
    names, lacking = _sample_names(source), tuple[int, ...]()
    dims = [str(dim) for dim in weights.dims]
    if names is not None:
        if not dims or not set(dims) <= set(names):
            raise InputError(
                f"{role} has the dimensions {', '.join(dims) or '()'}, but the samples of "
                f"{source.name} have {', '.join(names)}: rename them to these."
            )
        check_aligned_with_stored(role, stored_parts(source), weights, dims)
        lacking = tuple(axis for axis, name in enumerate(names) if name not in dims)
        weights = weights.transpose(*(name for name in names if name in dims))
    if weights.chunks is None and not weights._in_memory:
        weights = weights.chunk({})  # opened lazily: .values would load all of it
    dtype = np.dtype(weights.dtype)
    if weights.chunks is None:
        array = plain_weights(weights.data, role)
        dtype = array.dtype
    else:
        check_dtype(dtype, role, role)
    remedies = _labelled_remedies(role)
    decoding = decoding_of(weights.attrs, dtype, role, remedies, decoded=weights.encoding)
    if weights.chunks is None:
        return _here(role, source, np.expand_dims(array, lacking), decoding, lacking=lacking)
    return _lazy(role, source, _spread(role, source, weights.data, lacking), decoding)


def _spread(role: str, source: Source, collection: da.Array, lacking: tuple[int, ...]) -> da.Array:
    """Return a collection that is the same along axes of the samples that it lacked."""
    if not lacking:
        return collection
    if source.n_rows is None:
        raise InputError(
            f"{role} lacks dimensions of {source.name}, which does not know the lengths of its "
            f"chunks: pass `X.compute_chunk_sizes()`."
        )
    one: da.Array = da.expand_dims(collection, lacking)
    shape = tuple(
        n if axis in lacking else m
        for axis, (n, m) in enumerate(zip(source.sample_shape, one.shape, strict=True))
    )
    whole: da.Array = da.broadcast_to(one, shape)  # type: ignore[no-untyped-call]
    return whole


def _sample_names(source: Source) -> list[str] | None:
    if source.axis_names is None:
        return None
    return [name for axis, name in enumerate(source.axis_names) if axis != source.feature_axis]


# -- lazy ------------------------------------------------------------------------------------------


def _column(role: str, frame: Any) -> da.Array:
    """Return a Dask Series, or the only column of a DataFrame, as an array."""
    frame = frame.to_frame(name=frame.name or "weight") if frame.ndim == 1 else frame
    layout = frame_layout(frame._meta, role)
    assert layout is not None
    if len(frame.columns) != 1:
        raise InputError(
            f"{role} is a Dask DataFrame of {len(frame.columns)} columns: pass one of them."
        )
    if not layout.plain:
        frame = frame.map_partitions(partition_rows, role, meta=partition_rows(frame._meta))
    column: da.Array = frame.to_dask_array()[:, 0]
    return column


def _lazy(role: str, source: Source, collection: da.Array, decoding: Decoding | None) -> Source:
    """Give a source weights that a Dask graph makes."""
    shape = tuple(None if n != n else int(n) for n in collection.shape)  # noqa: PLR0124  NaN
    _check_shape(source, shape, role, role)
    check_block_type(type(collection._meta), role, role)
    check_dtype(collection.dtype, role, role)
    if isinstance(source, DaskSource):
        weights = DaskWeights(_in_blocks(role, source, collection), role, decoding)
        return replace(source, weights=weights)
    if source.in_memory:
        computed = np.asarray(collection.compute())  # type: ignore[no-untyped-call]
        return _here(role, source, computed, decoding)
    raise InputError(
        f"{role} is a Dask collection, but {source.name} is read from its store by tasks that run "
        f"no graph. Pass `{role}.compute()`, write the weights to a store and pass its path or "
        f"URL, or pass the data as a Dask collection too."
    )


def _in_blocks(role: str, source: DaskSource, collection: da.Array) -> da.Array:
    """Return weights in the blocks of the data, by number where their sizes are not known."""
    theirs = np.asarray([n for sizes in collection.chunks for n in sizes], dtype=float)
    if source.n_rows is not None and not np.isnan(theirs).any():
        rechunked: da.Array = collection.rechunk(source.sample_chunks)  # type: ignore[no-untyped-call]
        return rechunked
    expected = tuple(axis.n_blocks for axis in source.grid.axes)
    if collection.numblocks != expected:
        raise InputError(
            f"{role} has {_spell(collection.numblocks)} blocks and {source.name} "
            f"{_spell(expected)}, and not all of their lengths are known: make them known by "
            f"`X.compute_chunk_sizes()` and `{role}.compute_chunk_sizes()`."
        )
    return collection


# -- stored ----------------------------------------------------------------------------------------


def _named(
    role: str,
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
    stored = stored_parts(source)
    found = _beside(source, text) if may_be_name else None
    if found is not None:
        return found._replace(spec=replace(found.spec, missing_chunks=missing_chunks))
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
        elif source.name in ("DataFrame", "Dask DataFrame"):
            what = "a column of X that is called so"
        elif stored is None:
            what += " (only data in a Zarr store have arrays beside them)"
        raise ArrayNotFoundError(
            f"{role}={text!r} was found nowhere: there is neither {what}, nor anything at "
            f"{spec.url}."
        ) from error


def _beside(source: Source, name: str) -> FoundArray | None:
    """Return the array of that name beside those that a source is read from, None if none is."""
    stored = stored_parts(source)
    if stored is None:
        return None
    # Several arrays are named from a group that may hold the first in a group of its own, and what
    # lies beside a matrix from the store that holds it.
    # A path leads there too, "obs/weight" of an AnnData from beside "obsm/X_pca".
    upwards = len(stored) > 1 or isinstance(source, JoinedSource) or "/" in name
    up = stored[0].path.count("/") if upwards else 0
    for levels in range(up + 1):
        member = replace(stored[0], path=stored[0].path.rsplit("/", levels)[0])
        found = find_beside(member, name)
        if found is not None:
            return found
    return None


def _stored(role: str, source: Source, found: FoundArray) -> Source:
    """Give a source weights that lie in a store."""
    array, spec = found.array, found.spec
    name = join_url(spec.url, array.path)
    axes = _axes(source, array)
    # In memory: a Dask collection would not do beside rows in a store.
    code = code_for(spec, array.path, found.code) or f"zarr.open_array({name!r}, mode='r')"
    code = f"{code}[...]"
    shape = source.sample_shape if None in axes else array.shape
    _check_shape(
        source,
        [n if axis is None else array.shape[axis] for axis, n in zip(axes, shape, strict=True)],
        name,
        code,
    )
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
        role=role,
    )
    if source.in_memory:
        taken = False if role == _WHERE else _taken(source)
        whole = weights.whole(True if taken is None else taken)
        return _here(role, source, whole, None, name)
    return replace(source, weights=weights)  # type: ignore[type-var]


def _axes(source: Source, array: zarr.Array[Any]) -> tuple[int | None, ...]:
    """Return the array's axis for each sample axis, by name where it has no other names.

    None is that of a sample axis that it lacks.
    """
    names, theirs = _sample_names(source), dimension_names(array)
    if names is None or not theirs or not set(theirs) <= set(names):
        return tuple(range(array.ndim))
    return tuple(theirs.index(name) if name in theirs else None for name in names)
