"""How much memory a call holds, told apart from what other threads do meanwhile."""

from __future__ import annotations

import gc
import time
import tracemalloc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TURNS, _AT_MOST = 3, 12


def peak_of(call: Callable[[], object], enough: float | None = None) -> int:
    """Most bytes that `call` held at a time, its result included.

    tracemalloc sees the whole process, and clusters of earlier tests have threads that allocate
    now and then. That can only add to a peak, so the least of some turns is the call's own. A
    test that must not fail for what others do says how many bytes are `enough`: then a turn that
    held no more is the last, and there are more of them, with longer and longer pauses between.
    """
    least = _peak(call)
    for turn in range(1, _TURNS if enough is None else _AT_MOST):
        if enough is not None:
            if least <= enough:
                break
            time.sleep(0.02 * turn)
            gc.collect()  # of what others have left, which takes long and seldom matters
        least = min(least, _peak(call))
    return least


def _peak(call: Callable[[], object]) -> int:
    # The more objects its last look has found, which are those that earlier tests have left, the
    # later Python looks for cycles again. So they are put aside, and a look is had without them.
    gc.freeze()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()
