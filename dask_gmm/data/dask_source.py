"""Rows of a Dask collection: its own graph makes the blocks, on whatever runs the graph."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import optimize
from dask.task_spec import DataNode, Task

from dask_gmm.data.base import Source, check_dtype, check_layout, flatten_block
from dask_gmm.data.conventions import (
    NO_MARKS,
    Mark,
    Marks,
    Remedies,
    attributes_of,
    joined,
    stored_marks,
)
from dask_gmm.data.grid import BlockRef, IrregularAxis, SampleGrid
from dask_gmm.errors import InputError, MissingValueError
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dask.array as da
    from dask.typing import Key

__all__ = ["BlockRows", "DaskSource"]

_optimize: Callable[..., Any] = optimize  # untyped in Dask


@dataclass(frozen=True)
class BlockRows:
    """Turns the value of a block's key into rows; travels without the collection.

    Attributes
    ----------
    n_features : int
        Features that the collection promised.
    feature_axis : int
        Where they lie.
    marks : Marks
        Elements that are no measurements.
    """

    n_features: int
    feature_axis: int
    marks: Marks = NO_MARKS

    def __call__(self, value: Any) -> Rows:
        """Return the rows of a block.

        Parameters
        ----------
        value : ndarray of shape (..., n_features, ...)
            What the graph made.

        Returns
        -------
        Rows
            Values of shape (n, n_features).

        Raises
        ------
        InputError
            The value is not what the collection's metadata promised.
        MissingValueError
            A row holds a value that is no measurement.
        """
        if type(value) is not np.ndarray:
            kind = type(value)
            raise InputError(
                f"A block of the Dask array is a {kind.__module__}.{kind.__qualname__}, not a "
                f"NumPy array as its meta says: make NumPy arrays of the blocks, for example by "
                f"`X.map_blocks(numpy.asarray)` where that loses nothing."
            )
        if value.ndim <= self.feature_axis or value.shape[self.feature_axis] != self.n_features:
            raise InputError(
                f"A block of the Dask array has shape {value.shape}, but its metadata promise "
                f"{self.n_features} features along axis {self.feature_axis}: give the function "
                f"that makes the blocks its true chunks."
            )
        check_dtype(value.dtype, "A block of the Dask array")
        values = flatten_block(value, self.feature_axis)
        self.marks.check(values)
        return Rows(values)


@dataclass(frozen=True, eq=False)
class DaskSource(Source):
    """A `dask.array`. Use `DaskSource.of`.

    Whoever runs a pass takes `graph()` whole, asks for `block_key(i)` and turns each value into
    rows by `row_maker`. `read` is for this process alone, outside of any task.
    """

    collection: da.Array
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None
    marks: Marks = NO_MARKS
    fill: Mark | None = None

    @classmethod
    def of(
        cls,
        collection: da.Array,
        feature_axis: int | str = -1,
        *,
        name: str = "Dask array",
        axis_names: Sequence[str] | None = None,
        conventions: tuple[Marks, Mark | None] | None = None,
    ) -> DaskSource:
        """Describe a collection; its feature axis is put into one chunk if it is not.

        Parameters
        ----------
        collection : dask.array.Array
            Two or more axes of NumPy blocks; chunk sizes along sample axes may be unknown.
        feature_axis : int or str, default=-1
            Axis of the features; a name when `axis_names` are given.
        name : str
            What messages call it.
        axis_names : sequence of str, optional
            Names of all axes.
        conventions : (Marks, Mark or None), optional
            What the metadata say of the values; by default those of the arrays on disk that the
            collection holds.

        Raises
        ------
        InputError
            If the collection has no rows-and-features layout, no real numbers, or blocks that are
            not NumPy arrays.
        """
        shape = tuple(None if n != n else int(n) for n in collection.shape)  # noqa: PLR0124  NaN
        axis = check_layout(shape, feature_axis, name, axis_names)
        _check_block_type(type(collection._meta), name)
        check_dtype(collection.dtype, name)
        if conventions is None:
            conventions = _conventions(collection, name)
        marks, fill = conventions
        if collection.numblocks[axis] != 1:
            rechunk: Callable[..., da.Array] = collection.rechunk  # untyped in Dask
            collection = rechunk({axis: -1})
        chunks = collection.chunks[:axis] + collection.chunks[axis + 1 :]
        axes = tuple(IrregularAxis(tuple(sizes)) for sizes in chunks)
        names = None if axis_names is None else tuple(axis_names)
        return cls(
            collection,
            name,
            shape,
            collection.dtype,
            axis,
            SampleGrid(axes),
            names,
            marks=marks,
            fill=fill,
        )

    @property
    def shippable(self) -> bool:
        """Whether workers can make the blocks: they run the collection's graph."""
        return True

    @property
    def read_bytes(self) -> int:
        """Bytes copied to turn a block into rows; what the graph itself holds is not known."""
        copied = 0 if self.feature_axis == len(self.shape) - 1 else self.block_bytes
        flags = self.block_bytes // self.dtype.itemsize if self.marks.values else 0
        return copied + flags

    def block_key(self, i: int) -> Key:
        """Return the key in `graph()` whose value is block `i`, as an array with all its axes."""
        coordinates = self.grid.coordinates(i)
        return (self._optimized.name, *self._with_features(coordinates, 0))

    def collection_key(self, i: int) -> Key:
        """Return the key of block `i` in the collection's own graph, before optimisation."""
        coordinates = self.grid.coordinates(i)
        return (self.collection.name, *self._with_features(coordinates, 0))

    def graph(self) -> Mapping[Key, Any]:
        """Return the optimised graph that makes every block; made once.

        A persisted collection's graph holds the futures of its blocks; any Client of the same
        cluster runs it.
        """
        graph: Mapping[Key, Any] = self._optimized.__dask_graph__()
        return graph

    def content_token(self) -> object:
        """Return the collection's own name, and what is made of its blocks."""
        return self.collection.name, self.feature_axis, self.marks

    def futures(self) -> tuple[Any, ...]:
        """Return the `distributed.Future`s that the collection holds: its persisted blocks."""
        distributed = sys.modules.get("distributed")
        if distributed is None:  # then nobody has made one
            return ()
        found: Sequence[Any] = distributed.futures_of(self.collection)
        return tuple(found)

    def zarr_arrays(self) -> Iterator[zarr.Array[Any]]:
        """Yield the Zarr arrays that the collection's graph holds, as of `da.from_zarr`."""
        graph: Mapping[Key, Any] = self.collection.__dask_graph__()
        for node in graph.values():
            held = node.args if isinstance(node, Task) else (node,)
            for item in held:
                value = item.value if isinstance(item, DataNode) else item
                if isinstance(value, zarr.Array):
                    yield value

    @cached_property
    def _optimized(self) -> da.Array:
        optimized: da.Array = _optimize(self.collection)[0]
        return optimized

    def __getstate__(self) -> dict[str, Any]:
        # The optimised graph is made again where it is needed: its output keys are the same.
        return {name: value for name, value in self.__dict__.items() if name != "_optimized"}

    @property
    def reads_cost(self) -> bool:
        """False: the graph makes the blocks, and whoever wants to keep them persists it."""
        return False

    def read(self, block: BlockRef) -> Rows:
        """Compute one block with Dask's current scheduler and return its rows.

        Not for use inside tasks: there the block's key stands for it.
        """
        value = self.collection.blocks[
            self._with_features(self.grid.coordinates(block.index), 0)
        ].compute()
        try:
            return self.row_maker()(value)
        except MissingValueError as error:
            raise error.at(self.locate(block, error.row)) from None

    def row_maker(self) -> BlockRows:
        """Return what turns the value of a block's key into rows."""
        return BlockRows(self.n_features, self.feature_axis, self.marks)


def _check_block_type(kind: type, name: str) -> None:
    """Refuse blocks that are no NumPy arrays, with what makes such of them."""
    if kind is np.ndarray:
        return
    called = f"{kind.__module__}.{kind.__qualname__}"
    advice = "Convert them with X.map_blocks and a function that returns NumPy arrays"
    if issubclass(kind, np.ma.MaskedArray):
        advice = (
            "Make the masked values NaN by `dask.array.ma.filled(X.astype(float), numpy.nan)` and "
            "drop the rows that hold NaN"
        )
    elif hasattr(kind, "todense"):
        advice = (
            "Make them dense by `X.map_blocks(lambda block: numpy.asarray(block.todense()), "
            "meta=numpy.empty((0, 0), X.dtype))`"
        )
    elif hasattr(kind, "get"):
        advice = "Bring them to the host by `X.map_blocks(lambda block: block.get())`"
    raise InputError(f"{name} has blocks of type {called}; a pass needs NumPy blocks. {advice}.")


# Layers of a Dask graph that move elements and leave them as they are, by the first word of their
# names. Whoever does anything else to a store's elements is taken to know what they mean.
_MOVES = frozenset(
    {
        "array",
        "blocks",
        "concatenate",
        "from",
        "getitem",
        "original",
        "rechunk",
        "reshape",
        "squeeze",
        "stack",
        "transpose",
    }
)


def stored_arrays(collection: da.Array) -> list[Any]:
    """Return the arrays on disk whose elements are all that the collection holds, if so.

    Those of ``dask.array.from_zarr`` and ``from_array``: joined, cut, turned and rechunked at most.
    """
    found: list[Any] = []
    for name, layer in collection.dask.layers.items():
        if re.split("[-_]", str(name), maxsplit=1)[0] not in _MOVES:
            return []
        held = layer.values() if len(layer) == 1 else ()
        literals = (item for item, index in getattr(layer, "indices", ()) if index is None)
        values = (getattr(item, "value", item) for item in (*held, *literals))
        found += [
            value
            for value in values
            if isinstance(value, zarr.Array) or (attributes_of(value) and hasattr(value, "dtype"))
        ]
    return found


def _conventions(collection: da.Array, name: str) -> tuple[Marks, Mark | None]:
    """Return the marks of the arrays that the collection holds; of several, all marks there are."""
    remedies = Remedies("X", "X + 0")
    found = [stored_marks(array, name, remedies) for array in stored_arrays(collection)]
    fills = [fill for _, fill in found if fill is not None]
    return joined([marks for marks, _ in found]), fills[0] if fills else None
