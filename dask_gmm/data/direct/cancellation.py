"""Giving up what threads wait for, from any other thread."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

__all__ = ["Cancellation", "GivenUpError", "waited_for"]


class GivenUpError(BaseException):
    """Nobody waits for this answer any more. No Exception: nothing may take it for a failed one."""


class Cancellation:
    """What a caller has asked for and may give up; safe to use from all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: set[Future[Any]] = set()
        self._given_up = False

    def give_up(self) -> None:
        """End what is under way; what is asked for from now on ends at once."""
        with self._lock:
            self._given_up = True
            under_way = tuple(self._under_way)
        for future in under_way:
            future.cancel()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Give up with this what the calling thread asks for inside."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def result(self, submit: Callable[[], Future[Any]]) -> Any:
        """Submit and wait."""
        with self._lock:
            if self._given_up:
                raise GivenUpError
            future = submit()
            self._under_way.add(future)
        try:
            future.exception()  # waits, and is no traceback through other threads' frames
        except BaseException:
            future.cancel()
            if self._given_up:
                raise GivenUpError from None
            raise
        finally:
            with self._lock:
                self._under_way.discard(future)
        return future.result()


_current: ContextVar[Cancellation | None] = ContextVar("dask_gmm_cancellation", default=None)


def waited_for(submit: Callable[[], Future[Any]]) -> Any:
    """Submit and wait, until what the calling thread asks for is given up."""
    return (_current.get() or Cancellation()).result(submit)
