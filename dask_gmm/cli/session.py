"""What one run of the command line has in hand: where it writes, how much it says, how it ends."""

from __future__ import annotations

import json
import math
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from rich.console import Console

__all__ = [
    "DONE",
    "FAILED",
    "NOT_CONVERGED",
    "Session",
    "Terminated",
    "defer_signals",
    "sigterm_as_exception",
]

DONE, FAILED, NOT_CONVERGED = 0, 1, 3


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever cleans up after Ctrl-C cleans up after it too."""


@dataclass
class Session:
    """The streams and switches shared by all commands.

    Results go to stdout and everything else to stderr, so that a pipe gets results only.

    Attributes
    ----------
    json : bool
        The result is one JSON object.
    progress : str
        ``auto``, ``bar``, ``lines``, ``json`` or ``none``.
    silent : bool
        No progress, whatever `progress` says.
    debug : bool
        Errors come with their traceback.
    log_file : str or None
        Where the log of Dask's cluster goes.
    leaving : bool
        The run is being interrupted: what libraries complain about now is of no interest.
    """

    json: bool = False
    progress: str = "auto"
    silent: bool = False
    debug: bool = False
    log_file: str | None = None
    leaving: bool = False

    @cached_property
    def out(self) -> Console:
        """Where results go."""
        return _console(stderr=False)

    @cached_property
    def err(self) -> Console:
        """Where progress, warnings and errors go."""
        return _console(stderr=True)

    @property
    def quiet(self) -> bool:
        """Whether only results, warnings and errors are wanted."""
        return self.silent or self.progress == "none"

    def note(self, text: str) -> None:
        """Say in a line what is going on, unless nobody wants to know."""
        if not self.quiet and self.progress != "json":
            self.err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)

    def complain(self, kind: str, text: str) -> None:
        """Print ``kind: text`` as one line to stderr."""
        style = {"error": "bold red", "warning": "yellow"}.get(kind, "dim")
        line = " ".join(text.split())
        self.err.print(f"[{style}]{kind}:[/] ", end="", highlight=False, soft_wrap=True)
        self.err.print(line, markup=False, highlight=False, soft_wrap=True)

    def emit(self, result: dict[str, Any]) -> None:
        """Print a result as JSON; what is not finite becomes null."""
        click.echo(json.dumps(_plain(result), allow_nan=False, indent=2))


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        # A pipe has no width: wrapping there would break lines that others want to read.
        console.width = 120
    return console


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` for the length of a run."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM while something short must not be cut in half.

    The signal is delivered at the end; a second one is delivered at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold(signum: int, _frame: FrameType | None) -> None:
        held.append(signum)
        restore()

    for number in handlers:
        signal.signal(number, hold)
    try:
        yield
    finally:
        restore()
        if held:
            signal.raise_signal(held[0])
