"""Rows of a Dask collection: its own graph makes the blocks, on whatever runs the graph."""

from __future__ import annotations

import operator
import pickle
import re
import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import compute, optimize
from dask.task_spec import DataNode, Task, TaskRef

from dask_gmm.data.base import Source
from dask_gmm.data.block_rows import BlockRows
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.checked_store import CheckedStore
from dask_gmm.data.conventions import FillValue, attributes_of, joined, stored_decoding
from dask_gmm.data.decoding import SCRATCH_BYTES, Decoding, Remedies
from dask_gmm.data.grid import BlockRef, IrregularAxis, SampleGrid
from dask_gmm.data.layout import check_dtype, check_layout
from dask_gmm.data.masks import MaskedWeights
from dask_gmm.data.open_stores import store_name, store_url
from dask_gmm.data.stored_metadata import StoredMetadata, document_in, read_metadata
from dask_gmm.data.urls import join_url
from dask_gmm.data.weights import ArrayWeights, Weights, new_token
from dask_gmm.errors import InputError, RowError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import dask.array as da
    from dask.typing import Key
    from numpy.typing import NDArray

    from dask_gmm.rows import Rows

__all__ = ["DaskSource", "DaskWeights"]

_optimize: Callable[..., Any] = optimize  # untyped in Dask
_compute: Callable[..., Any] = compute


@dataclass(frozen=True, eq=False)
class DaskWeights(Weights):
    """Weights that a Dask graph makes, block by block as the data.

    Attributes
    ----------
    collection : dask.array.Array
        Of the samples' shape, in the blocks of the data.
    decoding : Decoding or None
        How its elements become weights, where they are none yet.
    """

    collection: da.Array
    name: str
    decoding: Decoding | None = None
    token: str = field(default_factory=new_token)

    @property
    def shippable(self) -> bool:
        """Whether workers can make them: they run the graph."""
        return True

    @cached_property
    def rereads_alike(self) -> bool:
        """Whether the graph only moves what is stored; what it computes may round differently."""
        return bool(stored_arrays(self.collection))

    def content_token(self) -> object:
        """Return the collection's own name."""
        return self.collection.name, self.decoding

    @cached_property
    def _stored(self) -> tuple[zarr.Array[Any], ...]:
        return tuple(zarr_arrays_of(self.collection))

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew the metadata of the Zarr arrays that the collection reads."""
        return tuple(_metadata_of(array) for array in self._stored)

    def read(
        self,
        block: BlockRef,
        buffers: ReadBuffers | None = None,
        requested: Mapping[str, Any] | None = None,
    ) -> NDArray[np.float64]:
        """Raise: the block's key in the graph stands for its weights."""
        raise TypeError(f"{self.name} is made by a graph, together with the rows.")


class _ReadWeights:
    """Reads weights in tasks of a graph, which name a block in numbers; for many threads.

    What one task has decoded for the blocks that follow waits for the next. `all_count` is whether
    an element that is missing is an error here, or for whoever knows which rows take part.
    """

    def __init__(self, weights: Weights, all_count: bool) -> None:
        self._weights = weights
        self._all_count = all_count
        self._spare: list[ReadBuffers] = []

    def __call__(
        self, index: int, start: tuple[int, ...], stop: tuple[int, ...]
    ) -> NDArray[np.float64]:
        try:
            buffers = self._spare.pop()
        except IndexError:
            buffers = ReadBuffers()
        # In memory of their own: the next task may begin while a block is still computed.
        block = BlockRef(index, start, stop, None)
        found = self._weights.read_of(self._all_count, block, buffers.beside())
        self._spare.append(buffers)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return _ReadWeights, (self._weights, self._all_count)


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
    decoding: Decoding | None = None
    fill: FillValue | None = None
    weights: Weights | None = None
    missing: str = "error"

    @classmethod
    def of(
        cls,
        collection: da.Array,
        feature_axis: int | str = -1,
        *,
        name: str = "Dask array",
        axis_names: Sequence[str] | None = None,
        conventions: tuple[Decoding | None, FillValue | None] | None = None,
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
        conventions : (Decoding or None, FillValue or None), optional
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
        check_block_type(type(collection._meta), name)
        check_dtype(collection.dtype, name)
        if conventions is None:
            conventions = conventions_of(collection, name)
        decoding, fill = conventions
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
            collection.dtype if decoding is None else decoding.dtype,
            axis,
            SampleGrid(axes),
            names,
            decoding=decoding,
            fill=fill,
        )

    @property
    def shippable(self) -> bool:
        """Whether workers can make the blocks: they run the collection's graph."""
        # Weights in memory are in the graph, block by block.
        return all(
            isinstance(part, ArrayWeights) or part.shippable for part in self._weight_parts.values()
        )

    @property
    def _weight_parts(self) -> dict[str, Weights]:
        """What is brought to the values of a block: weights, a mask `where`, or both."""
        if self.weights is None:
            return {}
        if not isinstance(self.weights, MaskedWeights):
            return {"weights": self.weights}
        parts = {"where": self.weights.mask}
        if self.weights.weights is not None:
            parts["weights"] = self.weights.weights
        return parts

    @property
    def _all_count(self) -> bool:
        """Whether each row has a weight; where a mask leaves some out theirs may be missing."""
        return not isinstance(self.weights, MaskedWeights)

    @property
    def graph_blocks(self) -> DaskSource:
        """Tasks of the collection's graph make the blocks."""
        return self

    @property
    def stays_because(self) -> str | None:
        """Why not: because of its weights."""
        return None if self.shippable or self.weights is None else self.weights.stays_because

    @property
    def read_bytes(self) -> int:
        """Bytes copied to turn a block into rows; what the graph itself holds is not known."""
        values = (self.max_block_rows or 0) * self.n_features
        copied = values * self.dtype.itemsize if self.feature_axis < len(self.shape) - 1 else 0
        decoded = 0 if self.decoding is None else values * self.dtype.itemsize + SCRATCH_BYTES
        return copied + decoded + self._weighing_bytes

    def block_key(self, i: int) -> Key:
        """Return the key in `graph()` whose value is block `i`, for `row_maker`."""
        return (self._made[1], *self._with_features(self.grid.coordinates(i), 0))

    def collection_key(self, i: int) -> Key:
        """Return the key of block `i` in the collection's own graph, before optimisation."""
        coordinates = self.grid.coordinates(i)
        return (self.collection.name, *self._with_features(coordinates, 0))

    def graph(self) -> Mapping[Key, Any]:
        """Return the optimised graph that makes every block; made once.

        A persisted collection's graph holds the futures of its blocks; any Client of the same
        cluster runs it. Weights are brought to the values of a block by a task for each, so that
        whoever runs the graph waits for both.
        """
        return self._made[0]

    @cached_property
    def _stored(self) -> tuple[zarr.Array[Any], ...]:
        return tuple(zarr_arrays_of(self.collection))

    def stored_metadata(self) -> tuple[StoredMetadata, ...]:
        """Read anew the metadata of the Zarr arrays that the collection reads, and its weights'.

        Those of ``dask.array.from_zarr`` and of ``xarray.open_zarr``, whatever is done to their
        elements; of those that a function of the graph opens nothing is known.
        """
        return (*(_metadata_of(array) for array in self._stored), *super().stored_metadata())

    def metadata_digest(self) -> str | None:
        """Return the digest of the metadata as by `Source`, but None where they cannot be read.

        Only those who run the graph need to reach its stores.
        """
        try:
            return super().metadata_digest()
        except StoreError:
            return None

    def content_token(self) -> object:
        """Return the collection's own name, and what is made of its blocks."""
        own: tuple[object, ...] = self.collection.name, self.feature_axis, self.decoding
        if self.missing != "error":
            own = (*own, self.missing)
        if self.weights is None:
            return own
        weights = self.weights.content_token()
        return None if weights is None else (own, weights)

    def futures(self) -> tuple[Any, ...]:
        """Return the `distributed.Future`s that the collections hold: their persisted blocks."""
        distributed = sys.modules.get("distributed")
        if distributed is None:  # then nobody has made one
            return ()
        found: Sequence[Any] = distributed.futures_of(list(self.collections))
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
    def _made(self) -> tuple[Mapping[Key, Any], str]:
        """The optimised graph, and the first part of the keys of its blocks."""
        parts = self._weight_parts
        if not parts:
            optimized = _optimize(self.collection)[0]
            return optimized.__dask_graph__(), optimized.name
        made = {name: w for name, w in parts.items() if isinstance(w, DaskWeights)}
        values, *theirs = _optimize(self.collection, *(w.collection for w in made.values()))
        graph = dict(values.__dask_graph__())
        for other in theirs:
            graph.update(other.__dask_graph__())
        names = {name: other.name for name, other in zip(made, theirs, strict=True)}
        token = "-".join(part.token for part in parts.values())
        name = f"gmm-weighted-{self.collection.name}-{token}"
        for i in range(self.n_blocks):
            coordinates = self.grid.coordinates(i)
            place = self._with_features(coordinates, 0)
            beside = self.beside(i, graph, names)
            # A dict, which no scheduler needs a package of ours for.
            graph[(name, *place)] = Task(
                (name, *place), dict, values=TaskRef((values.name, *place)), **beside
            )
        return graph, name

    def beside(
        self, i: int, graph: dict[Key, Any], names: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return what a task brings to the values of block `i`: its weights, its mask.

        Parameters
        ----------
        i : int
        graph : dict
            Takes the tasks that read them, where tasks do.
        names : mapping, optional
            The first parts of the keys of those that a graph makes; by default those of the
            collections' own graphs.
        """
        found: dict[str, Any] = {}
        for kind, weights in self._weight_parts.items():
            if isinstance(weights, DaskWeights):
                name = weights.collection.name if names is None else names[kind]
                found[kind] = TaskRef((name, *self.grid.coordinates(i)))
            elif isinstance(weights, ArrayWeights):
                part = weights.read(self.block(i))
                found[kind] = part.reshape([b - a for a, b in self._bounds(i)])
            else:
                found[kind] = self._read_in_task(graph, weights, i)
        return found

    @property
    def collections(self) -> tuple[da.Array, ...]:
        """The collection, and those that make its weights."""
        made = (part for part in self._weight_parts.values() if isinstance(part, DaskWeights))
        return (self.collection, *(part.collection for part in made))

    def _bounds(self, i: int) -> list[tuple[int, int]]:
        block = self.block(i)
        return list(zip(block.start, block.stop, strict=True))

    def _read_in_task(self, graph: dict[Key, Any], weights: Weights, i: int) -> TaskRef:
        """Add the task that reads the weights of a block; return its reference."""
        load = f"gmm-weights-{weights.token}{'' if self._all_count else '-masked'}"
        if load not in graph:
            reader = _ReadWeights(weights, self._all_count)
            graph[load] = (
                Task(load, pickle.loads, pickle.dumps(reader))
                if weights.shippable
                else DataNode(load, reader)
            )
        block = self.block(i)
        extent = tuple(b - a for a, b in self._bounds(i))
        read, key = f"{load}-read", (f"{load}-block", i)
        graph[(read, i)] = Task(
            (read, i), operator.call, TaskRef(load), block.index, block.start, block.stop
        )
        graph[key] = Task(key, np.reshape, TaskRef((read, i)), extent)
        return TaskRef(key)

    def __getstate__(self) -> dict[str, Any]:
        # The optimised graph is made again where it is needed: its output keys are the same.
        made = {"_made", "_stored", "rereads_alike"}
        return {name: value for name, value in super().__getstate__().items() if name not in made}

    @cached_property
    def rereads_alike(self) -> bool:
        """Whether the graph only moves what is stored; what it computes may round differently."""
        return bool(stored_arrays(self.collection))

    @property
    def reads_cost(self) -> bool:
        """False: the graph makes the blocks, and whoever wants to keep them persists it."""
        return False

    def read(self, block: BlockRef) -> Rows:
        """Compute one block with Dask's current scheduler and return its rows.

        Not for use inside tasks: there the block's key stands for it.
        """
        coordinates = self.grid.coordinates(block.index)
        value = self.collection.blocks[self._with_features(coordinates, 0)]
        try:
            if self.weights is None:
                return self.row_maker()(value.compute())
            return self.row_maker()(self._with_weights(value, block))
        except RowError as error:
            raise error.at(self.locate(block, error.row)) from None

    def _with_weights(self, value: da.Array, block: BlockRef) -> dict[str, NDArray[Any]]:
        """Compute the values of a block and its weights."""
        parts, extent = self._weight_parts, [b - a for a, b in self._bounds(block.index)]
        coordinates = self.grid.coordinates(block.index)
        made = {
            name: weights.collection.blocks[coordinates]
            for name, weights in parts.items()
            if isinstance(weights, DaskWeights)
        }
        values, *computed = _compute(value, *made.values())
        found = {"values": values, **dict(zip(made, computed, strict=True))}
        for name, weights in parts.items():
            if name not in made:
                found[name] = weights.read_of(self._all_count, block).reshape(extent)
        return found

    def row_maker(self) -> BlockRows:
        """Return what turns the value of a block's key into rows."""
        rows = BlockRows(self.n_features, self.feature_axis, self.decoding, missing=self.missing)
        if self.weights is None:
            return rows
        # Other weights, and masks, are decoded before they are here.
        made = {
            name: part.decoding
            for name, part in self._weight_parts.items()
            if isinstance(part, DaskWeights)
        }
        return replace(
            rows,
            weights=self.weights.name,
            weight_decoding=made.get("weights"),
            mask_decoding=made.get("where"),
            looked_at=self.weights.looked_at,
            selects_only=self.weights.selects_only,
        )


def check_block_type(kind: type, name: str, code: str = "X") -> None:
    """Refuse blocks that are no NumPy arrays, with what makes such of them."""
    if kind is np.ndarray:
        return
    called = f"{kind.__module__}.{kind.__qualname__}"
    advice = f"Convert them with {code}.map_blocks and a function that returns NumPy arrays"
    if issubclass(kind, np.ma.MaskedArray):
        advice = (
            f"Make the masked values NaN by `dask.array.ma.filled({code}.astype(float), numpy.nan)`"
            f" and drop the rows that hold NaN"
        )
    elif hasattr(kind, "todense"):
        advice = (
            f"Make them dense by `{code}.map_blocks(lambda block: numpy.asarray(block.todense()), "
            f"meta=numpy.empty((0, 0), {code}.dtype))`"
        )
    elif hasattr(kind, "get"):
        advice = f"Bring them to the host by `{code}.map_blocks(lambda block: block.get())`"
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
        found += [
            value
            for value in _held_by(layer)
            if isinstance(value, zarr.Array) or (attributes_of(value) and hasattr(value, "dtype"))
        ]
    return found


def zarr_arrays_of(collection: da.Array) -> Iterator[zarr.Array[Any]]:
    """Yield the Zarr arrays that a collection's layers hold, each once; makes no layer's tasks."""
    seen: set[int] = set()
    for layer in collection.dask.layers.values():
        for held in _held_by(layer):
            array = _unwrapped(held)
            if isinstance(array, zarr.Array) and id(array) not in seen:
                seen.add(id(array))
                yield array


def _unwrapped(value: Any) -> Any:
    """Return what lies inside of xarray's wrappers, which are put around each other."""
    while type(value).__module__.startswith("xarray."):
        value = getattr(value, "_array", getattr(value, "array", None))
    return value


def _held_by(layer: Any) -> Iterator[Any]:
    """Yield what a layer of a graph holds beside keys and functions, not counting many tasks'."""
    held = layer.values() if len(layer) == 1 else ()
    literals = (item for item, index in getattr(layer, "indices", ()) if index is None)
    return (getattr(item, "value", item) for item in (*held, *literals))


def _metadata_of(array: zarr.Array[Any]) -> StoredMetadata:
    store = array.store_path.store
    if not isinstance(store, CheckedStore):
        store = CheckedStore(store, store_url(store) or store_name(store), "error")
    name = join_url(store.url, array.path)
    return read_metadata(document_in(store, array.path), name, array.metadata.zarr_format)


def conventions_of(
    collection: da.Array, name: str, code: str = "X"
) -> tuple[Decoding | None, FillValue | None]:
    """Return how the elements of the arrays that the collection holds are decoded.

    Raises
    ------
    InputError
        They cannot be, or not in one way.
    """
    remedies = Remedies(code, f"{code} + 0")
    found = [stored_decoding(array, name, remedies) for array in stored_arrays(collection)]
    fills = [fill for _, fill in found if fill is not None]
    decodings = [decoding for decoding, _ in found]
    return joined(decodings, collection.dtype, name, remedies), fills[0] if fills else None
