"""Damage is read again before it is believed.

A bit that flips on the way, or a body that a proxy cuts off, is found by a checksum, a codec or a
length, as damage in the store would be. Only another read tells the two apart. Files are not read
again: the operating system would show the same pages.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from dask_gmm.data.doubt import jittered
from dask_gmm.errors import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["REREAD_PAUSES", "reread"]

T = TypeVar("T")

REREAD_PAUSES = (0.05, 0.3)
"""Seconds, jittered, before each further read: whoever writes the object may be about to end."""


def reread(
    read: Callable[[], T], *, far: bool = True, damage: type[Exception] = CorruptChunkError
) -> T:
    """Return what a read returns that finds no damage.

    Parameters
    ----------
    read : callable
        Reads anew at every call.
    far : bool, default=True
        Whether it reads across a network; else it is called once.
    damage : type, default=CorruptChunkError
        What it raises for damage.

    Raises
    ------
    Exception
        What the last of three reads raises; at once what is no damage.
    """
    for pause in REREAD_PAUSES if far else ():
        try:
            return read()
        except damage:
            seconds = jittered(pause)
        time.sleep(seconds)
    return read()
