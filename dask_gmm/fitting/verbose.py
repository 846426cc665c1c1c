"""`verbose=`: an observer that writes plain lines to standard output, as scikit-learn does."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from math import isnan
from typing import TYPE_CHECKING

from dask_gmm.fitting.events import (
    FitFinished,
    FitResumed,
    FitStarted,
    PassFinished,
    RareComponentsFound,
    SampleDrawn,
    SearchFinished,
)

if TYPE_CHECKING:
    from dask_gmm.fitting.events import Event

__all__ = ["VerboseObserver"]


@dataclass
class VerboseObserver:
    """Write a line every `interval` passes; with `level` 2 or more also times and changes."""

    level: int
    interval: int
    _bound: float = field(default=float("nan"), init=False)

    def __call__(self, event: Event) -> None:
        """Write what is worth a line."""
        match event:
            case FitStarted():
                rows = "unknown" if event.n_rows is None else f"{event.n_rows:,}"
                _write(
                    f"Fitting {event.n_components} components to {rows} rows of "
                    f"{event.n_features} features in {event.n_blocks:,} block(s)"
                )
            case FitResumed():
                _write(f"  Going on after pass {event.passes} of {event.checkpoint}")
            case SampleDrawn():
                whole = "all" if event.complete else "a sample of"
                _write(f"  Start from {whole} {event.rows:,} rows ({event.seconds:.1f} s)")
            case SearchFinished() if event.accepted:
                _write(
                    f"  A better optimum after {event.tried} moves on the sample: "
                    f"+{event.gain:.5f} nats a row ({event.seconds:.1f} s)"
                )
            case PassFinished():
                bound = max(event.lower_bounds)
                if event.number % self.interval == 0:
                    _write(f"  Iteration {event.number}{self._details(event, bound)}")
                self._bound = bound
            case RareComponentsFound():
                _write(
                    f"  {event.components} rare component(s) found among rows of low density: "
                    f"+{event.gain:.5f} nats a row"
                )
            case FitFinished():
                _write(
                    f"{event.outcome.value} after {event.n_iter} iterations, "
                    f"{event.seconds:.1f} s, lower bound {event.lower_bound:.5f}"
                )
            case _:
                pass

    def _details(self, event: PassFinished, bound: float) -> str:
        if self.level < 2:
            return ""
        change = "" if isnan(self._bound) else f"\t ll change {bound - self._bound:.5g}"
        return f"\t time lapse {event.seconds:.5f}s{change}"


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
