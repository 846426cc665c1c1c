"""What a call needs before it reads a row, kept for the thread's next call.

The blocks of a pass come one after the other with the same candidates, and they may be small:
packing the parameters, predicting their rounding and finding memory would take longer than the
rows. So each thread keeps what it last prepared, for each kind of rows, as long as that is not
much memory. Nothing of one call's rows can reach the next: a run forgets them when it begins.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dask_gmm.mixture.kernels.base import Candidate
    from dask_gmm.mixture.kernels.compiled.design import Design
    from dask_gmm.mixture.kernels.compiled.run import Run

__all__ = ["Members", "Prepared", "keep"]

MOST_KEPT: Final = 32 << 20
"""Bytes from which memory is not kept: whoever needs so much has much to do besides."""

MOST_SETTINGS: Final = 4
"""Kinds of rows and arithmetic that a thread keeps something for."""


@dataclass(frozen=True, eq=False)
class Members:
    """Candidates that share their tiles.

    Attributes
    ----------
    places : tuple of int
        Which of the call's candidates they are.
    design : Design
    run : Run
    """

    places: tuple[int, ...]
    design: Design
    run: Run


@dataclass(frozen=True, eq=False)
class Prepared:
    """How the candidates of a call are taken: some by BLAS, the others in company."""

    candidates: tuple[Candidate, ...]
    by_blas: tuple[int, ...]
    members: tuple[Members, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it holds."""
        return sum(m.run.nbytes for m in self.members)

    def suits(self, candidates: Sequence[Candidate]) -> bool:
        """Whether it was made for these."""
        if candidates is self.candidates:  # a tuple: the blocks of a pass bring the same one
            return True
        pairs = zip(self.candidates, candidates, strict=False)
        return len(candidates) == len(self.candidates) and all(_same(a, b) for a, b in pairs)


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.kept: dict[tuple[object, ...], Prepared] = {}


_of_thread = _OfThread()


def keep(
    settings: tuple[object, ...], candidates: Sequence[Candidate], prepare: Callable[[], Prepared]
) -> Prepared:
    """What was prepared last under these settings if it suits the candidates, else `prepare()`."""
    kept = _of_thread.kept
    found = kept.pop(settings, None)
    if found is not None and found.suits(candidates):
        kept[settings] = found  # the last to go
        return found
    found = None  # its memory first
    found = prepare()
    while len(kept) >= MOST_SETTINGS:
        kept.pop(next(iter(kept)))
    if found.nbytes <= MOST_KEPT:
        kept[settings] = found
    return found


def _same(a: Candidate, b: Candidate) -> bool:
    p, q = a.parameters, b.parameters
    if p is q and a.reference is b.reference:
        return True
    # Before every bit is hashed: the means of another pass are others.
    return np.array_equal(p.means, q.means) and a == b
