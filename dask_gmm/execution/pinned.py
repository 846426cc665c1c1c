"""Decoded blocks that a process keeps from one pass of a fit to the next.

EM reads the same blocks in the same order again and again. On such a cyclic scan of N blocks a
cache that evicts the least recently used one, with room for C < N, evicts every block just before
it is wanted again and hits nothing. So nothing is ever evicted here: the first C blocks that a
process reads stay *pinned* until the fit ends, and every later pass hits C / N of them.

A process holds the blocks of one fit at a time. They go when the fit ends, however it ends; should
its driver die, they go when the next fit begins. Rows of a store that was written to between two
fits are therefore never seen. A block is the same bytes from here and from the store, so what is
pinned where changes no bit of a result.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from dask.utils import parse_bytes

from dask_gmm.data.buffers import SpareBuffers
from dask_gmm.errors import InputError
from dask_gmm.execution.machine import available_memory, machine_memory
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = [
    "CacheSpec",
    "PinnedBlocks",
    "automatic_cache_size",
    "cache_size",
    "pinned_blocks",
    "pinned_bytes",
    "unpin",
]

#: ``cache="auto"`` takes this part of a process's memory at most. A Dask worker does not know what
#: pinned blocks are: to it they are unmanaged memory, and from 60 % on it spills, at 80 % pauses.
AUTO_SHARE = 0.375
#: The part of a process's memory that, by plan and by measurement, automatic pinning stays below.
STOP_SHARE = 0.6
#: Bytes pinned between two looks at the resident memory.
LOOK_BYTES = 64_000_000


@dataclass(frozen=True)
class CacheSpec:
    """What one fit may pin in each process that works for it; travels with its plans.

    Attributes
    ----------
    token : str
        Names the fit; blocks of another token are never used.
    size : int or None
        Bytes per process; None leaves it to `automatic_cache_size`.
    """

    token: str
    size: int | None = None


def cache_size(value: Any) -> int | None:
    """Return the bytes that a `cache` parameter asks for, None for "auto".

    Parameters
    ----------
    value : "auto", int or str
        Bytes, or a size such as ``"2 GiB"``; 0 for no cache.

    Raises
    ------
    InputError
        It is no size.
    """
    if isinstance(value, str) and value == "auto":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | Integral):
            raise ValueError
        if isinstance(value, str) and not value.strip()[:1].isdigit():
            raise ValueError  # Dask reads "GB", and nothing at all, as one of them
        size = int(parse_bytes(value)) if isinstance(value, str) else int(value)
        if size < 0:
            raise ValueError
    except ValueError:
        raise InputError(
            f"cache={value!r} is no size: give bytes for each process (2_000_000_000 or '2 GB'), "
            f"0 for no cache, or 'auto'."
        ) from None
    return size


def automatic_cache_size(limit: int, needed: int) -> int:
    """Return the bytes to pin in a process where nobody has said how many.

    Parameters
    ----------
    limit : int
        The memory that the process may use.
    needed : int
        What the pass holds without the cache.
    """
    return max(0, int(min(AUTO_SHARE * limit, STOP_SHARE * limit - needed)))


class PinnedBlocks:
    """The blocks that this process keeps for one fit; safe to use from many threads.

    Parameters
    ----------
    token : str
    capacity : int
        Most bytes to keep.
    resident_limit : int, optional
        Nothing more is pinned once the process is larger than this.

    Attributes
    ----------
    spare : SpareBuffers
        Memory for the blocks that are read again, which tasks of the fit leave to each other.
    """

    def __init__(self, token: str, capacity: int, resident_limit: int | None = None) -> None:
        self.token = token
        self.spare = SpareBuffers()
        self._capacity = capacity
        self._resident_limit = resident_limit
        self._lock = threading.Lock()
        self._rows: dict[int, Rows] = {}
        self._bytes = 0
        self._look_at = 0
        self._open = True

    def __contains__(self, index: int) -> bool:
        return index in self._rows

    @property
    def nbytes(self) -> int:
        """Bytes kept, or promised to blocks that are being read."""
        return self._bytes

    def among(self, blocks: Iterable[int]) -> dict[int, Rows]:
        """Return those of `blocks` that are pinned; they stay valid while the caller holds them."""
        rows = self._rows
        return {index: rows[index] for index in blocks if index in rows}

    def reserve(self, nbytes: int) -> bool:
        """Take room for a block before it is read; `keep` or `release` must follow a yes."""
        with self._lock:
            if not self._open or self._bytes + nbytes > self._capacity:
                return False
            if self._resident_limit is not None and self._bytes >= self._look_at:
                self._look_at = self._bytes + LOOK_BYTES
                if psutil.Process().memory_info().rss + nbytes > self._resident_limit:
                    self._capacity = self._bytes  # for good: what is pinned stays a fixed share
                    return False
            self._bytes += nbytes
            return True

    def release(self, nbytes: int) -> None:
        """Give room back: the block could not be read."""
        with self._lock:
            self._bytes -= nbytes

    def keep(self, index: int, rows: Rows, reserved: int) -> Rows:
        """Pin a block that was read after `reserve(reserved)`; return it, now read-only."""
        weights, places = (
            None if array is None else _owned(array) for array in (rows.weights, rows.places)
        )
        mine = Rows(
            _owned(rows.values),
            weights,
            places,
            rows.left_out,
            rows.gaps,
            complete=rows.complete,
        )
        with self._lock:
            if not self._open:
                return mine
            if index in self._rows:  # read twice at the same time, after a lost worker say
                self._bytes -= reserved
                return self._rows[index]
            self._bytes += mine.nbytes - reserved
            self._rows[index] = mine
        return mine

    def close(self) -> None:
        """Let go of everything and pin nothing more."""
        with self._lock:
            self._open = False
            self._rows = {}
            self._bytes = 0
        self.spare.close()


def _owned(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that no one else can change or keep alive, in the same order in memory.

    A view of something larger (a buffer that the next read will reuse, a chunk that the block is a
    corner of) is copied; a kernel that met another memory order might add in another order.
    """
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if root.base is not None or root.nbytes != array.nbytes:
        array = array.copy(order="K")
    mine = array.view()
    mine.flags.writeable = False
    return mine


class _ProcessCache:
    """The place for one fit's blocks in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: PinnedBlocks | None = None
        # Fits whose blocks were let go: units of theirs that are still under way (after Ctrl-C, or
        # with two fits at a time) must not bring them back.
        self._ended: deque[str] = deque(maxlen=256)

    def open(self, spec: CacheSpec, needed: int, limit: int | None) -> PinnedBlocks | None:
        with self._lock:
            if self._current is not None and self._current.token == spec.token:
                return self._current
            if spec.token in self._ended:
                return None
            self._retire()
            if spec.size is not None:
                self._current = PinnedBlocks(spec.token, spec.size)
            else:
                capacity = automatic_cache_size(
                    available_memory() if limit is None else limit, needed
                )
                stop = int(STOP_SHARE * (machine_memory() if limit is None else limit))
                self._current = PinnedBlocks(spec.token, capacity, stop)
            return self._current

    def close(self, token: str) -> None:
        with self._lock:
            if self._current is not None and self._current.token == token:
                self._retire()
            elif token not in self._ended:
                self._ended.append(token)

    def nbytes(self) -> int:
        with self._lock:
            return 0 if self._current is None else self._current.nbytes

    def _retire(self) -> None:
        if self._current is not None:
            self._current.close()
            self._ended.append(self._current.token)
            self._current = None


_PROCESS_CACHE = _ProcessCache()


def pinned_blocks(spec: CacheSpec, *, needed: int, limit: int | None = None) -> PinnedBlocks | None:
    """Return what this process pins for a fit; the first call of a new fit evicts all others.

    Where two fits share a process, the later one has the cache and the earlier one goes on
    without.

    Parameters
    ----------
    spec : CacheSpec
    needed : int
        Bytes that a pass of the fit holds in this process without the cache.
    limit : int, optional
        Memory of the process. By default what the machine has left at this moment.

    Returns
    -------
    PinnedBlocks or None
        None when the fit has ended, or has made place for a later one.
    """
    return _PROCESS_CACHE.open(spec, needed, limit)


def unpin(token: str) -> None:
    """Let go of a fit's blocks; they cannot come back."""
    _PROCESS_CACHE.close(token)


def pinned_bytes() -> int:
    """Return the bytes that this process has pinned."""
    return _PROCESS_CACHE.nbytes()
