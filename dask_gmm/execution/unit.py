"""The body of a task: read a unit's blocks one after another and fold their values.

While some blocks are computed a helper thread reads the next (see `dask_gmm.execution.prefetch`),
so a task waits for the store only when the store is slower than the arithmetic. A job's rows lie in
memory that later blocks are read into: what it returns must not be a view of them. Blocks that are
pinned (see `dask_gmm.execution.pinned`) stay in memory of their own and are not read again.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask_gmm.errors import (
    ArrayNotFoundError,
    CorruptChunkError,
    DaskGMMError,
    DataChangedError,
    InputError,
    MissingChunkError,
    ModelFileError,
    OutputExistsError,
    PassInterruptedError,
    RowError,
    StoreNotFoundError,
)
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.execution.prefetch import read_in_order
from dask_gmm.execution.span import Span
from dask_gmm.execution.tree import Summable, TreeFold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dask_gmm.data.base import RowMaker
    from dask_gmm.data.buffers import ReadBuffers, SpareBuffers
    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.execution.asked import Lane
    from dask_gmm.execution.jobs import OpenJob
    from dask_gmm.execution.opened import Opened
    from dask_gmm.execution.pinned import PinnedBlocks
    from dask_gmm.rows import Rows

__all__ = ["SpanTimer", "UnitResult", "is_transient", "run_unit", "run_value", "working"]

#: A failed read is tried this many times in all, with these pauses (seconds, jittered) between.
READ_PAUSES = (0.2, 1.0)
#: Reads that failed after longer than this were retried by the store's own client already.
READ_PATIENCE = 30.0

#: Errors that another attempt cannot change.
PERMANENT = (
    ArrayNotFoundError,
    CorruptChunkError,
    DataChangedError,
    InputError,
    MissingChunkError,
    ModelFileError,
    OutputExistsError,
    StoreNotFoundError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

T = TypeVar("T", bound=Summable)


@dataclass(frozen=True)
class UnitResult(Generic[T]):
    """The value of some consecutive blocks with its bookkeeping; a monoid like the value itself.

    Attributes
    ----------
    value
        The folded value.
    rows, blocks, bytes_read : int
        What went into it; `bytes_read` counts decoded bytes.
    machines : frozenset of str
        Fingerprints of the machines that took part (left empty by in-process runs).
    cached : int
        Blocks that were pinned and not read.
    holders : tuple of (int, str)
        Units of which some blocks are pinned, and the address of the worker that holds them.
    seconds : float
        What its units took on their workers, added up (left out by in-process runs).
    spans : tuple of Span
        When its units were worked on, in order of position; has no part in comparisons.
    """

    value: T
    rows: int
    blocks: int
    bytes_read: int
    machines: frozenset[str] = frozenset()
    cached: int = 0
    holders: tuple[tuple[int, str], ...] = ()
    seconds: float = 0.0
    spans: tuple[Span, ...] = field(default=(), compare=False)

    def __add__(self, other: UnitResult[T]) -> UnitResult[T]:
        return UnitResult(
            self.value + other.value,
            self.rows + other.rows,
            self.blocks + other.blocks,
            self.bytes_read + other.bytes_read,
            self.machines | other.machines,
            self.cached + other.cached,
            self.holders + other.holders,
            self.seconds + other.seconds,
            self.spans + other.spans,
        )


class SpanTimer:
    """Takes the time of a unit from where it is made, in the thread that works on it.

    Parameters
    ----------
    unit : int
        Its first position in the pass.
    worker : str
        Address of the worker; empty in the driver's process.
    """

    __slots__ = ("_began", "_begun", "_unit", "_worker")

    def __init__(self, unit: int, worker: str = "") -> None:
        self._unit, self._worker = unit, worker
        self._begun, self._began = time.time(), time.perf_counter()

    def ended(self, blocks: int, waiting: float = 0.0, cached: int = 0) -> Span:
        """Return the span of a unit of so many blocks, which has waited for rows so long."""
        seconds, thread = time.perf_counter() - self._began, threading.get_ident()
        return Span(self._unit, self._worker, thread, self._begun, seconds, waiting, blocks, cached)


@contextmanager
def working(job: Opened[OpenJob[T]]) -> Iterator[OpenJob[T]]:
    """Lend a thread the pass's job to work on some blocks, with BLAS at one thread."""
    with single_threaded_blas(), job.one() as mine:
        yield mine


def is_transient(error: BaseException) -> bool:
    """Whether reading again may help: an I/O error that is no statement about the data."""
    return isinstance(error, OSError) and not isinstance(error, PERMANENT)


def _read(
    source: Source, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None
) -> Rows:
    """Read a block, and again after a short pause where the error may be a passing one."""
    started = time.monotonic()
    for pause in READ_PAUSES:
        try:
            return source.read_into(block, buffers, requested)
        except OSError as error:
            if not is_transient(error) or time.monotonic() - started > READ_PATIENCE:
                raise
        requested = None  # it is used up
        # Jitter: the threads of a cluster should not all come back at the same moment.
        time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
    return source.read_into(block, buffers, requested)


def _read_and_pin(
    pinned: PinnedBlocks,
    source: Source,
    block: BlockRef,
    buffers: ReadBuffers,
    requested: Mapping[str, Any] | None,
) -> Rows:
    """Read a block, into memory of its own if it is to stay."""
    size = (block.rows or 0) * source.row_bytes
    if not pinned.reserve(size):
        return _read(source, block, buffers, requested)
    try:
        rows = _read(source, block, buffers.beside(), requested)
    except BaseException:
        pinned.release(size)
        raise
    return pinned.keep(block.index, rows, size)


def _run_block(
    job: OpenJob[T],
    rows: Rows,
    block: BlockRef,
    source_name: str,
    locate: Callable[[BlockRef, int], str],
    explained: Callable[[RowError], RowError],
) -> T:
    """Apply a job to one block; errors learn which block it was, and what metadata say of it."""
    try:
        return job(rows, block)
    except RowError as error:
        row = rows.place(error.row)
        raise explained(error.at(locate(block, row), row)) from None
    except Exception as error:
        if not isinstance(error, DaskGMMError):
            error.add_note(f"This happened in block {block.index} of {source_name}.")
        raise


def run_value(
    job: OpenJob[T],
    value: Any,
    rows_of: RowMaker,
    block: BlockRef,
    source_name: str,
    locate: Callable[[BlockRef, int], str],
) -> tuple[T, Rows]:
    """Apply a job to what a task of a Dask graph made of one block; return the rows too."""
    try:
        rows = rows_of(value)
    except RowError as error:
        raise error.at(locate(block, error.row)) from None
    explained = partial(_explained_by, rows_of, value)
    return _run_block(job, rows, block, source_name, locate, explained), rows


def _explained_by(rows_of: RowMaker, value: Any, error: RowError) -> RowError:
    return rows_of.explained(error, value)


def run_unit(
    source: Source,
    blocks: Sequence[int],
    job: OpenJob[T],
    *,
    pinned: PinnedBlocks | None = None,
    spare: SpareBuffers | None = None,
    lane: Lane | None = None,
    report: Callable[[int, int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
    first: int = 0,
    worker: str = "",
) -> UnitResult[T]:
    """Read consecutive blocks once each and return their node of the fixed tree.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    blocks : sequence of int
        Block indices in order of position; the first position is a multiple of the unit's size.
    job : OpenJob
        What is computed from a block.
    pinned : PinnedBlocks, optional
        What this process keeps of the source from pass to pass.
    spare : SpareBuffers, optional
        Memory to read into that earlier units have left; by default what `pinned` has of it.
    lane : Lane, optional
        What this thread has asked the store for, of this unit and of those to come.
    report : callable, optional
        Called after every block with the blocks, rows and bytes since the last call.
    stopped : callable, optional
        Asked before every block; a true answer ends the unit.
    first : int
        Position of the first block in the pass, by which the unit's span is called.
    worker : str
        Address of the worker that this is; empty in the driver's process.

    Raises
    ------
    PassInterruptedError
        `stopped` answered true.
    RowError
        A row cannot be used; the message has its place in the input.
    StoreError
        A block could not be read.
    """
    timer, waiting = SpanTimer(first, worker), 0.0
    fold: TreeFold[T] = TreeFold(len(blocks))
    kept = pinned.among(blocks) if pinned is not None else {}
    n_kept, n_rows, n_bytes = len(kept), 0, 0
    missing = [index for index in blocks if index not in kept]
    read = _read if pinned is None else partial(_read_and_pin, pinned)
    if spare is None and pinned is not None:
        spare = pinned.spare
    with closing(read_in_order(source, missing, read, spare, lane)) as reading:
        for position, index in enumerate(blocks):
            if stopped is not None and stopped():
                raise PassInterruptedError(f"A pass over {source.name} was told to stop.")
            if index in kept:
                block, rows = source.block(index), kept.pop(index)
            else:
                asked = time.perf_counter()
                block, rows = next(reading)
                waiting += time.perf_counter() - asked
            explained = partial(source.explained, block=block)
            value = _run_block(job, rows, block, source.name, source.locate, explained)
            size = rows.n_read, rows.nbytes
            del rows  # its memory is read into again, or it would be one block too many
            fold.add(0, position, value)
            n_rows, n_bytes = n_rows + size[0], n_bytes + size[1]
            if report is not None:
                report(1, *size)
    span = timer.ended(len(blocks), waiting, n_kept)
    return UnitResult(fold.root(), n_rows, len(blocks), n_bytes, cached=n_kept, spans=(span,))
