"""What a scheduler knows of the fits on its cluster, by what drivers have posted.

Whoever reaches the scheduler can post, and what is posted may be anything. So a message is taken
apart field by field, and what is not what it should be is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MOST_ENDED", "SILENT_AFTER", "Board"]

SILENT_AFTER = 8.0
"""Seconds without a word after which a fit counts as silent: its driver is dead, cut off, or holds
Python's lock all the time."""

LOST_AFTER = 3600.0
"""Seconds after which a silent fit has ended, without a word."""

MOST_ENDED, MOST_RUNNING = 50, 200
"""Fits that are kept, the latest ones."""

_MOST_LETTERS, _MOST_POINTS = 200, 240
_MOST = 1e300
"""Numbers beyond it are nobody's; an int may be one that no float holds."""
_STATES = ("running", "done", "failed", "interrupted")


def _text(value: Any) -> str:
    return value[:_MOST_LETTERS] if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= _MOST else None  # NaN is not either


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _some(value: Any) -> int:
    """A count that the page reckons with."""
    return _count(value) or 0


def _rate(value: Any) -> float:
    return max(_number(value) or 0.0, 0.0)


def _curve(value: Any) -> list[tuple[int, float, bool]]:
    points = []
    for item in value[:_MOST_POINTS] if isinstance(value, list | tuple) else ():
        if not isinstance(item, list | tuple) or len(item) != 3:
            continue
        number, bound = _count(item[0]), _number(item[1])
        if number is not None and bound is not None:
            points.append((number, bound, item[2] is True))
    return points


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "id": _text,
    "doing": _text,
    "source": _text,
    "what": _text,
    "state": _text,
    "error": _text,
    "outcome": _text,
    "ending": _text,
    "seconds": _number,
    "stage": _text,
    "pass": _some,
    "most": _count,
    "blocks_done": _some,
    "blocks_total": _count,
    "rows_per_second": _rate,
    "bytes_per_second": _rate,
    "curve": _curve,
    "remaining": _number,
    "left": _number,
    "fit_left": _number,
    "searched": _text,
    "rare": _count,
    "points_done": _some,
    "points": _count,
}


class Board:
    """The latest state of each fit."""

    def __init__(self) -> None:
        #: When each was heard of first and last, and what was said then; the last one last.
        self._fits: dict[str, tuple[float, float, dict[str, Any]]] = {}

    def take(self, when: float, message: Any) -> None:
        """Take in what a driver has posted; what is no state of a fit is passed over.

        Parameters
        ----------
        when : float
            Seconds since 1970, of the scheduler's clock: drivers' clocks may differ.
        message : any
        """
        if not isinstance(message, dict):
            return
        fit = {name: read(message.get(name)) for name, read in _FIELDS.items()}
        if not fit["id"] or fit["state"] not in _STATES:
            return
        first, *_ = self._fits.pop(fit["id"], (when,))
        self._fits[fit["id"]] = first, when, fit
        for running, most in ((True, MOST_RUNNING), (False, MOST_ENDED)):
            mine = [i for i, (*_, f) in self._fits.items() if (f["state"] == "running") is running]
            for old in mine[: max(len(mine) - most, 0)]:
                del self._fits[old]

    def fits(self, now: float) -> list[dict[str, Any]]:
        """Return the state of each fit.

        Beside what was posted `silent`, the seconds since a fit that runs was last heard of where
        that is long ago, else null, and `ended`, seconds since the end of one that has ended, else
        null. Those that run come first, the latest first, so that they keep their places; then
        those that have ended, in the order of their ends.
        """
        running, ended = [], []
        for first, when, posted in reversed(self._fits.values()):
            fit = _seen(posted, max(now - when, 0.0))
            if fit["ended"] is None:
                running.append((first, fit))
            else:
                ended.append(fit)
        running.sort(key=lambda pair: -pair[0])
        return [fit for _, fit in running] + ended


def _seen(posted: dict[str, Any], since: float) -> dict[str, Any]:
    """What was posted of a fit, so many seconds later."""
    fit = {**posted, "silent": None, "ended": None}
    if fit["state"] != "running":
        fit["ended"] = since
    elif since >= SILENT_AFTER:
        fit |= {"state": "silent", "silent": since, "left": None, "fit_left": None}
        fit["ended"] = since if since >= LOST_AFTER else None
    elif fit["seconds"] is not None:
        fit["seconds"] += since
    return fit
