"""What one run of the command line has in hand: where it writes, how much it says, how it ends."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from dask_gmm.cli.settings import CheckpointPlace

__all__ = ["DONE", "FAILED", "NOT_CONVERGED", "Session"]

DONE, FAILED, NOT_CONVERGED = 0, 1, 3


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
    checkpoint : CheckpointPlace or None
        Where the run commits.
    committed : int or None
        Passes that are known to be safe there; None before the first commit.
    at_once : list of callables
        What to do where the run ends at once.
    words : tuple of str
        The command line, without the program's name.
    last_word : threading.Lock
        Who takes it says how the run was stopped, and nobody else: a second signal may meet a run
        that is leaving.
    """

    json: bool = False
    progress: str = "auto"
    silent: bool = False
    debug: bool = False
    log_file: str | None = None
    leaving: bool = False
    checkpoint: CheckpointPlace | None = None
    committed: int | None = None
    at_once: list[Callable[[], None]] = field(default_factory=list)
    words: tuple[str, ...] = ()
    last_word: threading.Lock = field(default_factory=threading.Lock)

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
        """Print ``kind: text`` as one line to stderr, by one write: other threads speak too."""
        from rich.text import Text

        style = {"error": "bold red", "warning": "yellow"}.get(kind, "dim")
        line = Text.assemble((f"{kind}:", style), " ", " ".join(text.split()))
        self.err.print(line, highlight=False, soft_wrap=True)

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
