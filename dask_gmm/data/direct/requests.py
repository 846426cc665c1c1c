"""Requests to object stores that are under way together.

A store across a network answers after tens of milliseconds whatever it is asked for; only many
requests in flight fill the link. The threads that wait for answers are shared by the process, so
that its tasks together do not ask faster than a store likes to answer; how many of them ask at a
time, and in how many parts, `transfers` says.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dask_gmm.data.direct.cancellation import Cancellation
from dask_gmm.data.direct.link import MAX_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.data.direct.objects import StoredObject

__all__ = ["MAX_REQUESTS", "Request", "submitted"]

T = TypeVar("T")

Request: TypeAlias = "Future[StoredObject | None]"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_owner = 0


def _threads() -> ThreadPoolExecutor:
    global _pool, _owner
    with _lock:
        if _pool is None or _owner != os.getpid():  # threads do not survive a fork
            _pool, _owner = ThreadPoolExecutor(MAX_REQUESTS, "dask-gmm-fetch"), os.getpid()
        return _pool


class _Submitted(Future[T]):
    """What one of the threads returns; cancelled also while it runs, with what it has asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = Cancellation()

    def cancel(self) -> bool:
        """Give up what is asked for; a waiting thread is told so by `GivenUpError`."""
        self._asked.give_up()
        return super().cancel()

    def run(self, function: Callable[..., T], args: tuple[Any, ...]) -> None:
        """Call a function for the result."""
        if not self.set_running_or_notify_cancel():
            return
        try:
            with self._asked.current():
                result = function(*args)
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            self.set_exception(error)
            self = None  # type: ignore[assignment]  # noqa: PLW0642  the traceback leads here
        else:
            self.set_result(result)


def submitted(function: Callable[..., T], *args: Any) -> Future[T]:
    """Let one of the shared threads ask for something, and return at once."""
    answer: _Submitted[T] = _Submitted()
    _threads().submit(answer.run, function, args)
    return answer
