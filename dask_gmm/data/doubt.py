"""An absence is asked for again before it is believed.

Zarr reads a chunk that is not there as fill values, and an array whose document of attributes is
not there without its attributes. So one "404 Not Found" that is false, from a proxy, a replica that
lags behind or a store that is being repaired, would change results without a word. Two in a row, a
moment apart, are believed.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from zarr.storage import FsspecStore, ObjectStore, WrapperStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

__all__ = ["DOUBT_SECONDS", "AsksAgain", "confirmed", "is_far", "jittered"]

DOUBT_SECONDS = 0.05
"""Between an answer that something is absent and the next question, jittered."""


class AsksAgain:
    """Marks a store of Zarr's that doubts absences itself."""


def jittered(seconds: float) -> float:
    """Return about as many seconds, so that threads do not all come back at one moment."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311


def is_far(store: Store) -> bool:
    """Whether a store answers across a network; disks and archives know what they have."""
    while isinstance(store, WrapperStore):
        store = store._store
    return isinstance(store, FsspecStore | ObjectStore)


async def confirmed(store: Store, get: Callable[[], Awaitable[Buffer | None]]) -> Buffer | None:
    """Return what `get` returns, which asks `store`; None only if a second question agrees."""
    found = await get()
    if found is None and is_far(store) and not isinstance(store, AsksAgain):
        await asyncio.sleep(jittered(DOUBT_SECONDS))
        found = await get()
    return found
