"""Rows of a Dask collection: its own graph makes the blocks, on whatever runs the graph."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import optimize
from dask.task_spec import DataNode, Task

from dask_gmm.data.base import Source, check_dtype, check_layout, flatten_block
from dask_gmm.data.grid import BlockRef, IrregularAxis, SampleGrid
from dask_gmm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dask.array as da
    from dask.typing import Key
    from numpy.typing import NDArray

__all__ = ["DaskSource"]

_optimize: Callable[..., Any] = optimize  # untyped in Dask


@dataclass(frozen=True, eq=False)
class DaskSource(Source):
    """A `dask.array`. Use `DaskSource.of`.

    Whoever runs a pass takes `graph()` whole, asks for `block_key(i)` and turns each value into
    rows with `rows_of`. `read` is for this process alone, outside of any task.
    """

    collection: da.Array
    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    feature_axis: int
    grid: SampleGrid
    axis_names: tuple[str, ...] | None = None
    feature_names: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        collection: da.Array,
        feature_axis: int | str = -1,
        *,
        name: str = "Dask array",
        axis_names: Sequence[str] | None = None,
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

        Raises
        ------
        InputError
            If the collection has no rows-and-features layout, no real numbers, or blocks that are
            not NumPy arrays.
        """
        shape = tuple(None if n != n else int(n) for n in collection.shape)  # noqa: PLR0124  NaN
        axis = check_layout(shape, feature_axis, name, axis_names)
        kind = type(collection._meta)
        if kind is not np.ndarray:
            raise InputError(
                f"{name} has blocks of type {kind.__module__}.{kind.__qualname__}; a pass needs "
                f"NumPy blocks. Convert them, for example with .map_blocks(to_dense) for sparse, "
                f".map_blocks(cupy.asnumpy) for CuPy, or da.ma.filled for masked arrays."
            )
        check_dtype(collection.dtype, name)
        if collection.numblocks[axis] != 1:
            rechunk: Callable[..., da.Array] = collection.rechunk  # untyped in Dask
            collection = rechunk({axis: -1})
        chunks = collection.chunks[:axis] + collection.chunks[axis + 1 :]
        axes = tuple(IrregularAxis(tuple(sizes)) for sizes in chunks)
        names = None if axis_names is None else tuple(axis_names)
        return cls(collection, name, shape, collection.dtype, axis, SampleGrid(axes), names)

    @property
    def shippable(self) -> bool:
        """Whether workers can make the blocks: they run the collection's graph."""
        return True

    @property
    def read_bytes(self) -> int:
        """Bytes copied to turn a block into rows; what the graph itself holds is not known."""
        return 0 if self.feature_axis == len(self.shape) - 1 else self.block_bytes

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
        return self.collection.name, self.feature_axis

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

    def read(self, block: BlockRef) -> NDArray[Any]:
        """Compute one block with Dask's current scheduler and return its rows.

        Not for use inside tasks: there the block's key stands for it.
        """
        value = self.collection.blocks[
            self._with_features(self.grid.coordinates(block.index), 0)
        ].compute()
        return self.rows_of(value, self.n_features, self.feature_axis)

    @staticmethod
    def rows_of(value: Any, n_features: int, feature_axis: int) -> NDArray[Any]:
        """Turn the value of a block's key into rows.

        Parameters
        ----------
        value : ndarray of shape (..., n_features, ...)
            What the graph made.
        n_features : int
            Features that the collection promised.
        feature_axis : int
            Where they lie.

        Returns
        -------
        ndarray of shape (n, n_features)

        Raises
        ------
        InputError
            If the value is not what the collection's metadata promised.
        """
        if type(value) is not np.ndarray:
            kind = type(value)
            raise InputError(
                f"A block of the Dask array is a {kind.__module__}.{kind.__qualname__}, not a "
                f"NumPy array as its meta says: convert it with .map_blocks."
            )
        if value.ndim <= feature_axis or value.shape[feature_axis] != n_features:
            raise InputError(
                f"A block of the Dask array has shape {value.shape}, but its metadata promise "
                f"{n_features} features along axis {feature_axis}: give the function that makes "
                f"the blocks its true chunks."
            )
        check_dtype(value.dtype, "A block of the Dask array")
        return flatten_block(value, feature_axis)
