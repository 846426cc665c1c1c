"""Sources and jobs that workers can import, and that leave traces which tests can count."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_gmm.data.base import Source
from dask_gmm.data.grid import BlockRef, IrregularAxis, RegularAxis, SampleGrid
from dask_gmm.errors import NonFiniteError
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FakeSource(Source):
    """Rows drawn from the block's number, so that every process makes the same ones.

    `trail`: a directory in which each read leaves a line, whichever process it happens in.
    `hiccups`: so many reads of the blocks in `bad` fail with a passing error.
    `plain`: all ones, which costs nothing to make.
    """

    grid: SampleGrid
    n_columns: int = 3
    trail: str = ""
    bad: tuple[int, ...] = ()
    hiccups: int = 0
    plain: bool = False
    announced_bytes: int | None = None
    name: str = "fake data"
    shippable_: bool = True

    @property
    def shape(self) -> tuple[int | None, ...]:  # type: ignore[override]
        return (*self.grid.shape, self.n_columns)

    @property
    def dtype(self) -> np.dtype[Any]:  # type: ignore[override]
        return np.dtype(np.float64)

    @property
    def feature_axis(self) -> int:  # type: ignore[override]
        return len(self.grid.axes)

    @property
    def shippable(self) -> bool:
        return self.shippable_

    @property
    def read_bytes(self) -> int:
        return 0

    @property
    def block_bytes(self) -> int:
        return super().block_bytes if self.announced_bytes is None else self.announced_bytes

    def read(self, block: BlockRef) -> Rows:
        if self.trail:
            leave_trace(self.trail, f"read-{block.index}")
        if block.index in self.bad and traces(self.trail, "hiccup").total() < self.hiccups:
            leave_trace(self.trail, "hiccup")
            raise OSError(f"connection reset while reading block {block.index}")
        assert block.rows is not None
        if self.plain:
            return Rows(np.ones((block.rows, self.n_columns)))
        rng = np.random.default_rng(block.index)
        # Sums of such values depend on their order in the last bits.
        scale = 10.0 ** rng.integers(-8, 9)
        return Rows(scale * rng.standard_normal((block.rows, self.n_columns)))


def fake(*sizes: int, **options: Any) -> FakeSource:
    """Blocks of the given numbers of rows."""
    return FakeSource(SampleGrid((IrregularAxis(sizes),)), **options)


def even_fake(n_blocks: int, rows: int = 1, **options: Any) -> FakeSource:
    """`n_blocks` blocks of `rows` rows, however many, in constant memory."""
    return FakeSource(SampleGrid((RegularAxis(n_blocks * rows, rows),)), **options)


def leave_trace(trail: str, line: str) -> None:
    """Append a line; a single short write with O_APPEND is atomic between processes."""
    descriptor = os.open(Path(trail) / "trail", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def traces(trail: str, start: str = "") -> Counter[str]:
    """Count the lines left so far."""
    file = Path(trail) / "trail"
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter(line for line in lines if line.startswith(start))


@contextmanager
def interrupted_after(reads: int, trail: str) -> Iterator[None]:
    """Press Ctrl-C once so many blocks have been read, whatever this process does with SIGINT.

    A shell that starts tests in the background has them ignore it.
    """
    over = threading.Event()

    def press() -> None:
        while not over.wait(0.01):
            if traces(trail, "read").total() >= reads:
                _thread.interrupt_main()
                return

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        signal.signal(signal.SIGINT, before)


class BareJob:
    """A job with nothing to prepare."""

    def open(self) -> Self:
        return self


@dataclass(frozen=True)
class SumJob(BareJob):
    """The rows' sum as one float, so that a different tree shows in the bits."""

    value_bytes: int = 8
    workspace_bytes: int = 0
    seconds: float = 0.0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        if self.seconds:
            time.sleep(self.seconds)
        return float(rows.values.sum())


@dataclass(frozen=True)
class WeightedSumJob(BareJob):
    """Σ w·x of the rows that count, in their order."""

    value_bytes: int = 8
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        weights = np.ones(len(rows)) if rows.weights is None else rows.weights
        # In the order of rows, however they lie in memory.
        return float((weights[:, None] * np.ascontiguousarray(rows.values)).sum())


@dataclass(frozen=True)
class Expression:
    """A value that remembers how it was added up."""

    text: str

    def __add__(self, other: Expression) -> Expression:
        return Expression(f"({self.text}+{other.text})")


@dataclass(frozen=True)
class ExpressionJob(BareJob):
    """Each block's index, to be joined by the tree."""

    value_bytes: int = 100
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> Expression:
        return Expression(str(block.index))


def expected_tree(names: list[str]) -> str:
    """The fixed tree by its recursive definition."""

    def node(level: int, index: int) -> str | None:
        if index << level >= len(names):
            return None
        if level == 0:
            return names[index]
        left, right = node(level - 1, 2 * index), node(level - 1, 2 * index + 1)
        assert left is not None
        return left if right is None else f"({left}+{right})"

    level = 0
    while 1 << level < len(names):
        level += 1
    root = node(level, 0)
    assert root is not None
    return root


@dataclass(frozen=True)
class FailingJob(BareJob):
    """Raises in one block."""

    at: int
    error: BaseException
    seconds: float = 0.0
    value_bytes: int = 8
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        if block.index == self.at:
            raise self.error
        if self.seconds:
            time.sleep(self.seconds)
        return 0.0


@dataclass(frozen=True)
class NonFiniteJob(BareJob):
    """Finds a NaN in row 2, feature 1 of one block."""

    at: int
    value_bytes: int = 8
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        if block.index == self.at:
            raise NonFiniteError(2, 1, float("nan"))
        return 0.0


@dataclass(frozen=True)
class DeadlyJob(BareJob):
    """Kills its own process in one block, the first so many times that it meets it."""

    at: int
    trail: str
    times: float = 1
    seconds: float = 0.0
    value_bytes: int = 8
    workspace_bytes: int = 0

    def __call__(self, rows: Rows, block: BlockRef) -> float:
        if block.index == self.at and traces(self.trail, "death").total() < self.times:
            leave_trace(self.trail, "death")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seconds:
            time.sleep(self.seconds)
        return float(rows.values.sum())
