"""Words and numbers that fit where figures have room for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.plotting.fitted import coordinate_of, taken_of

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["HALO", "by_line", "halo", "listed", "percent", "plain", "short_name"]

HALO = 1.6
"""Width in points of the white line around text that stands on colours."""


def short_name(name: str, power: str = "", *, inches: float = 0.9) -> str:
    """Return a feature's name for an axis, in at most two lines.

    Parameters
    ----------
    name : str
    power : str
        What its numbers are to be multiplied by.
    inches : float
        Room for a line.
    """
    room = max(8, int(inches / 0.056))
    place, taken = coordinate_of(name), taken_of(name)
    if taken is not None:
        first, second = short_name(taken[0], inches=inches).replace("\n", " "), taken[1]
    elif place is not None and place[1] is not None:
        first, second = place[0], f"{place[1]} {_plain(place[2])}"
    elif len(name) <= room:
        first, second = name, ""
    else:
        at = max(name.rfind(mark, 1, room) for mark in " _-./(")
        at = at if at > room // 3 else room
        first, second = name[:at].rstrip(), name[at:].lstrip()
    second = f"{second} {power}".strip()
    return f"{_cut(first, room)}\n{_cut(second, room)}".rstrip("\n")


def _plain(label: str) -> str:
    """Write a number without zeros that say nothing; other labels as they are."""
    try:
        return f"{float(label):.6g}"
    except ValueError:
        return label


def _cut(name: str, room: int) -> str:
    """Leave out the middle of a name, as its ends are what tells it from others."""
    if len(name) <= room:
        return name
    half = (room - 1) // 2
    return f"{name[: room - 1 - half]}…{name[-half:]}"


def plain(text: str) -> str:
    """Return text that matplotlib draws as it is: between two dollars it would see a formula."""
    return text.replace("$", r"\$")


def listed(numbers: Sequence[int], most: int = 6) -> str:
    """Write component numbers for a sentence: ``0, 3, 4 and 17 more``."""
    if len(numbers) <= most:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:most]))} and {len(numbers) - most} more"


def by_line(handles: Sequence[Any], columns: int) -> list[Any]:
    """Return a legend's entries so that they are read by lines; matplotlib fills columns.

    Its columns differ in length by one at most, the longer ones first.
    """
    lines = -(-len(handles) // columns)
    places = (line * columns + column for column in range(columns) for line in range(lines))
    return [handles[place] for place in places if place < len(handles)]


def percent(part: float) -> str:
    """Write a part of one in percent: ``12``, ``1.3``, ``0.04``."""
    value = 100.0 * part
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def halo() -> list[Any]:
    """Return path effects that keep dark text legible on any colour."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=HALO, foreground="white")]
