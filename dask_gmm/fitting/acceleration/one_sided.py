"""What is left to gain, rather too much than too little: what a fit says when it has ended.

The guess that ends a fit (`remaining`) may be wrong on a plateau: there all rows bend less than
their sample does, by less than the error of that, or not at all. How wrong a sample may be its two
halves tell, each with an error √2 times as large: of each the corrected likelihood
(`climbing.CorrectedSample`), whose gradient is that of all rows, is climbed to its maximum, as that
of the whole sample is, and the highest of the three rises counts. Along a direction in which all
bend alike the three are the same; where a half finds a way on to another optimum, all rows may.

A climb without a maximum ends where a component closes in on a few rows, or when it has taken long
enough. It has then come part of the way, and counts twice; but if it is only a half that has none,
no more than ten times the rise of the whole.

No local look finds every way out of a saddle, where EM gains next to nothing for hundreds of passes
before it rises again: what is said there may still be too little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.fitting.acceleration.climbing import CorrectedSample, climb

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.climbing import Point
    from dask_gmm.fitting.acceleration.sample import SampleRows

__all__ = ["rise_of_halves"]

_HALVES = 2
_EVALUATIONS = 100
# The climb ends when its next step would gain this part of what a plain pass gains for certain.
_INNER = 0.05
_ROUNDING = 1e-14
# How often the rise of a climb without a maximum counts, and that of the whole sample at most.
_WITHOUT_END, _OF_WHOLE = 2.0, 10.0


def rise_of_halves(sample: SampleRows, at: Point) -> float:
    """The highest rise to a maximum, of the corrected sample and of its halves, in nats per row.

    Parameters
    ----------
    sample : SampleRows
    at : Point
        Where the fit stands, with the moments of all rows.
    """
    whole, ended = _rise(sample, at)
    rises, open_rises = [whole], [] if ended else [whole]
    for first in range(_HALVES):
        half = sample.every(_HALVES, first)
        rise, half_ended = _rise(half, at)
        (rises if half_ended else open_rises).append(rise)
        sample.evaluations += half.evaluations
    without_end = _WITHOUT_END * max(open_rises, default=0.0)
    return max(*rises, min(without_end, _OF_WHOLE * whole) if ended else without_end)


def _rise(sample: SampleRows, at: Point) -> tuple[float, bool]:
    """How far a corrected sample rises, and whether to a maximum."""
    objective = CorrectedSample.create(sample, at.parameters, at.moments)
    start, enough = objective.start(), max(_INNER * at.gain, _ROUNDING)
    top, sound = climb(objective, start, enough, _EVALUATIONS)
    return max(top.value - start.value, 0.0), sound and top.gain <= enough
