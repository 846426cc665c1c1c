"""Weights and masks of many arrays, one for each; and weights that make the arrays count alike."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import compute, is_dask_collection

from dask_gmm.data.concatenated_source import ConcatenatedDaskSource, ConcatenatedSource
from dask_gmm.data.concatenated_weights import (
    EQUAL_PER_ARRAY,
    ConcatenatedWeights,
    factors_alike,
    total_of,
)
from dask_gmm.data.conversion import plain_weights
from dask_gmm.data.dask_source import DaskWeights
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.masks import MaskedWeights
from dask_gmm.data.tables.parquet_source import ParquetSource, ParquetWeights
from dask_gmm.data.weights import ArrayWeights
from dask_gmm.data.zarr_weights import ZarrWeights
from dask_gmm.errors import InputError, RowError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.base import Source
    from dask_gmm.data.concatenated_source import Many
    from dask_gmm.data.weights import Weights

__all__ = ["counting_alike", "each_alone", "weights_of_each"]

NAME = "sample_weight"
WHERE = "where"

_compute: Callable[..., Any] = compute  # untyped in Dask


def weights_of_each(
    role: str, source: Many, weights: Any, open_one: Callable[[Source, Any], Source]
) -> Many:
    """Give each of many arrays its own weights.

    Parameters
    ----------
    role : {"sample_weight", "where"}
        What the user calls them.
    source : ConcatenatedSource or ConcatenatedDaskSource
    weights : list, dict, name, or an array for all rows
        One for each array, None where each of its rows counts once.
    open_one : callable
        Gives an array its weights.

    Raises
    ------
    InputError
        There are not as many as arrays, or one of them does not fit its array.
    """
    masks = _masks_of(source)
    opened: list[Weights | None] = []
    for number, own in enumerate(_given_to_each(role, source, weights)):
        part = source.parts[number]
        if own is None:
            opened.append(None)
            continue
        if isinstance(source, ConcatenatedDaskSource) and is_dask_collection(own):
            part = source.lazily(number)
        mask = None if role == WHERE else masks[number]
        if mask is not None:
            part = replace(part, weights=MaskedWeights.of(mask, None))  # type: ignore[type-var]
        try:
            found = open_one(part, own).weights
        except RowError:
            raise
        except InputError as error:
            raise InputError(f"{error} ({role} is that of {source.described(number)}.)") from error
        opened.append(found)
    if isinstance(source, ConcatenatedSource):
        return replace(source, weights=ConcatenatedWeights.of(opened, source.chain, role))
    columns = [_as_column(part, own) for part, own in zip(source.parts, opened, strict=True)]
    masked = replace(source, masks=tuple(opened)) if role == WHERE else source
    return replace(masked, weights=DaskWeights(_stacked(columns), role))


def each_alone(source: Many) -> list[Source]:
    """Return each of many arrays as a source of its own, with its mask and without its weights."""
    found: list[Source] = []
    for number, mask in enumerate(_masks_of(source)):
        part = source.parts[number]
        if isinstance(source, ConcatenatedDaskSource) and isinstance(mask, DaskWeights):
            part = source.lazily(number)
        own = None if mask is None else MaskedWeights.of(mask, None)
        found.append(replace(part, weights=own, missing=source.missing))  # type: ignore[type-var]
    return found


def _masks_of(source: Many) -> Sequence[Weights | None]:
    """Return the masks of many arrays, as far as they are apart."""
    held = source.weights
    if isinstance(held, MaskedWeights):
        if isinstance(held.mask, ConcatenatedWeights):
            return held.mask.each
        if isinstance(source, ConcatenatedDaskSource) and source.masks:
            return source.masks
    return [None] * len(source.parts)


def _given_to_each(role: str, source: Many, weights: Any) -> list[Any]:
    """Return what was given as the weights of each array; None where each row counts once."""
    n, names = len(source.parts), source.names
    if isinstance(weights, str):
        return [weights] * n  # the name of an array beside each
    if isinstance(weights, dict):
        unknown = [key for key in weights if key not in names]
        lacking = [name for name in names if name not in weights]
        if unknown or lacking:
            odd = f"no array is called {unknown[0]!r}" if unknown else f"none is {lacking[0]!r}'s"
            raise InputError(
                f"{role} is a dict, and {odd}: give each array its own by its name, None where "
                f"each of its rows counts once. The arrays: {source.name}."
            )
        return [weights[name] for name in names]
    if isinstance(weights, list | tuple) and len(weights) == n and not _are_numbers(weights):
        return list(weights)
    if isinstance(weights, list | tuple) and not _are_numbers(weights):
        raise InputError(
            f"{role} is a list of {len(weights)}, but there are {n} arrays: give each its own, "
            f"None where each of its rows counts once."
        )
    whole, starts = plain_weights(weights, role), _starts_of(source)
    if starts is None or whole.shape != (starts[-1],):
        raise InputError(
            f"{role} has shape {whole.shape}, but the rows are those of "
            f"{source.name}: give a list or dict with an array of weights for each, the name of an "
            f"array beside each, or {EQUAL_PER_ARRAY!r}."
        )
    shapes = [[int(size or 0) for size in part.sample_shape] for part in source.parts]
    pieces = np.split(whole, starts[1:-1])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _are_numbers(weights: Sequence[Any]) -> bool:
    return bool(len(weights)) and all(np.isscalar(w) and not isinstance(w, str) for w in weights)


def _starts_of(source: Many) -> list[int] | None:
    """Return where each array's rows begin, and the number of all; None where nobody knows."""
    sizes = [part.n_rows for part in source.parts]
    if None in sizes:
        return None
    return [0, *np.cumsum([size or 0 for size in sizes]).tolist()]


def counting_alike(source: Many) -> Source:
    """Return many arrays with weights that make each count alike, times those that they have.

    Weights that are stored are read once for their sums; those of a Dask graph are computed.

    Raises
    ------
    InputError
        No row counts, or of a Dask collection nobody knows how many rows it has.
    """
    held = source.weights
    own = held.weights if isinstance(held, MaskedWeights) else held
    if isinstance(source, ConcatenatedSource):
        n = len(source.parts)
        totals = [total_of(held, source.chain, number) for number in range(n)]
        each = own.each if isinstance(own, ConcatenatedWeights) else [None] * n
        factors = factors_alike(totals, NAME)
        weights: Weights = ConcatenatedWeights.of(each, source.chain, NAME, factors)
    else:
        factors, weights = _alike_columns(source, held, own)
    if isinstance(held, MaskedWeights):
        weights = MaskedWeights.of(held.mask, weights)
    return replace(source, weights=weights, factors=tuple(factors))


def _alike_columns(
    source: Many, held: Weights | None, own: Weights | None
) -> tuple[list[float], DaskWeights]:
    """Return factors and weights that let arrays of a collection count alike; it runs for sums."""
    starts = _starts_of(source)
    if starts is None:
        frames = any(part.name == "Dask DataFrame" for part in source.parts)
        made = "to_dask_array(lengths=True)" if frames else "compute_chunk_sizes()"
        raise InputError(
            f"{source.name} do not all know how many rows they have, so that nobody can let each "
            f"count alike: pass `[x.{made} for x in X]`."
        )
    columns = [_as_column(part, None) for part in source.parts]
    if isinstance(own, DaskWeights):
        columns = [own.collection[a:b] for a, b in itertools.pairwise(starts)]
    counting = columns
    if isinstance(held, MaskedWeights):
        assert isinstance(held.mask, DaskWeights)
        masks = [held.mask.collection[a:b] for a, b in itertools.pairwise(starts)]
        counting = [da.where(mask, c, 0.0) for mask, c in zip(masks, columns, strict=True)]
    totals = _compute(*(_sum(column) for column in counting))
    factors = factors_alike([float(total) for total in totals], NAME)
    scaled = [column * factor for column, factor in zip(columns, factors, strict=True)]
    return factors, DaskWeights(_stacked(scaled), NAME)


def _as_column(part: Source, weights: Weights | None) -> da.Array:
    """Return the weights of an array of a concatenated collection as a collection."""
    if isinstance(weights, DaskWeights):
        return _decoded(weights)
    if part.n_rows is None:
        raise InputError(
            f"{part.name} does not know how many rows it has, and has no weights where others have "
            f"some: pass `X.compute_chunk_sizes()`, or weights for all."
        )
    if isinstance(weights, ParquetWeights):
        return _stored_column(part, weights)
    if weights is None:
        array = np.ones(part.n_rows)
    elif isinstance(weights, ArrayWeights):
        array = weights.array
    else:
        assert isinstance(weights, ZarrWeights)
        array = weights.whole()
    column: da.Array = da.from_array(array, chunks=part.sample_chunks)  # type: ignore[no-untyped-call]
    return column


def _stored_column(part: Source, weights: ParquetWeights) -> da.Array:
    """Return a column of a table as a collection in the table's blocks, read when they are."""
    assert isinstance(part, ParquetSource)
    alone = replace(
        part,
        shape=(part.n_rows, 1),
        dtype=np.dtype(np.float64),
        feature_names=(weights.column,),
        sizes=weights.sizes,
        weights=None,
        missing="error",
    )
    return lazy_map(alone, first_feature, np.float64)


def first_feature(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first feature of some rows in memory of its own."""
    return rows[:, 0].copy()


def _stacked(columns: Sequence[da.Array]) -> da.Array:
    concatenate: Callable[..., da.Array] = da.concatenate  # untyped in Dask
    return concatenate(columns, allow_unknown_chunksizes=True)


def _sum(column: Any) -> Any:
    return column.sum()


def _decoded(weights: DaskWeights) -> da.Array:
    """Return a collection of weights as they are meant."""
    collection: Any = weights.collection
    if weights.decoding is None:
        return weights.collection
    found: da.Array = collection.map_blocks(weights.decoding.decode, dtype=weights.decoding.dtype)
    return found
