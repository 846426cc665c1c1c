"""One thing that was looked at: how it stands, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Finding", "Level", "named", "verb"]

Level = Literal["ok", "note", "warning", "error"]
"""From what is as it should be, over what is worth knowing and what costs time or bits, to what
ends a fit."""

_NAMED = 3


@dataclass(frozen=True)
class Finding:
    """How one thing stands.

    Attributes
    ----------
    level : {"ok", "note", "warning", "error"}
    subject : str
        What was looked at, in a word.
    text : str
        What was seen.
    remedy : str
        What to do; "" where there is nothing to be done.
    workers : tuple of str
        Addresses of those that it is about, where it is not about all.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""
    workers: tuple[str, ...] = ()


def verb(count: int, one: str, many: str) -> str:
    """Return the form of a verb that goes with a count."""
    return one if count == 1 else many


def named(workers: Collection[str]) -> str:
    """Name workers, the first few of many."""
    shown = sorted(workers)[:_NAMED]
    more = len(workers) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
