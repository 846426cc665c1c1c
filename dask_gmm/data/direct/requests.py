"""Requests to object stores that are under way together.

A store across a network answers after tens of milliseconds whatever it is asked for; only many
requests in flight fill the link. The threads that wait for answers are shared by the process, so
that its tasks together do not ask faster than a store likes to answer.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dask_gmm.data.direct.objects import RemoteObjects, StoredObject

__all__ = ["MAX_REQUESTS", "Request", "request", "submitted"]

T = TypeVar("T")

MAX_REQUESTS = 64
"""Requests that one process has in flight at most."""

Request: TypeAlias = "Future[StoredObject | None]"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_owner = 0


def request(objects: RemoteObjects, keys: Iterable[str]) -> dict[str, Request]:
    """Ask for objects and return at once."""
    return {key: _threads().submit(objects.open, key) for key in keys}


def _threads() -> ThreadPoolExecutor:
    global _pool, _owner
    with _lock:
        if _pool is None or _owner != os.getpid():  # threads do not survive a fork
            _pool, _owner = ThreadPoolExecutor(MAX_REQUESTS, "dask-gmm-fetch"), os.getpid()
        return _pool


def submitted(function: Callable[..., T], *args: Any) -> Future[T]:
    """Let one of the shared threads ask for something, and return at once."""
    return _threads().submit(function, *args)
