"""How much memory a call holds, told apart from what other threads do meanwhile."""

from __future__ import annotations

import gc
import tracemalloc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TURNS = 3


def peak_of(call: Callable[[], object], enough: float = 0.0) -> int:
    """Most bytes that `call` held at a time, its result included.

    tracemalloc sees the whole process, and clusters of earlier tests leave threads that allocate
    now and then. That can only add to a peak, so the least of a few turns is the call's own; a
    turn that held at most `enough` bytes is the last.
    """
    least = _peak(call)
    for _ in range(_TURNS - 1):
        if least <= enough:
            break
        least = min(least, _peak(call))
    return least


def _peak(call: Callable[[], object]) -> int:
    # The more objects its last look has found, which are those that earlier tests have left, the
    # later Python looks for cycles again. So they are put aside, and a look is had without them.
    gc.collect()
    gc.freeze()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()
