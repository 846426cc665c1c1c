"""What the answers of a store say about the link to it, and how to ask for the next ones.

Pure functions and frozen values: no clock, no thread. A link is filled by as many requests as its
bandwidth times the time that one of them takes (Little's law), which is `needed`; more of them only
wait for each other, and what is wanted first comes later. Neither is known beforehand: how fast one
connection is shows when it is alone. So the number is also grown step by step, and only as long as
that brings more bytes a second (`next_window`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "HEDGED_SHARE",
    "MAX_REQUESTS",
    "SMALLEST_PART",
    "Allowance",
    "Answer",
    "Estimate",
    "Window",
    "allowed_seconds",
    "divided",
    "estimate",
    "joined",
    "needed",
    "next_spare",
    "next_window",
    "parts",
    "patience",
]

MAX_REQUESTS = 64
"""Requests for chunks, shards and ranges of tables that one process has in flight at most."""

FIRST_REQUESTS = 16
"""Requests that a process begins with, where nothing is known of a link."""

LEAST_REQUESTS = 2
"""Requests that may always be in flight."""

GROWTH, GAIN = 2.0, 1.1
"""More requests in flight are kept if so many times as many bring so many times the bytes."""

TRIALS = 2
"""Measurements that a larger window is given to show that it is better."""

REST = 16
"""Measurements until a larger window is tried again: links change."""

SPARE, MOST_SPARE = 1.5, 32.0
"""So many times the requests that fill a link are in flight, for answers that are not alike; and
at most so many times, where fewer have shown not to fill it."""

SMALLEST_PART = 2**22
"""Bytes of a part of an object below which another request costs more than it brings."""

MOST_GAP = 2**20
"""Bytes between two ranges that are fetched with them at most: they are memory, on any link."""

KNOWN = 16
"""Answers from which on it is known what is slow."""

SLOW = 3.0
"""An answer is late after so many times what 95 in 100 take at most."""

LEAST_PATIENCE, UNKNOWN_PATIENCE = 0.5, 10.0
"""Seconds that every answer has; and where nothing is known yet."""

BODY_SECONDS, SLOWEST = 60.0, 2**17
"""A body may take so many seconds, and longer for each so many of its bytes."""

HEDGED_SHARE = 0.03
"""Of all requests at most this share is made a second time because the answer is late."""

_MOST_HEDGES = 8.0


class Answer(NamedTuple):
    """What one request took.

    Attributes
    ----------
    latency : float
        Seconds to the answer's head.
    body : float
        Seconds from there to the last byte.
    size : int
        Bytes of the body.
    """

    latency: float
    body: float
    size: int


class Estimate(NamedTuple):
    """What is known of a link.

    Attributes
    ----------
    latency : float
        Seconds to an answer's head; the median.
    rate : float
        Bytes a second that one connection has brought in the fastest tenth of the answers that
        are not small; infinite where nothing says.
    late, late_body : float
        Latency, and seconds for each byte of a body, that 95 in 100 answers do not exceed.
    size : float
        Bytes of an answer, on average.
    answers : int
        What it is made from.
    """

    latency: float = 0.0
    rate: float = math.inf
    late: float = 0.0
    late_body: float = 0.0
    size: float = 0.0
    answers: int = 0


def estimate(answers: Sequence[Answer]) -> Estimate:
    """Reduce the last answers.

    Parameters
    ----------
    answers : sequence of Answer
        In any order.
    """
    if not answers:
        return Estimate()
    latencies = sorted(a.latency for a in answers)
    size = sum(a.size for a in answers) / len(answers)
    # A small body comes with its head, in no time to speak of.
    bodies = sorted(a.body / a.size for a in answers if a.size >= max(2**16, size / 2))
    fast = max(_quantile(bodies, 0.1), 1e-15) if bodies else 0.0
    return Estimate(
        _quantile(latencies, 0.5),
        1 / fast if bodies else math.inf,
        _quantile(latencies, 0.95),
        _quantile(bodies, 0.95) if bodies else 0.0,
        size,
        len(answers),
    )


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]


@dataclass(frozen=True)
class Window:
    """How many requests may be in flight, and whether that is being tried.

    Attributes
    ----------
    size : int
        Requests in flight at most.
    before : int
        Size to go back to; 0 where nothing is tried.
    throughput : float
        Bytes a second at that size.
    left : int
        Measurements until a trial is judged to have failed, or until the next one begins.
    """

    size: int = FIRST_REQUESTS
    before: int = 0
    throughput: float = 0.0
    left: int = 0


def next_window(window: Window, throughput: float) -> Window:
    """Return the window after a measurement with all of its requests in flight.

    Parameters
    ----------
    window : Window
    throughput : float
        Bytes a second.
    """
    if window.before and throughput < GAIN * window.throughput:
        if window.left > 1:
            return replace(window, left=window.left - 1)
        return Window(window.before, left=REST)
    if not window.before and window.left > 0:
        return replace(window, left=window.left - 1)
    larger = min(MAX_REQUESTS, math.ceil(GROWTH * window.size))
    if larger <= window.size:
        return Window(window.size, left=REST)
    return Window(larger, window.size, throughput, TRIALS)


def needed(throughput: float, link: Estimate, spare: float = SPARE) -> int:
    """Return how many requests in flight fill a link, and some to spare.

    Parameters
    ----------
    throughput : float
        Bytes a second that it has brought at best; 0 where that is not known.
    link : Estimate
    spare : float
        So many times what fills it by these numbers.
    """
    if not throughput or not link.size:
        return MAX_REQUESTS
    at_a_time = throughput * (link.latency / link.size + 1 / link.rate)
    return max(LEAST_REQUESTS, min(MAX_REQUESTS, math.ceil(spare * at_a_time)))


def next_spare(spare: float, throughput: float, best: float) -> float:
    """Return how much to spare after a measurement with no more requests than were `needed`.

    Parameters
    ----------
    spare : float
    throughput, best : float
        Bytes a second now, and at best: where it is less, the numbers deceive.
    """
    return spare if GAIN * throughput >= best else min(MOST_SPARE, SPARE * spare)


def parts(size: int, window: int, wanted: int, link: Estimate) -> int:
    """Return into how many parts an object is divided that is fetched over a link.

    More than one where fewer objects are wanted at a time than requests may be in flight: then
    their connections, each of which has a bandwidth of its own, would not fill the link.

    Parameters
    ----------
    size : int
        Bytes of the object, at most.
    window, wanted : int
        Requests that may be in flight; objects that are wanted now.
    link : Estimate
    """
    return max(1, min(math.ceil(window / max(1, wanted)), size // _smallest_part(link)))


def _smallest_part(link: Estimate) -> int:
    """Return the bytes that take no less time than their latency."""
    worth = link.rate * link.latency if math.isfinite(link.rate) else 0.0
    return max(SMALLEST_PART, int(worth))


def divided(
    ranges: Sequence[tuple[int, int]], window: int, link: Estimate
) -> list[tuple[int, int]]:
    """Divide long ranges (start, stop), so that together they are as many as may be in flight.

    Returns
    -------
    list of tuple
        In order, each as long as any other of its range but for the last.
    """
    total = sum(stop - start for start, stop in ranges)
    part = max(_smallest_part(link), math.ceil(total / max(1, window)))
    return [(a, min(a + part, stop)) for start, stop in ranges for a in range(start, stop, part)]


def joined(ranges: Sequence[tuple[int, int]], link: Estimate) -> list[tuple[int, int]]:
    """Join ranges (start, stop) whose distance takes less time than a request of its own.

    Returns
    -------
    list of tuple
        Sorted, without overlaps, covering all of `ranges`.
    """
    gap = min(MOST_GAP, link.latency * link.rate) if math.isfinite(link.rate) else 0
    found: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if found and start - found[-1][1] <= gap:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found


def patience(link: Estimate, size: int) -> float:
    """Return the seconds after which the answer to a request is late.

    Parameters
    ----------
    link : Estimate
    size : int
        Bytes that were asked for, at most.
    """
    if link.answers < KNOWN:
        return UNKNOWN_PATIENCE
    return max(LEAST_PATIENCE, SLOW * (link.late + size * link.late_body))


def allowed_seconds(size: int) -> float:
    """Return how long a body of some bytes may take before it is given up."""
    return BODY_SECONDS + size / SLOWEST


@dataclass(frozen=True)
class Allowance:
    """How many second requests may be made now: a share of all, some of them at once."""

    left: float = 4.0

    def after_request(self) -> Allowance:
        """Return the allowance after one request more."""
        return Allowance(min(_MOST_HEDGES, self.left + HEDGED_SHARE))

    def after_hedge(self) -> Allowance | None:
        """Return what is left after a second request, None if it may not be made."""
        return Allowance(self.left - 1.0) if self.left >= 1.0 else None
