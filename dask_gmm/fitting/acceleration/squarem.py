"""SQUAREM: extrapolate from every second EM step, without a sample.

Two plain steps x0 → x1 → x2 give the step r = x1 − x0 and its change u = (x2 − x1) − r. Their
ratio α = −‖r‖/‖u‖ says how far EM's slow direction leads, and x0 − 2αr + α²u goes there (Varadhan &
Roland 2008, scheme S3). A cycle costs two passes, as the moments at x1 give x2 without one; the
extrapolation is kept only if it does as well as x2 is certain to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.climbing import Point
from dask_gmm.fitting.acceleration.verified import Choice, Trial, VerifiedEM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.mixture.chart import Chart
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Squarem", "extrapolated", "rest_of_series"]

# An extrapolation this close to the EM step is not worth a try that may fail.
_LEAST_STRETCH = 1.01


@dataclass(frozen=True)
class Squarem(VerifiedEM[Point | None]):
    """EM with squared extrapolation steps; see the module.

    All it remembers is the point before, where it has taken a plain step from that.

    The remaining gain is guessed as if the last two plain steps went on as a geometric series
    (Aitken): right near the end, too low on a plateau that EM will leave.
    """

    def set_out(self, start: MixtureParameters) -> None:
        """Take two plain steps before the first extrapolation."""

    def choose(self, at: Point, gained: float, memory: Point | None) -> Choice[Point | None]:
        """Extrapolate after a plain step; take a plain step after anything else."""
        assert at.update is not None
        if memory is None:
            return Choice(Trial(at.update), at, float("inf"))
        left = rest_of_series(memory, at)
        arrived = not self.by_change and left < self.tol
        target, _ = extrapolated(memory, at, at.update, self.m_step.model.chart)
        if target is None:
            return Choice(Trial(at.update), at, left, arrived)
        return Choice(Trial(target, bold=True, needed=at.gain), None, left, arrived)

    def at_most(self, at: Point, heights: Sequence[float]) -> float | None:
        """Go by the gains of cycles, each of which takes two passes."""
        cycles = heights[::-2][::-1]
        return super().at_most(at, cycles if len(cycles) > 1 else heights)


def extrapolated(
    before: Point,
    at: Point,
    update: MixtureParameters,
    chart: Chart,
    most: float = float("inf"),
) -> tuple[MixtureParameters | None, float]:
    """Where three points lead, and the stretch −α, which is `most` at most.

    None where that is hardly beyond the last, or out of reach.
    """
    start, middle = chart.to_vector(before.parameters), chart.to_vector(at.parameters)
    with np.errstate(invalid="ignore"):  # a weight of zero has no finite coordinate
        step = middle - start
        change = chart.to_vector(update) - middle - step
    lengths = np.linalg.norm(chart.metric(at.parameters).scaled(np.stack([step, change])), axis=1)
    stretch = min(float(lengths[0] / lengths[1]), most) if lengths[1] > 0.0 else 1.0
    if not stretch > _LEAST_STRETCH:
        return None, stretch
    target = start + 2.0 * stretch * step + stretch**2 * change
    return chart.from_vector(target, at.parameters), stretch


def rest_of_series(before: Point, at: Point) -> float:
    """The rest of a geometric series of gains; infinite where they do not decline."""
    ratio = at.gain / before.gain if before.gain > 0.0 else 0.0
    if ratio >= 1.0:
        return float("inf")
    return max(at.value - before.value, at.gain) * ratio / (1.0 - ratio)
