"""The body of a task: read a unit's blocks one after another and fold their values.

While some blocks are computed a helper thread reads the next (see `dask_gmm.execution.prefetch`),
so a task waits for the store only when the store is slower than the arithmetic. A job's rows lie in
memory that later blocks are read into: what it returns must not be a view of them.
"""

from __future__ import annotations

import random
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask_gmm.errors import (
    ArrayNotFoundError,
    CorruptChunkError,
    DaskGMMError,
    InputError,
    MissingChunkError,
    ModelFileError,
    NonFiniteError,
    OutputExistsError,
    PassInterruptedError,
    StoreNotFoundError,
)
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.execution.prefetch import read_in_order
from dask_gmm.execution.tree import Summable, TreeFold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from dask_gmm.data.buffers import ReadBuffers
    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.execution.backend import BlockJob

__all__ = ["UnitResult", "is_transient", "run_block", "run_unit"]

#: A failed read is tried this many times in all, with these pauses (seconds, jittered) between.
READ_PAUSES = (0.2, 1.0)
#: Reads that failed after longer than this were retried by the store's own client already.
READ_PATIENCE = 30.0

#: Errors that another attempt cannot change.
PERMANENT = (
    ArrayNotFoundError,
    CorruptChunkError,
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
    """

    value: T
    rows: int
    blocks: int
    bytes_read: int
    machines: frozenset[str] = frozenset()

    def __add__(self, other: UnitResult[T]) -> UnitResult[T]:
        return UnitResult(
            self.value + other.value,
            self.rows + other.rows,
            self.blocks + other.blocks,
            self.bytes_read + other.bytes_read,
            self.machines | other.machines,
        )


def is_transient(error: BaseException) -> bool:
    """Whether reading again may help: an I/O error that is no statement about the data."""
    return isinstance(error, OSError) and not isinstance(error, PERMANENT)


def _read(
    source: Source, block: BlockRef, buffers: ReadBuffers, requested: Mapping[str, Any] | None
) -> np.ndarray[Any, Any]:
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


def run_block(
    job: BlockJob[T],
    rows: np.ndarray[Any, Any],
    block: BlockRef,
    source_name: str,
    locate: Callable[[BlockRef, int], str],
) -> UnitResult[T]:
    """Apply a job to one block; errors learn which block it was."""
    try:
        value = job(rows, block)
    except NonFiniteError as error:
        raise error.at(locate(block, error.row)) from None
    except Exception as error:
        if not isinstance(error, DaskGMMError):
            error.add_note(f"This happened in block {block.index} of {source_name}.")
        raise
    return UnitResult(value, int(rows.shape[0]), 1, int(rows.nbytes))


def run_unit(
    source: Source,
    blocks: Sequence[int],
    job: BlockJob[T],
    *,
    report: Callable[[int, int, int], None] | None = None,
    stopped: Callable[[], bool] | None = None,
) -> UnitResult[T]:
    """Read consecutive blocks once each and return their node of the fixed tree.

    Parameters
    ----------
    source : Source
        Where the rows come from.
    blocks : sequence of int
        Block indices in order of position; the first position is a multiple of the unit's size.
    job : BlockJob
        What is computed from a block.
    report : callable, optional
        Called after every block with the blocks, rows and bytes since the last call.
    stopped : callable, optional
        Asked before every block; a true answer ends the unit.

    Raises
    ------
    PassInterruptedError
        `stopped` answered true.
    NonFiniteError
        A row holds NaN or infinity; the message has the row's place in the input.
    StoreError
        A block could not be read.
    """
    fold: TreeFold[UnitResult[T]] = TreeFold(len(blocks))
    with single_threaded_blas(), closing(read_in_order(source, blocks, _read)) as reading:
        for position in range(len(blocks)):
            if stopped is not None and stopped():
                raise PassInterruptedError(f"A pass over {source.name} was told to stop.")
            block, rows = next(reading)
            result = run_block(job, rows, block, source.name, source.locate)
            del rows  # its memory is read into again, or it would be one block too many
            fold.add(0, position, result)
            if report is not None:
                report(1, result.rows, result.bytes_read)
    return fold.root()
