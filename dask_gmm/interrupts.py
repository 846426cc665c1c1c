"""Ctrl-C and SIGTERM, taken where nothing is half done.

Python raises what the handler of a signal raises between any two steps of the main thread: where
tasks were submitted and nobody knows of them yet, or a lock is taken and its ``with`` has not
begun. So what others would have to let go of (tasks of a cluster, pinned blocks, threads at work)
is done while signals are `held`. They are taken where it waits, a few times in a second, by
`take_signals` or by `outcome`; and a second one that finds the first still waiting is taken at
once.

What holds nothing, all the arithmetic between two passes, runs as ever (`allowed`).

Only handlers that Python calls are held, in the main thread, which is the one that they interrupt.
"""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import wait
from contextlib import ContextDecorator
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import FrameType

__all__ = ["DOUBLE_SECONDS", "allowed", "held", "outcome", "take_signals"]

DOUBLE_SECONDS = 0.3
"""Signals that follow each other so quickly are one: some launchers pass on to a process what their
whole group has got already."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

TICK = 0.1
"""Seconds between two looks while an answer is waited for."""

T = TypeVar("T")


class _Gate:
    """Stands before the handlers of the signals, from the outermost `held` to its end.

    While it is open it hands on what comes, so it does no harm where an exception leaves it behind.
    """

    def __init__(self) -> None:
        self.shut = False
        self.installed = False  # by somebody who is still to remove it
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._waiting: int | None = None
        self._since = 0.0

    def install(self) -> None:
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        mine = {number: was for number, was in found.items() if callable(was)}
        self._handlers |= {n: was for n, was in mine.items() if was != self._take}
        for number in mine:
            signal.signal(number, self._take)
        self.installed = True

    def remove(self) -> None:
        """Put the handlers back, and take the signal that waits."""
        waiting, self._waiting, self.shut = self._waiting, None, False
        self.installed = False
        try:
            self._put_back(signal.SIGTERM)
        finally:
            self._put_back(signal.SIGINT)
        if waiting is not None:
            self._handlers[waiting](waiting, None)

    def open(self) -> None:
        """Let signals through, and take the one that waits."""
        waiting, self._waiting, self.shut = self._waiting, None, False
        if waiting is not None:
            self._handlers[waiting](waiting, None)

    def deliver(self) -> None:
        """Take the signal that waits, if there is one; as a rule that raises."""
        if self._waiting is not None:
            number, self._waiting = self._waiting, None
            self._handlers[number](number, None)

    def _put_back(self, number: int) -> None:
        if signal.getsignal(number) == self._take:  # and nobody else's, who came meanwhile
            signal.signal(number, self._handlers[number])

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.shut and self._waiting is None:
            self._waiting, self._since = number, now
        elif not self.shut or now - self._since > DOUBLE_SECONDS:
            self._waiting = None
            self._handlers[number](number, frame)


_GATE = _Gate()


def _in_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


class held(ContextDecorator):  # noqa: N801 - reads as the words of a `with`
    """Hold signals back inside of a ``with``: they are taken by `take_signals`, or in the end.

    One may stand inside another, in any thread, and before a function as ``@held()``.
    """

    __slots__ = ("_first", "_outermost")

    def _recreate_cm(self) -> Self:
        return type(self)()  # each call of a function has its own

    def __enter__(self) -> Self:
        self._first = False
        self._outermost = _in_main_thread() and not _GATE.shut
        if self._outermost:
            self._first = not _GATE.installed
            try:
                if self._first:
                    _GATE.install()
                _GATE.shut = True
            except BaseException:
                if self._first:
                    _GATE.remove()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._first:
            _GATE.remove()
        elif self._outermost:
            _GATE.open()


class allowed:  # noqa: N801
    """Let signals through inside of a ``with`` that stands in `held`; one that waits is taken."""

    __slots__ = ("_shut",)

    def __enter__(self) -> Self:
        self._shut = _in_main_thread() and _GATE.shut
        if self._shut:
            _GATE.deliver()
            _GATE.shut = False  # and from here to the body of the `with` nothing is asked
        return self

    def __exit__(self, *_: object) -> None:
        if self._shut:
            _GATE.shut = True


def take_signals() -> None:
    """Take a signal that is held; as a rule that raises KeyboardInterrupt."""
    if _GATE.shut and _in_main_thread():
        _GATE.deliver()


def outcome(answer: Future[T], timeout: float | None = None) -> T:
    """Wait for what another thread is at; signals are taken meanwhile, and leave it there.

    Raises
    ------
    TimeoutError
        It took longer than `timeout` seconds.
    Exception
        What the other thread raises.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    with held():
        while True:
            take_signals()
            left = TICK if deadline is None else min(TICK, deadline - time.monotonic())
            if answer.done() or wait([answer], max(left, 0.0)).done:
                return answer.result()
            if left <= 0.0:
                raise TimeoutError
