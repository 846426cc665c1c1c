"""Zarr's coroutines run to their end from the main thread, whatever signals come.

Zarr waits for the thread of its event loop with the locks of `concurrent.futures`. A
KeyboardInterrupt between the taking of such a lock and the ``with`` that gives it back leaves the
loop's thread waiting for ever, and with it every later call of Zarr in this process. So signals are
held until the call has returned; a second one is taken at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from zarr.core.sync import sync as zarr_sync

from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["sync"]

T = TypeVar("T")


def sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine of Zarr returns; what Zarr's own functions do is called in `held`."""
    with held():
        return zarr_sync(coroutine)
