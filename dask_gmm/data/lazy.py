"""A function of rows over a whole source, as a lazy Dask array.

Each task of the graph names its block by number and takes the source and the function from one
task each, so that neither is in the graph more than once, and data never are.
"""

from __future__ import annotations

import uuid
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from dask.task_spec import Task, TaskRef

from dask_gmm.data.anchor import AnchoredSource
from dask_gmm.data.base import Source
from dask_gmm.data.dask_source import DaskSource
from dask_gmm.data.missing import in_their_places
from dask_gmm.data.scaled_source import ScaledRowMaker, ScaledSource, scaled
from dask_gmm.errors import InputError, RowError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask.typing import Key
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.base import RowMaker
    from dask_gmm.data.grid import BlockRef
    from dask_gmm.scaling.scaling import Scaling

    Maker = tuple[RowMaker, int]

__all__ = ["lazy_map"]

_tokenize: Callable[..., str] = tokenize  # untyped in Dask

T = TypeVar("T")


def lazy_map(
    source: Source,
    function: Callable[..., NDArray[Any]],
    dtype: DTypeLike,
    n_outputs: int | None = None,
    absent: float = np.nan,
    *,
    placed: bool = False,
) -> da.Array:
    """Apply a function to the rows of every block, when the result is computed.

    Parameters
    ----------
    source : Source
        Where the rows come from. Blocks are read by the tasks, on the worker that runs them. Of a
        store in this process's memory they can be computed in this process alone; a worker
        elsewhere answers with an `InputError` that says so.
    function : callable
        Takes rows of shape (n, D), n ≥ 0, and returns values of shape (n,), or (n, K). Picklable
        where the result is to be computed on a cluster.
    dtype : dtype
        Type of the values.
    n_outputs : int, optional
        K; without it there is one value per row.
    absent : float or int
        The value of rows that the source leaves out for what they miss.
    placed : bool
        Whether the function also takes the block that the rows are.

    Returns
    -------
    dask.array.Array
        Of the source's sample shape and chunks, and a last axis of length K in one chunk if
        `n_outputs` is given. Unknown chunk sizes stay unknown. Equal functions of equal
        sources have equal names in every process, where the source can tell that its rows have not
        changed (`Source.content_token`); all others have names of their own. Weights have no part
        in it: there is a value for each row, also for one of weight zero. A mask has: the value of
        a row that takes no part is `absent`.
    """
    scaling = source.scaling if isinstance(source, ScaledSource) else None
    source = source.unscaled
    if source.weights is not None:
        source = replace(source, weights=source.weights.alone())  # type: ignore[type-var]
    rows, source = source, scaled(source, scaling)
    content = source.content_token()
    token = (
        uuid.uuid4().hex
        if content is None
        else _tokenize(function, content, np.dtype(dtype), n_outputs)
    )
    name = f"gmm-map-{token}"
    function_key, source_key, rows_key = f"{name}-function", f"{name}-source", f"{name}-rows"
    tail = () if n_outputs is None else (0,)
    # A copy for each time that the graph is run, which goes with what its calls keep in it.
    graph: dict[Key, Any] = {function_key: Task(function_key, copy, function)}
    dependencies: list[Any] = []
    if isinstance(rows, DaskSource):
        dependencies.extend(rows.collections)
        graph[rows_key] = Task(rows_key, _itself, _row_maker(rows, scaling))
    else:
        keep = not source.shippable and not source.in_memory
        held = AnchoredSource(source) if keep else source
        graph[source_key] = Task(source_key, _itself, held)
    for i in range(source.n_blocks):
        key = (name, *source.grid.coordinates(i), *tail)
        if isinstance(rows, DaskSource):
            block_key = rows.collection_key(i)
            graph[key] = Task(
                key,
                _map_value,
                TaskRef(function_key),
                TaskRef(rows_key),
                TaskRef(block_key),
                source.block(i),
                n_outputs,
                absent,
                placed,
                **rows.beside(i, graph),
            )
        else:
            graph[key] = Task(
                key,
                _map_block,
                TaskRef(function_key),
                TaskRef(source_key),
                i,
                n_outputs,
                absent,
                placed,
            )
    chunks = source.sample_chunks + (() if n_outputs is None else ((n_outputs,),))
    array: Callable[..., da.Array] = da.Array  # untyped in Dask
    return array(
        HighLevelGraph.from_collections(name, graph, dependencies=dependencies),
        name,
        chunks,
        meta=np.empty((0,) * len(chunks), dtype=dtype),
    )


def _row_maker(source: DaskSource, scaling: Scaling | None) -> Maker:
    """What makes rows of a block, and the axis of their features."""
    maker = source.row_maker()
    rows_of = maker if scaling is None else ScaledRowMaker(maker, scaling)
    return rows_of, maker.feature_axis


def _itself(value: T) -> T:
    return value


def _map_block(
    function: Callable[..., NDArray[Any]],
    held: Source | AnchoredSource,
    index: int,
    n_outputs: int | None,
    absent: float,
    placed: bool,
) -> NDArray[Any]:
    source = held.source() if not isinstance(held, Source) else held
    block = source.block(index)
    shape = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
    rows = source.read(block)
    try:
        values = function(rows.values, block) if placed else function(rows.values)
    except RowError as error:
        place = rows.place(error.row)
        raise source.explained(error.at(source.locate(block, place), place), block) from None
    return _shaped(in_their_places(values, rows, absent), shape, n_outputs)


def _map_value(
    function: Callable[..., NDArray[Any]],
    maker: Maker,
    value: NDArray[Any],
    block: BlockRef,
    n_outputs: int | None,
    absent: float,
    placed: bool,
    **beside: NDArray[Any],
) -> NDArray[Any]:
    (rows_of, axis), rows = maker, None
    try:
        rows = rows_of({"values": value, **beside} if beside else value)
        values = function(rows.values, block) if placed else function(rows.values)
    except RowError as error:
        place = error.row if rows is None else rows.place(error.row)
        where = f"row {place} of block {block.index} of the Dask array"
        whole = {"values": value, **beside} if beside else value
        raise rows_of.explained(error.at(where, place), whole) from None
    values = in_their_places(values, rows, absent)
    return _shaped(values, value.shape[:axis] + value.shape[axis + 1 :], n_outputs)


def _shaped(values: NDArray[Any], sample: tuple[int, ...], n_outputs: int | None) -> NDArray[Any]:
    shape = sample if n_outputs is None else (*sample, n_outputs)
    if values.size != int(np.prod(shape)):
        raise InputError(
            f"The function returned values of shape {values.shape} for rows of shape {sample}."
        )
    return values.reshape(shape)
