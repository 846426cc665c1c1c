"""When a thread worked on a unit, for whoever looks at where the time has gone."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Span"]


class Span(NamedTuple):
    """A unit that ended, and what its thread did meanwhile.

    Attributes
    ----------
    unit : int
        Its first position in the pass.
    worker : str
        Address of the worker; empty in the driver's process.
    thread : int
        Identity of the thread on it.
    begun : float
        Seconds since 1970 by the worker's own clock.
    seconds : float
        Until it ended.
    waiting : float
        Those of them in which rows were waited for.
    blocks : int
    cached : int
        Of these, those that were pinned.
    """

    unit: int
    worker: str
    thread: int
    begun: float
    seconds: float
    waiting: float
    blocks: int
    cached: int
