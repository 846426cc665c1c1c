"""What threads of a fit did when, made up: for whoever draws or describes timelines."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dask_gmm.execution.span import Span

__all__ = ["MadeTimeline", "MadeTrace", "timeline"]


@dataclass(frozen=True)
class MadeTrace:
    """Of a pass, as the event of the same attributes."""

    number: int
    spans: tuple[Span, ...]
    resubmitted: int


@dataclass
class MadeTimeline:
    """As `dask_gmm.Timeline` after a fit."""

    passes: list[MadeTrace] = field(default_factory=list)
    stages: list[tuple[str, float, float]] = field(default_factory=list)


def timeline(
    n_workers: int = 2,
    n_threads: int = 4,
    n_passes: int = 5,
    units: int = 64,
    *,
    seconds: float = 1.0,
    again: dict[int, int] | None = None,
    seed: int = 0,
) -> MadeTimeline:
    """Return a timeline: units go to whoever is free, the first pass waits for rows most.

    Parameters
    ----------
    seconds : float
        That a unit takes about.
    again : dict, optional
        How many units of a pass were done again.
    """
    rng, now = np.random.default_rng(seed), 1.8e9
    found = MadeTimeline()
    for name, length in (("sample", 3.0), ("starts", 1.0), ("search", 4.0)):
        found.stages.append((name, now, length * seconds))
        now += length * seconds
    for number in range(1, n_passes + 1):
        free = np.full(n_workers * n_threads, now)
        spans = []
        for unit in range(units):
            i = int(free.argmin())
            took = float(seconds * rng.gamma(8.0, 1.0 / 8.0))
            waiting = took * float(rng.beta(4, 3) if number == 1 else rng.beta(1, 8))
            worker = f"tcp://10.0.0.{i // n_threads}:8786"
            spans.append(Span(unit, worker, i, float(free[i]), took, waiting, 1, 0))
            free[i] += took
        found.passes.append(MadeTrace(number, tuple(spans), (again or {}).get(number, 0)))
        now = float(free.max()) + 0.3 * seconds
    return found
