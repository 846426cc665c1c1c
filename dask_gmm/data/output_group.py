"""A group of labels or posteriors of many arrays, and of the proportions of components in each.

``out.zarr/labels/NAME`` has a value for each row of the array of that name, in chunks that are its
blocks; ``proportions`` and ``counts`` (array, component) are what the same read has added up, with
the names of the arrays as coordinate, so that ``xarray.open_zarr`` opens them as a table.

It is begun, gone on with and put in its place as a single array is (`dask_gmm.data.output_begin`),
and its root says whether it is complete. Until then its arrays have chunks and no metadata: nobody
can take one for whole. What each block adds to the sums is kept beside its values until the end, so
that who goes on need not read it again.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import FsspecStore, StorePath

from dask_gmm.data.atomic_replace import put_in_place, remove, settle, sweep
from dask_gmm.data.output_array import (
    METADATA,
    chunk_grid,
    document_buffer,
    finished_blocks,
    keys_at,
    new_document,
    put_document,
    read_document,
)
from dask_gmm.data.output_begin import Beginning, advice, output_chunks, refuse_the_input
from dask_gmm.data.provenance import ATTRIBUTE, Recipe, attributes_of_output, is_incomplete
from dask_gmm.data.sink import BlockWriter, OpenBlockWriter, Output, not_written
from dask_gmm.data.stored_array import metadata_document
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import Options, check_options, join_url, normalize_url, scheme_of
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import InputError, OutputExistsError, StoreError
from dask_gmm.interrupts import allowed, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.atomic_replace import Claim
    from dask_gmm.data.concatenated_source import Many
    from dask_gmm.data.grid import BlockRef, SampleGrid

__all__ = ["GroupLayout", "GroupOutput", "begin_group", "check_room", "proportions_at"]

SUMS = ".sums"
"""Where what blocks add is kept until the end; the dot is no name of an array of the group."""

PROPORTIONS, COUNTS = "proportions", "counts"

Sums = tuple["NDArray[np.float64]", "NDArray[np.int64]"]


# -- what lies where -------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupLayout:
    """The arrays of an output; travels.

    Attributes
    ----------
    values : str
        What is written: the name of the group that holds the arrays.
    names : tuple of str
    grids : tuple of SampleGrid
        The blocks of each array.
    first_blocks : tuple of int
        With which block of the source each array begins, and the number of all.
    chunks : tuple of tuple of int
        Of each array.
    tail : tuple of int
        Axes of the values that samples do not have: K, or none.
    n_components : int
    document : str
        Metadata of an array, as JSON, whose shape and chunks are still to be filled in.
    """

    values: str
    names: tuple[str, ...]
    grids: tuple[SampleGrid, ...]
    first_blocks: tuple[int, ...]
    chunks: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]
    n_components: int
    document: str

    @classmethod
    def of(
        cls, source: Many, values: str, tail: tuple[int, ...], dtype: np.dtype[Any], k: int
    ) -> GroupLayout:
        """Lay out an output for a source.

        Raises
        ------
        InputError
            An array has blocks of uneven or unknown sizes, or a name that no Zarr node can have.
        """
        for name in source.names:
            parts = name.split("/")
            if any(part in ("", METADATA) or part.startswith((".", "__")) for part in parts):
                raise InputError(
                    f"The array {name!r} cannot be written under that name, which Zarr gives to no "
                    f"array: pass a dict of the arrays by other names."
                )
        for name in source.names:
            parents = {name.rsplit("/", n)[0] for n in range(1, name.count("/") + 1)}
            clash = parents & set(source.names)
            if clash:
                raise InputError(
                    f"The arrays {min(clash)!r} and {name!r} cannot lie in one group, as one would "
                    f"hold the other: pass a dict of the arrays by other names."
                )
        chunks = tuple(output_chunks(part) for part in source.parts)
        ndim = 1 + len(tail)
        template = new_document((1,) * ndim, (1,) * ndim, dtype, None)
        return cls(
            values,
            source.names,
            tuple(part.grid for part in source.parts),
            source.first_blocks,
            chunks,
            tail,
            k,
            json.dumps(template),
        )

    @property
    def n_blocks(self) -> int:
        """Blocks of all arrays."""
        return self.first_blocks[-1]

    def path(self, number: int) -> str:
        """Return the path of an array in the group."""
        return f"{self.values}/{self.names[number]}"

    def shape(self, number: int) -> tuple[int, ...]:
        """Return the shape of an array."""
        return (*(int(n or 0) for n in self.grids[number].shape), *self.tail)

    def metadata(self, number: int) -> dict[str, Any]:
        """Return the metadata of an array, without attributes."""
        document: dict[str, Any] = json.loads(self.document)
        document["shape"] = list(self.shape(number))
        grid = document["chunk_grid"]["configuration"]
        grid["chunk_shape"] = [*(max(1, c) for c in self.chunks[number]), *self.tail]
        return document

    def array_of(self, block: int) -> int:
        """Return the number of the array that a block of the source belongs to."""
        return bisect_right(self.first_blocks, block) - 1

    def own(self, block: BlockRef) -> tuple[int, BlockRef]:
        """Return the number of the array that a block belongs to, and the block as of that."""
        number = self.array_of(block.index)
        return number, self.grids[number].block(block.index - self.first_blocks[number])

    def sums_document(self) -> dict[str, Any]:
        """Return the metadata of what blocks add."""
        shape = (max(1, self.n_blocks), 2 * self.n_components)
        return new_document(shape, (1, shape[1]), np.dtype("f8"), None)

    def described(self) -> dict[str, Any]:
        """Return what a recipe says of it: JSON values."""
        shapes = [list(self.shape(number)) for number in range(len(self.names))]
        return {"arrays": list(self.names), "shape": shapes, "chunks": list(map(list, self.chunks))}


# -- from any process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class GroupWriter(BlockWriter):
    """How to write blocks to the arrays of a group; small, picklable, without credentials."""

    layout: GroupLayout | None = None

    @property
    def arrays(self) -> GroupLayout:
        """What lies where."""
        assert self.layout is not None
        return self.layout

    @property
    def n_blocks(self) -> int:
        """Blocks of all arrays."""
        return self.arrays.n_blocks

    def open(self) -> OpenGroupWriter:  # type: ignore[override]
        """Open the output for one thread."""
        return OpenGroupWriter(self)

    def member(self, number: int) -> BlockWriter:
        """How to write the blocks of one of the arrays."""
        first = self.arrays.first_blocks[number : number + 2]
        path = self.arrays.path(number)
        return BlockWriter(
            join_url(self.url, path),
            self.options,
            json.dumps(self.arrays.metadata(number), sort_keys=True),
            self.place,
            self.mark,
            tuple(i - first[0] for i in self.witnesses if first[0] <= i < first[1]),
            self.advice,
            path,
        )


class OpenGroupWriter:
    """Writes blocks to the arrays of a group, each array opened when its blocks come."""

    def __init__(self, writer: GroupWriter) -> None:
        self._writer = writer
        self._number = -1
        self._member: OpenBlockWriter | None = None
        store = writable_store(writer.place, writer.options)
        self._sums: Any = _array(writer.arrays.sums_document(), store, SUMS)

    def write(self, block: BlockRef, values: NDArray[Any]) -> None:
        """Write the values of one block; see `OpenBlockWriter.write`."""
        number, own = self._writer.arrays.own(block)
        if self._member is None or number != self._number:
            self._member = self._writer.member(number).open()
            self._number = number
        self._member.write(own, values)

    def write_sums(
        self, block: BlockRef, masses: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> None:
        """Write what a block adds; before its values, which say that it is finished."""
        try:
            self._sums[block.index] = np.concatenate([masses, counts.astype(np.float64)])
        except Exception as error:  # every kind of store has errors of its own
            place = f"What block {block.index} of {self._writer.url} adds"
            raise not_written(error, place, self._writer.advice) from error


def _array(document: Any, store: Any, path: str) -> zarr.Array[Any]:
    return zarr.Array(
        zarr.AsyncArray(document, StorePath(store, path), config={"write_empty_chunks": True})
    )


# -- on the driver ---------------------------------------------------------------------------------


def begin_group(
    url: str,
    layout: GroupLayout,
    options: Mapping[str, Any] | Options | None = None,
    *,
    recipe: Recipe,
    source: Many,
    overwrite: bool = False,
    resume: str = "auto",
) -> GroupOutput:
    """Create a group for what is said of the rows of many arrays, or go on with one that was begun.

    Parameters and errors as of `begin_output`; what may be overwritten is a complete group that
    this has made.
    """
    url = normalize_url(url)
    pairs = check_options(dict(options) if options is not None else None)
    local = scheme_of(url) == "file"
    refuse_the_input(source, url, in_place=not local)
    begin = _GroupBeginning(url, pairs, recipe, overwrite, resume, layout)
    document = {"zarr_format": 3, "node_type": "group"}
    try:
        begun: GroupOutput
        if local:
            begun = begin.beside(document)
            return begun
        with allowed():
            begun = begin.in_place(document)
        return begun
    except (InputError, StoreError):
        raise
    except Exception as error:  # every kind of store has errors of its own
        raise not_written(error, url, "Nothing there was changed." if local else "") from error


@dataclass(frozen=True)
class _GroupBeginning(Beginning):
    layout: GroupLayout | None = None

    def attributes_at(self, place: str) -> Mapping[str, Any] | None:
        """Return what the group at a place says of itself, None where none is."""
        document = read_document(place, self.options)
        if document is None or document.get("node_type") != "group":
            return None
        attributes = document.get("attributes", {})
        return attributes if isinstance(attributes, dict) else {}

    @held()
    def make_room(self) -> None:
        """Refuse all that is there but a group of this kind that may be overwritten."""
        _make_room(self.url, self.options, overwrite=self.overwrite)

    def output(self, place: str, claim: Claim | None, finished: Sequence[int] | None = ()) -> Any:
        """Return what is at a place; see `Beginning.output`."""
        if read_document(place, self.options) is None:  # moved away since it was looked at
            raise OutputExistsError(
                f"Another process has completed {self.url} at this moment: have a look at it."
            )
        assert self.layout is not None
        if finished == ():
            finished = _finished(place, self.options, self.layout)
        done = finished or []
        writer = GroupWriter(
            self.url,
            self.options,
            "",
            place,
            self.recipe.digest,
            self.witnesses(done),
            advice(self.url, place),
            layout=self.layout,
        )
        return GroupOutput(
            writer,
            claim,
            self.recipe,
            overwrite=self.overwrite,
            finished=done,
            complete=finished is None,
        )


def check_room(url: str, options: Mapping[str, Any], *, overwrite: bool) -> None:
    """Look whether an output can go to a place, before anything is done for it.

    One that is being written there is for whoever begins to judge.

    Raises
    ------
    OutputExistsError
        Something is there that may not be overwritten.
    """
    url, pairs = normalize_url(url), check_options(dict(options))
    document = read_document(url, pairs) or {}
    if not is_incomplete(document.get("attributes") or {}):
        _make_room(url, pairs, overwrite=overwrite)


def _make_room(url: str, options: Options, *, overwrite: bool) -> None:
    store = writable_store(url, options)
    if sync(store.is_empty("")):
        return
    document = read_document(url, options) or {}
    attributes = document.get("attributes") or {}
    mine = document.get("node_type") == "group" and "recipe" in (attributes.get(ATTRIBUTE) or {})
    if not mine:
        raise OutputExistsError(
            f"{url} holds something else than the labels of many arrays, and is never deleted "
            f"here: choose another place for the output."
        )
    if not overwrite:
        raise OutputExistsError(
            f"The output {url} already exists: choose another name, or allow it to be overwritten "
            f"(overwrite=True, --overwrite)."
        )


def _finished(place: str, options: Options, layout: GroupLayout) -> list[int]:
    """Return the blocks that an earlier run has finished, in order: those with values and sums."""
    by_array = _chunks_by_array(place, options, layout)
    summed = {chunk[0] for chunk in by_array.pop(-1, [])}
    remote = scheme_of(place) != "file"
    whole = remote and not isinstance(writable_store(place, options), FsspecStore)
    done: list[int] = []
    for number, chunks in sorted(by_array.items()):
        document, first = layout.metadata(number), layout.first_blocks[number]
        if whole:  # each object of such a store is
            grid = chunk_grid(document)
            there = sorted(int(np.ravel_multi_index(chunk, grid)) for chunk in chunks)
        else:
            where = join_url(place, layout.path(number))
            there = finished_blocks(where, options, document, chunks)
        done += [first + i for i in there]
    return [block for block in done if block in summed]


def _chunks_by_array(
    place: str, options: Options, layout: GroupLayout
) -> dict[int, list[tuple[int, ...]]]:
    """Return the chunks that are there of each array; those of sums as number -1."""
    numbers = {layout.path(number): number for number in range(len(layout.names))}
    numbers[SUMS] = -1
    found: dict[int, list[tuple[int, ...]]] = {}
    for key in keys_at(place, options):
        path, mark, chunk = key.rpartition("/c/")
        if mark and path in numbers and chunk.replace("/", "").isdigit():
            found.setdefault(numbers[path], []).append(tuple(map(int, chunk.split("/"))))
    return found


class GroupOutput(Output):
    """A group of outputs that this process is responsible for. Use `begin_group`."""

    writer: GroupWriter

    def sums(self) -> Iterator[tuple[int, Sums]]:
        """Yield the array and the sums of each block, in order, read from where they are kept.

        Raises
        ------
        StoreError
            They cannot be read.
        """
        writer, k = self.writer, self.writer.arrays.n_components
        store = writable_store(writer.place, writer.options)
        array: Any = _array(writer.arrays.sums_document(), store, SUMS)
        step = 256
        for start in range(0, writer.n_blocks, step):
            stop = min(start + step, writer.n_blocks)
            rows = np.asarray(array[start:stop])
            for block, row in enumerate(rows, start):
                yield writer.arrays.array_of(block), (row[:k], row[k:].astype(np.int64))

    def finish_with(self, proportions: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        """Write the tables, call the output complete and put it in its place; see `finish`."""
        writer = self.writer
        try:
            writer.check_mine()
            self._check_all()
            documents = self._documents(proportions, counts)
            sync(writable_store(writer.place, writer.options).delete_dir(SUMS))
            root = {
                "zarr_format": 3,
                "node_type": "group",
                "attributes": attributes_of_output(self.recipe.parts, complete=True),
                "consolidated_metadata": {
                    "kind": "inline",
                    "must_understand": False,
                    "metadata": documents,
                },
            }
            if writer.place == writer.url:
                put_document(writer.place, writer.options, root)
            else:
                sweep(writer.place)
                settle(writer.place)
                put_document(writer.place, writer.options, root)
                _make_room(writer.url, writer.options, overwrite=self._overwrite)
                put_in_place(writer.place, writer.url)
        except StoreError:
            raise
        except Exception as error:
            raise not_written(error, writer.url, writer.advice) from error
        self.complete = True

    def _check_all(self) -> None:
        """Refuse to complete an output that has lost a block."""
        layout = self.writer.arrays
        there = _chunks_by_array(self.writer.place, self.writer.options, layout)
        lost = 0
        for number in range(len(layout.names)):
            shape = layout.shape(number)
            expected = 0 if 0 in shape else int(np.prod(chunk_grid(layout.metadata(number))))
            lost += expected - len(there.get(number, ()))
        if lost > 0:
            raise StoreError(
                f"{lost:,} blocks of {self.writer.url} were written and are not there: something "
                f"deletes them, or not all that work see the same disk. Run it again, which writes "
                f"those alone."
            )

    def _documents(
        self, proportions: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Write the metadata of all arrays, and the tables; return the documents by their paths."""
        layout = self.writer.arrays
        own = attributes_of_output(None, complete=True)
        found: dict[str, Any] = {}
        for number in range(len(layout.names)):
            path = layout.path(number)
            for depth in range(1, path.count("/") + 1):
                parent = "/".join(path.split("/")[:depth])
                group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
                found.setdefault(parent, group)
            found[path] = {**layout.metadata(number), "attributes": own}
        store = writable_store(self.writer.place, self.writer.options)
        self._put(found)
        for name, values, dims in (
            ("array", np.asarray(layout.names, np.dtypes.StringDType()), ("array",)),
            ("component", np.arange(layout.n_components), ("component",)),
            (PROPORTIONS, proportions, ("array", "component")),
            (COUNTS, counts, ("array", "component")),
        ):
            table: Any = zarr.create_array(
                store,
                name=name,
                shape=values.shape,
                chunks=tuple(max(1, n) for n in values.shape),
                dtype=values.dtype,
                dimension_names=dims,
                overwrite=True,
                config={"write_empty_chunks": True},
            )
            table[...] = values
            found[name] = {**metadata_document(table), "attributes": {}}
        return found

    def _put(self, documents: Mapping[str, Any]) -> None:
        place, options = self.writer.place, self.writer.options
        if scheme_of(place) == "file":  # settled with all else
            for path, document in documents.items():
                folder = Path(place) / path
                folder.mkdir(parents=True, exist_ok=True)
                (folder / METADATA).write_bytes(document_buffer(document).to_bytes())
            return
        store = writable_store(place, options)

        async def put() -> None:
            import asyncio

            limit = zarr.config.get("async.concurrency")
            items = list(documents.items())
            for first in range(0, len(items), limit):
                await asyncio.gather(
                    *(
                        store.set(f"{path}/{METADATA}", document_buffer(document))
                        for path, document in items[first : first + limit]
                    )
                )

        sync(put())

    def _leave(self) -> None:
        """Delete what was begun where no block is finished."""
        writer = self.writer
        try:
            there = _chunks_by_array(writer.place, writer.options, writer.arrays)
            there.pop(-1, None)
            if there:
                return
            if writer.place != writer.url:
                remove(writer.place)
            else:
                writer.check_mine()
                store = writable_store(writer.place, writer.options)
                sync(store.delete_dir(SUMS))
                sync(store.delete(METADATA))
        except Exception:  # noqa: BLE001  the error on its way says more
            return


@held()
def proportions_at(
    url: str, options: Mapping[str, Any] | None = None
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Return the table of a complete output: names of arrays, proportions and counts."""
    pairs = check_options(dict(options) if options else None)
    group: Any = zarr.open_group(writable_store(normalize_url(url), pairs), mode="r")
    names = [str(name) for name in np.asarray(group["array"][:])]
    return names, np.asarray(group[PROPORTIONS][:]), np.asarray(group[COUNTS][:])
