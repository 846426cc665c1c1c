"""Labels and posteriors → a Zarr array, block by block, from any process.

The output's chunks are the source's blocks, so no two writers ever share a chunk and a task that
runs twice writes the same object twice. Every block is written, also one of nothing but zeros
(Zarr by itself would leave it out), and the fill value is none of the values: a hole can be told
from an answer. A chunk is written whole or not at all, so one that is there is finished.

`dask_gmm.data.output_begin` makes an output, or finds one to go on with.
"""

from __future__ import annotations

import json
import math
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zarr
from zarr.storage import StorePath

from dask_gmm.data.atomic_replace import (
    Claim,
    put_in_place,
    remove,
    settle,
    sweep,
    withdraw,
)
from dask_gmm.data.checked_store import first_line, translate_error
from dask_gmm.data.output_array import (
    METADATA,
    chunk_grid,
    chunks_at,
    make_room,
    put_document,
    read_document,
)
from dask_gmm.data.provenance import Recipe, attributes_of_output, recipe_in
from dask_gmm.data.stores import writable_store
from dask_gmm.data.urls import join_url
from dask_gmm.data.zarr_sync import sync
from dask_gmm.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.grid import BlockRef
    from dask_gmm.data.urls import Options

__all__ = ["BlockWriter", "OpenBlockWriter", "Output", "compare", "not_written"]

LOOK_EVERY = 1.0
"""Seconds after which a writer makes sure that the output is still its own."""

_AGREEMENT = 0.99
"""Share of values that another CPU, whose last bits may differ, must repeat."""


# -- from any process ------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockWriter:
    """How to write blocks of values to an output; small, picklable, without credentials.

    Attributes
    ----------
    url : str
        The output array.
    options : tuple of pairs
        Storage options.
    metadata : str
        The array's metadata document, as JSON.
    place : str
        Where it is written until it is complete: `url` itself, or a hidden sibling of a local path.
    mark : str
        The recipe's digest, by which the output is known as the one that this run writes.
    witnesses : tuple of int
        Blocks that are there already. They are computed and compared, not written.
    advice : str
        A sentence for errors: what is as it was, and what to do.
    path : str
        The array inside of `place`, where that is a group.
    """

    url: str
    options: Options
    metadata: str
    place: str
    mark: str
    witnesses: tuple[int, ...] = ()
    advice: str = ""
    path: str = ""

    def open(self) -> OpenBlockWriter:
        """Open the output for one thread."""
        return OpenBlockWriter(self)

    @property
    def n_blocks(self) -> int:
        """Blocks of the output."""
        return math.prod(chunk_grid(json.loads(self.metadata)))

    def check_mine(self) -> None:
        """Make sure that the output is still the one that this run writes.

        Raises
        ------
        StoreError
            Somebody has begun another one in its place, or has removed it.
        """
        document = read_document(self.place, self.options)
        if document is None:
            raise StoreError(
                f"What this run has written of {self.url} is not at {self.place} as seen from "
                f"{socket.gethostname()}: it is complete by now and this is a late attempt, or "
                f"somebody has removed it, or that is a disk of one machine and not of all that "
                f"work. Give a place that all of them see."
            )
        if Recipe(recipe_in(document.get("attributes") or {}) or {}).digest != self.mark:
            raise StoreError(
                f"{self.url} is no longer written by this run: another has begun it anew. Let one "
                f"run at a time write it."
            )


class OpenBlockWriter:
    """Writes blocks of values to an output; one thread's at a time."""

    def __init__(self, writer: BlockWriter) -> None:
        self._writer = writer
        self._looked = -math.inf
        store = writable_store(writer.place, writer.options)
        self._array: zarr.Array[Any] = zarr.Array(
            zarr.AsyncArray(
                json.loads(writer.metadata),
                StorePath(store, writer.path),
                config={"write_empty_chunks": True},
            )
        )

    def write(self, block: BlockRef, values: NDArray[Any]) -> None:
        """Write the values of one block.

        Parameters
        ----------
        block : BlockRef
            A block of the source that the output was made for.
        values : ndarray of shape (n,), (n, K), the block's sample shape, or that and K
            One value, or K values (or a matrix), per row of the block.

        Raises
        ------
        InputError
            If the values are not one (or K) per row, or a block that is there already has others.
        StoreError
            If the store refuses them, or the output is no longer this run's.
        """
        url, array = self._writer.url, self._array
        region: tuple[slice, ...] = tuple(
            slice(a, b) for a, b in zip(block.start, block.stop, strict=True)
        )
        shape = tuple(b - a for a, b in zip(block.start, block.stop, strict=True))
        tail = array.shape[len(shape) :]
        region, shape = (*region, *(slice(None) for _ in tail)), (*shape, *tail)
        if block.rows is None or values.size != math.prod(shape):
            raise InputError(
                f"Block {block.index} of {url} takes values of shape {shape}, got {values.shape}."
            )
        if values.size == 0:
            return
        if any(
            a % c or (b % c and b != n)
            for a, b, c, n in zip(block.start, block.stop, array.chunks, array.shape, strict=False)
        ):
            raise InputError(
                f"Block {block.index} covers only part of a chunk of {url}: make the output with "
                f"the chunks that output_chunks gives for its source."
            )
        place = f"Block {block.index} of {url}"
        try:
            self._look()
            if block.index in self._writer.witnesses:
                compare(np.asarray(array[region]), values.reshape(shape), place)
            else:
                array[region] = values.reshape(shape)
                self._look_back(block)
        except (InputError, StoreError):
            raise
        except Exception as error:  # every kind of store has errors of its own
            raise not_written(error, place, self._writer.advice) from error

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY:
            self._writer.check_mine()
            self._looked = now

    def _look_back(self, block: BlockRef) -> None:
        """Withdraw a block that was written beside a local output that has left for its place.

        As a second attempt does that is late, for the first has finished the output since the last
        look: it has made the directory anew.
        """
        writer, array = self._writer, self._array
        if join_url(writer.place, writer.path) == writer.url:
            return
        try:
            (Path(writer.place) / METADATA).stat()
        except (FileNotFoundError, NotADirectoryError):
            chunk = [a // c for a, c in zip(block.start, array.chunks, strict=False)]
            chunk += [0] * (array.ndim - len(chunk))
            key = array.metadata.encode_chunk_key(tuple(chunk))
            withdraw(writer.place, f"{writer.path}/{key}" if writer.path else key)
            writer.check_mine()


def compare(there: NDArray[Any], values: NDArray[Any], place: str) -> None:
    """Refuse to go on beside a block that the same rows would not have made."""
    if there.dtype.kind == "f":
        equal = np.isclose(there, values, rtol=0.0, atol=1e-3, equal_nan=True)
    else:
        equal = there == values
    if np.mean(equal) < _AGREEMENT:
        raise InputError(
            f"{place} holds other values than its rows have now: the data were changed after a run "
            f'began this output. Begin it anew with resume="never" (--no-resume).'
        )


# -- on the driver ---------------------------------------------------------------------------------


class Output:
    """An output that this process is responsible for; a context manager. Use `begin_output`.

    Who leaves the context by an error leaves what is finished where it is, for another run to go
    on with, and nothing where nothing is finished.

    Attributes
    ----------
    writer : BlockWriter
        What tasks write with.
    recipe : Recipe
        What it is made of.
    blocks : tuple of int or None
        Those of the source that are to be computed; None for all of them.
    n_finished : int
        Blocks that are not, as an earlier run has finished them.
    complete : bool
        Whether nothing is left to do, not even `finish`.
    """

    def __init__(
        self,
        writer: BlockWriter,
        claim: Claim | None,
        recipe: Recipe,
        *,
        overwrite: bool,
        finished: Sequence[int] = (),
        complete: bool = False,
    ) -> None:
        self.writer = writer
        self.complete = complete
        self.recipe = recipe
        self._claim = claim
        self._overwrite = overwrite
        self.n_finished = len(finished) - len(writer.witnesses)
        self.blocks: tuple[int, ...] | None = None
        if finished:
            done = set(finished) - set(writer.witnesses)
            self.blocks = tuple(i for i in range(writer.n_blocks) if i not in done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and not self.complete:
                self._leave()
        finally:
            if self._claim is not None:
                self._claim.release()

    def finish(self) -> None:
        """Call the output complete and put it in its place; call once, after the last block.

        Raises
        ------
        OutputExistsError
            If something has come to be at the output's place that may not be deleted.
        StoreError
            If the store refuses, or has lost a block. The others stay where they were written.
        """
        writer = self.writer
        document = json.loads(writer.metadata)
        document["attributes"] = attributes_of_output(self.recipe.parts, complete=True)
        try:
            writer.check_mine()
            self._check_blocks(document)
            if writer.place == writer.url:
                put_document(writer.place, writer.options, document)
            else:
                sweep(writer.place)
                settle(writer.place)
                put_document(writer.place, writer.options, document)
                store = writable_store(writer.url, writer.options)
                make_room(store, writer.url, overwrite=self._overwrite)
                put_in_place(writer.place, writer.url)
        except StoreError:
            raise
        except Exception as error:
            raise not_written(error, writer.url, writer.advice) from error
        self.complete = True

    def _check_blocks(self, document: dict[str, Any]) -> None:
        there = len(chunks_at(self.writer.place, self.writer.options))
        lost = math.prod(chunk_grid(document)) - there
        if lost > 0 and 0 not in document["shape"]:
            raise StoreError(
                f"{lost:,} blocks of {self.writer.url} were written and are not there: something "
                f"deletes them, or not all that work see the same disk. Run it again, which writes "
                f"those alone."
            )

    def _leave(self) -> None:
        """Delete what was begun where no block is finished: there is nothing to go on from."""
        writer = self.writer
        try:
            if chunks_at(writer.place, writer.options):
                return
            if writer.place != writer.url:
                remove(writer.place)
            else:
                writer.check_mine()
                sync(writable_store(writer.place, writer.options).delete(METADATA))
        except Exception:  # noqa: BLE001  the error on its way says more
            return


def not_written(error: Exception, place: str, advice: str = "") -> StoreError:
    """Say in one sentence why a place could not be written, and in another what to do."""
    if isinstance(error, OSError) and error.errno is not None:
        message = f"{place} could not be written: {error.strerror or first_line(error)}."
    else:
        message = str(translate_error(error, place)).replace("be read", "be written")
    return StoreError(f"{message} {advice}".rstrip())
