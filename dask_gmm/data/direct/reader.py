"""Blocks of common Zarr layouts, fetched and decoded straight into reused memory.

zarr-python makes fresh memory for a chunk's bytes, for the decoded chunk and for the block, and
hands each chunk through an event loop: half a millisecond per small block, and far below what disk
and codec give for big ones. Here a chunk's bytes go into a buffer that the last block used, and are
decoded into the place where the block needs them wherever a chunk lies there in one piece.

Decoded GB per second, float64 noise in the page cache, one thread, the best of some turns on one
machine (`tests/benchmarks/bench_reader.py`, Intel Xeon); `raw` reads the stored bytes and leaves
them as they are, `zarrs` is the pipeline written in Rust, which has its own memory for each chunk:

======================  ====  =====  ===========  =====
chunks                  raw   here   zarr-python  zarrs
======================  ====  =====  ===========  =====
64 KiB, as they are     5.7   3.0           0.13   0.19
1 MiB, as they are      9.2   7.5           1.2    2.0
8 MiB, as they are      8.3   8.2           2.7    3.9
8 MiB, Zstandard        7.9   0.97          0.66   0.74
8 MiB, Blosc with LZ4   8.9   3.1           1.5    2.2
32 MiB, Blosc with LZ4  7.4   2.5           1.5    0.96
======================  ====  =====  ===========  =====

The bits are zarr-python's, and so are the errors; `tests/conformance/test_readers.py` holds one
against the other.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.chunk_errors import (
    broken_shard,
    empty_chunk,
    missing_chunk,
    undecodable_chunk,
)
from dask_gmm.data.direct.memory import encoded_bytes
from dask_gmm.data.direct.objects import LocalFiles, RemoteObject, RemoteObjects, StoredObject
from dask_gmm.data.direct.requests import Request, submitted
from dask_gmm.data.layout import flatten_block
from dask_gmm.data.rereading import reread
from dask_gmm.data.shards import ABSENT
from dask_gmm.errors import CorruptChunkError, DaskGMMError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.buffers import Memory, ReadBuffers
    from dask_gmm.data.decoding import Decoding
    from dask_gmm.data.direct.layout import DirectLayout

__all__ = ["DirectReader"]

_MAX_FORMS = 64

Place = tuple[int, ...]
Box = tuple[tuple[int, int], ...]
"""Half-open range along each axis of the array, features included."""


class DirectReader:
    """Reads boxes of one array. Safe to share between threads that have buffers of their own.

    Parameters
    ----------
    layout : DirectLayout
        Where elements lie in objects.
    objects : LocalFiles or RemoteObjects
        Where objects lie.
    name : str
        What messages call the array.
    feature_axis : int or None
        The axis that rows hold; None if each element is a row.
    limit : int
        Longest box along the first axis.
    whole_objects : bool
        Whether a box needs all of each object that it touches.
    fill_missing : bool
        Whether what is not stored holds the fill value; else it is an error.
    decoding : Decoding, optional
        What is made of the elements once they are there.
    """

    def __init__(
        self,
        layout: DirectLayout,
        objects: LocalFiles | RemoteObjects,
        name: str,
        *,
        feature_axis: int | None,
        limit: int,
        whole_objects: bool,
        fill_missing: bool,
        decoding: Decoding | None = None,
    ) -> None:
        self._layout = layout
        self._objects = objects
        self._name = name
        self._feature_axis = feature_axis
        self._limit = limit
        self._whole_objects = whole_objects
        self._fill_missing = fill_missing
        self._decoding = decoding
        self._chunk_bytes = layout.chunk_bytes
        self._object_bytes = encoded_bytes(layout, layout.unit)
        self._forms: dict[tuple[int, ...], _Form] = {}
        self._per_unit = [u // c for u, c in zip(layout.unit, layout.chunk, strict=True)]

    def read(
        self, box: Box, buffers: ReadBuffers, requested: Mapping[str, Request] | None = None
    ) -> NDArray[Any]:
        """Return the rows of a box, which lie in ``buffers.rows``; of no features, shape (n,).

        Parameters
        ----------
        box : tuple of pairs
            What to read.
        buffers : ReadBuffers
            Memory that is overwritten.
        requested : mapping of str to Request, optional
            Objects that are on their way already, by key.
        """
        form = self._form(tuple([b - a for a, b in box]))
        memory, decoding = buffers.rows, self._decoding
        target = _Target(self._layout, box, form, self._feature_axis, memory, decoding)
        self._read_target(target, buffers, requested)
        return target.rows()

    def read_to(
        self,
        box: Box,
        into: NDArray[Any],
        buffers: ReadBuffers,
        requested: Mapping[str, Request] | None = None,
    ) -> None:
        """Read a box to where it is wanted, which is not in `buffers`.

        Parameters
        ----------
        box, buffers, requested
            As for `read`.
        into : ndarray of the box's extent along the array's axes
            Of any strides, and a type that holds what is read.
        """
        target = _Placed(self._layout, box, into, self._decoding)
        self._read_target(target, buffers, requested)

    def _read_target(
        self, target: _Target, buffers: ReadBuffers, requested: Mapping[str, Request] | None
    ) -> None:
        if requested is None:
            requested = self.request(target.box)
        try:
            for place in _places(target.box, self._layout.unit):
                key = self._layout.key(place)
                asked = None if requested is None else requested[key]
                try:
                    self._read_object(place, key, asked, target, buffers)
                    continue
                except CorruptChunkError:
                    if not isinstance(self._objects, RemoteObjects):
                        raise
                reread(partial(self._read_object, place, key, None, target, buffers))
        except BaseException:
            for asked in (requested or {}).values():
                asked.cancel()
            raise

    def _read_object(
        self, place: Place, key: str, asked: Request | None, target: _Target, buffers: ReadBuffers
    ) -> None:
        """Bring what one object holds of a box to its place."""
        stored = self._open(place, key, target.box) if asked is None else asked.result()
        if stored is None:
            if not self._fill_missing:
                raise missing_chunk(self._objects.url, key)
            target.fill(_box_of(place, self._layout.unit), self._layout.fill)
            return
        with stored:
            if self._layout.shards is None:
                self._read_chunk(stored, 0, stored.size, place, key, target, buffers)
            else:
                self._read_shard(stored, place, key, target, buffers)

    def _open(self, place: Place, key: str, box: Box) -> StoredObject | None:
        if isinstance(self._objects, RemoteObjects):
            return self._fetch(self._objects, place, box)
        return self._objects.open(key)

    def request(self, box: Box) -> dict[str, Request] | None:
        """Ask for what a box needs of its objects and return at once; None for files."""
        if not isinstance(self._objects, RemoteObjects):
            return None
        return {
            self._layout.key(place): submitted(self._fetch, self._objects, place, box)
            for place in _places(box, self._layout.unit)
        }

    def _fetch(self, objects: RemoteObjects, place: Place, box: Box) -> StoredObject | None:
        """Ask for an object, or what a box needs of it, and wait."""
        key, shards = self._layout.key(place), self._layout.shards
        if self._whole_objects:
            return objects.open(key, self._object_bytes)
        assert shards is not None
        stored = objects.open_ranged(key, shards.index_bytes, head=shards.at_start)
        if stored is not None:
            stored.inner = there, _ = self._inner_chunks(stored, place, key, box)
            stored.announce([(offset, length) for _, offset, length in there])
        return stored

    def _form(self, extent: tuple[int, ...]) -> _Form:
        form = self._forms.get(extent)
        if form is None:  # there is one for all blocks but those at the array's edges
            if len(self._forms) >= _MAX_FORMS:
                self._forms.clear()
            form = _Form.of(self._layout, extent, self._feature_axis, self._limit)
            self._forms[extent] = form
        return form

    def _read_chunk(
        self,
        stored: StoredObject,
        offset: int,
        length: int,
        place: Place,
        key: str,
        target: _Target,
        buffers: ReadBuffers,
    ) -> None:
        """Bring one chunk, which lies at `offset` of an object, to its place in the block."""
        layout = self._layout
        size = self._chunk_bytes
        straight = target.straight(place)
        try:
            if straight is None:
                decoded = self._decoded(stored, offset, length, size, buffers)
                target.put(place, decoded)
            elif layout.codec.plain:
                _check_size(length, size)
                stored.part_into(offset, straight)
            else:
                layout.codec.decode(stored.part(offset, length, buffers.encoded), straight)
        except (DaskGMMError, MemoryError):
            raise
        except Exception as error:  # codecs raise what they like
            raise undecodable_chunk(self._name, f"chunk {place} (key {key!r})", error) from error

    def _decoded(
        self, stored: StoredObject, offset: int, length: int, size: int, buffers: ReadBuffers
    ) -> NDArray[np.uint8]:
        encoded = stored.part(offset, length, buffers.encoded)
        codec = self._layout.codec
        if codec.compressor is None:
            content = codec.unwrapped(encoded)
            _check_size(content.size, size)
            return content
        decoded = buffers.decoded.take(size)
        codec.decode(encoded, decoded)
        return decoded

    def _read_shard(
        self, stored: StoredObject, unit: Place, key: str, target: _Target, buffers: ReadBuffers
    ) -> None:
        found = stored.inner if isinstance(stored, RemoteObject) else None
        there, absent = found or self._inner_chunks(stored, unit, key, target.box)
        for place in absent:
            target.fill(_box_of(place, self._layout.chunk), self._layout.fill)
        for place, offset, length in there:
            self._read_chunk(stored, offset, length, place, key, target, buffers)

    def _inner_chunks(
        self, stored: StoredObject, unit: Place, key: str, box: Box
    ) -> tuple[list[tuple[Place, int, int]], list[Place]]:
        """Return where in a shard the chunks of a box lie, and which hold the fill value."""
        shards, url = self._layout.shards, self._objects.url
        assert shards is not None
        encoded = stored.tail_or_head(shards.index_bytes, head=shards.at_start)
        if encoded.size < shards.index_bytes:
            raise broken_shard(url, key, "it is shorter than its index")
        index = shards.decode_index(encoded.tobytes(), key, url)
        first = tuple(u * n for u, n in zip(unit, self._per_unit, strict=True))
        there: list[tuple[Place, int, int]] = []
        absent: list[Place] = []
        for place in _places(_clip(box, unit, self._layout.unit), self._layout.chunk):
            inside = tuple(p - f for p, f in zip(place, first, strict=True))
            offset, length = (int(n) for n in index[inside])
            if offset == length == ABSENT:
                if not self._fill_missing:
                    raise missing_chunk(url, key, place)
                absent.append(place)
            elif offset + length > stored.size:
                raise broken_shard(url, key, "it is truncated: its index points beyond its end")
            elif length == 0:
                raise empty_chunk(url, key)
            else:
                there.append((place, offset, length))
        return there, absent


@dataclass(frozen=True)
class _Form:
    """How boxes of one extent are laid out in memory.

    Zarr gives the block as it lies in the array and a view of that as rows, if strides can say it.
    They are laid out in the same way here: arithmetic may round differently for other strides.

    Attributes
    ----------
    elements : int
        Number of elements of the box.
    capacity : int
        Bytes of memory, with room for the last chunk to reach over the array's edge.
    piece : int
        Bytes of a chunk if chunks lie in the box one behind the other, each in one piece; else 0.
    as_rows : bool
        Whether elements lie as rows in C order and not as in the array.
    """

    extent: tuple[int, ...]
    elements: int
    capacity: int
    piece: int
    as_rows: bool

    @classmethod
    def of(
        cls, layout: DirectLayout, extent: tuple[int, ...], feature_axis: int | None, limit: int
    ) -> _Form:
        as_rows = False
        if feature_axis is not None:
            before = math.prod(extent[:feature_axis])
            as_rows = before > 1 and math.prod(extent[feature_axis + 1 :]) > 1
        elements = math.prod(extent)
        # Chunks as wide as the box; the memory that is planned for the longest box must do.
        whole = -(-extent[0] // layout.chunk[0]) * layout.chunk[0]
        piece = 0
        capacity = elements * layout.dtype.itemsize
        if extent[1:] == layout.chunk[1:] and not as_rows and whole <= limit:
            piece = layout.chunk_bytes
            capacity = whole * math.prod(extent[1:]) * layout.dtype.itemsize
        return cls(extent, elements, capacity, piece, as_rows)


class _Target:
    """Where a box's elements go, and what is made of them there."""

    __slots__ = (
        "_bytes",
        "_chunk",
        "_decoding",
        "_dtype",
        "_feature_axis",
        "_form",
        "_measured",
        "_piece",
        "_values",
        "box",
    )

    def __init__(
        self,
        layout: DirectLayout,
        box: Box,
        form: _Form,
        feature_axis: int | None,
        memory: Memory,
        decoding: Decoding | None,
    ) -> None:
        self.box = box
        self._chunk = layout.chunk
        self._dtype = layout.dtype
        self._feature_axis = feature_axis
        self._piece = form.piece
        self._form = form
        self._decoding = decoding
        self._measured: NDArray[Any] | None = None
        if decoding is None:
            self._bytes = memory.take(form.capacity)
        else:
            self._bytes, self._measured = decoding.place(memory, form.elements, form.capacity)
        self._values = self._shaped(self._elements)

    @property
    def _elements(self) -> NDArray[Any]:
        """All elements, in the order in which they lie in memory."""
        return self._bytes.view(self._dtype)[: self._form.elements]

    def _shaped(self, elements: NDArray[Any]) -> NDArray[Any]:
        """Return elements as the box that they are."""
        extent, axis = self._form.extent, self._feature_axis
        if not self._form.as_rows:
            return elements.reshape(extent)
        assert axis is not None
        rows = elements.reshape(*extent[:axis], *extent[axis + 1 :], extent[axis])
        return np.moveaxis(rows, -1, axis)

    def rows(self) -> NDArray[Any]:
        """Return the block as rows, once all elements are there."""
        values = self._values
        if self._decoding is not None:
            assert self._measured is not None
            values = self._shaped(self._decoding.decode_in_place(self._elements, self._measured))
        if self._feature_axis is None:
            return values.reshape(-1)
        return flatten_block(values, self._feature_axis)

    def straight(self, place: Place) -> NDArray[np.uint8] | None:
        """Return the memory of a chunk if all of it lies in one piece, else None."""
        if not self._piece:
            return None
        start = (place[0] - self.box[0][0] // self._chunk[0]) * self._piece
        return self._bytes[start : start + self._piece]

    def put(self, place: Place, decoded: NDArray[np.uint8]) -> None:
        """Copy the part of a decoded chunk that lies in the box."""
        source, target = self._overlap(place)
        chunk = decoded.view(self._dtype).reshape(self._chunk)
        self._values[target] = chunk[source]

    def _overlap(self, place: Place) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return where a chunk and the box overlap, as seen from each."""
        source, target = [], []
        for p, n, (start, stop) in zip(place, self._chunk, self.box, strict=True):
            low, high = max(p * n, start), min((p + 1) * n, stop)
            source.append(slice(low - p * n, high - p * n))
            target.append(slice(low - start, high - start))
        return tuple(source), tuple(target)

    def fill(self, bounds: Box, element: bytes) -> None:
        """Set the part of `bounds` that lies in the box to one element."""
        region = tuple(
            slice(max(low, start) - start, min(high, stop) - start)
            for (low, high), (start, stop) in zip(bounds, self.box, strict=True)
        )
        self._values[region] = np.frombuffer(element, self._dtype)[0]


class _Placed(_Target):
    """Where a box's elements go when somebody else has made the place: decoded chunk by chunk."""

    __slots__ = ()

    def __init__(
        self, layout: DirectLayout, box: Box, into: NDArray[Any], decoding: Decoding | None
    ) -> None:
        self.box = box
        self._chunk = layout.chunk
        self._dtype = layout.dtype
        self._values = into
        self._decoding = decoding

    def straight(self, place: Place) -> NDArray[np.uint8] | None:
        """Return the memory of a chunk if all of it lies in the place in one piece, else None."""
        if self._values.dtype != self._dtype or self._decoding is not None:
            return None
        region = []
        for p, n, (start, stop) in zip(place, self._chunk, self.box, strict=True):
            if p * n < start or (p + 1) * n > stop:
                return None
            region.append(slice(p * n - start, (p + 1) * n - start))
        part = self._values[tuple(region)]
        return part.reshape(-1).view(np.uint8) if part.flags.c_contiguous else None

    def put(self, place: Place, decoded: NDArray[np.uint8]) -> None:
        """Copy the part of a decoded chunk that lies in the box, in runs where there are some."""
        source, target = self._overlap(place)
        chunk = decoded.view(self._dtype).reshape(self._chunk)[source]
        values = self._values[target]
        if self._decoding is not None:
            self._decoding.decode_into(chunk, values)
            return
        size = values.dtype.itemsize
        if values.dtype == chunk.dtype and values.strides[-1] == chunk.strides[-1] == size:
            # As one element: NumPy moves few at a time more slowly than all.
            run = np.dtype((np.void, values.shape[-1] * size))
            values, chunk = values.view(run), chunk.view(run)
        values[...] = chunk

    def fill(self, bounds: Box, element: bytes) -> None:
        """Set the part of `bounds` that lies in the box to what one element means."""
        if self._decoding is None:
            super().fill(bounds, element)
            return
        region = tuple(
            slice(max(low, start) - start, min(high, stop) - start)
            for (low, high), (start, stop) in zip(bounds, self.box, strict=True)
        )
        self._values[region] = self._decoding.decode(np.frombuffer(element, self._dtype))[0]


def _check_size(size: int, expected: int) -> None:
    if size != expected:
        raise ValueError(f"{size} bytes where a chunk has {expected}")


def _places(box: Box, unit: Sequence[int]) -> itertools.product[Place]:
    """Return the grid places of the units that meet a box, in C order."""
    spans = [range(a // n, -(-b // n)) for (a, b), n in zip(box, unit, strict=True)]
    return itertools.product(*spans)


def _box_of(place: Place, unit: Sequence[int]) -> Box:
    return tuple((p * n, (p + 1) * n) for p, n in zip(place, unit, strict=True))


def _clip(box: Box, place: Place, unit: Sequence[int]) -> Box:
    """Return the part of a box inside one unit."""
    return tuple(
        (max(a, low), min(b, high))
        for (a, b), (low, high) in zip(box, _box_of(place, unit), strict=True)
    )
