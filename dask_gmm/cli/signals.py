"""How Ctrl-C and SIGTERM end a run: the first one in good order, a second one at once."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dask_gmm.interrupts import DOUBLE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from dask_gmm.cli.session import Session

__all__ = [
    "INTERRUPTED",
    "TERMINATED",
    "Terminated",
    "ending_at_second_signal",
    "farewell",
    "signals_as_exceptions",
]

INTERRUPTED, TERMINATED = 130, 143
_CODES = {int(signal.SIGINT): INTERRUPTED, int(signal.SIGTERM): TERMINATED}

#: Seconds after which a run that is still stopping says what else can be done.
PATIENCE_SECONDS = 2.0
#: Seconds for what is removed before a run ends at once.
LAST_SECONDS = 0.5


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after it too."""


def farewell(session: Session, code: int, *, at_once: bool = False) -> str:
    """Return what to say of a run that a signal has ended."""
    word = "Terminated" if code == TERMINATED else "Interrupted"
    passes, place = session.committed, session.checkpoint
    if passes is not None and place is not None:
        after = f"after pass {passes}" if passes else "after the start"
        command = "the same command goes on from there"
        if place.resume is False:
            command = "the same command without --no-resume goes on from there"
        if at_once:
            return f"{word} at once; committed {after}, {command} (--checkpoint {place.url})."
        return f"{word} {after}; {command} (--checkpoint {place.url})."
    nothing = "" if place is None else " before anything was committed"
    if at_once:
        return f"{word} at once{nothing}."
    return f"{word}{nothing}; nothing is left running."


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` for the length of a run, and two signals in a row into one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -DOUBLE_SECONDS

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before >= DOUBLE_SECONDS:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    before = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may ignore it
        before[signal.SIGINT] = signal.default_int_handler
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ending_at_second_signal(session: Session) -> Iterator[None]:
    """End the process at a second signal, whatever its main thread is at.

    That may be deep in a library that waits for a store, where no handler of Python's gets a turn.
    So another thread reads of the signals.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(session, reader), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)  # the thread reads an end


def _watch(session: Session, reader: int) -> None:
    """End the process at the second signal; say so where the first one takes its time."""
    first: float | None = None
    patience: float | None = None
    while True:
        if not select.select([reader], [], [], patience)[0]:
            patience = None
            if not session.quiet and session.progress != "json":
                _say("stopping; a second signal stops at once")
            continue
        numbers = os.read(reader, 64)
        if not numbers:
            os.close(reader)
            return
        now = time.monotonic()
        for number in filter(_CODES.__contains__, numbers):
            if first is None:
                first, patience = now, PATIENCE_SECONDS
            elif now - first >= DOUBLE_SECONDS:
                _end(session, _CODES[number])


def _end(session: Session, code: int) -> None:
    """Leave without waiting for anybody; local workers end with this process."""
    if not session.last_word.acquire(blocking=False):
        return  # the run has said its last line, and leaves by itself

    def remove() -> None:
        for act in session.at_once:
            with suppress(Exception):
                act()

    removing = threading.Thread(target=remove, daemon=True)
    removing.start()
    removing.join(LAST_SECONDS)
    if sys.stderr.isatty():
        _say("\x1b[?25h")  # a progress bar has hidden the cursor
    _say(f"stopped: {farewell(session, code, at_once=True)}")
    os._exit(code)


def _say(line: str) -> None:
    """Write past all buffers and their locks, which somebody may hold."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
