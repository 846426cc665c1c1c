"""What is left to gain, rather too much than too little: what a fit says when it has ended.

The guess that ends a fit (`remaining`) may be wrong on a plateau: there all rows bend less than
their sample does, by less than the error of that, or not at all. How wrong a sample may be its two
halves tell, each with an error √2 times as large: of each the corrected likelihood
(`climbing.CorrectedSample`), whose gradient is that of all rows, is climbed to its maximum, as that
of the whole sample is, and the highest of the three rises counts. Along a direction in which all
bend alike the three are the same; where a half finds a way on to another optimum, all rows may.

A climb without a maximum ends where a component closes in on a few rows, or when it has taken long
enough. It has then come part of the way, and counts twice. But nothing counts more than a hundred
times what as many plain steps as the fit has made passes would gain from here, except a rise of the
whole sample to its maximum.

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
# How often the rise of a climb without a maximum counts, and all that plain steps would gain.
_WITHOUT_END, _OF_STEPS = 2.0, 100.0


def rise_of_halves(sample: SampleRows, at: Point, turns: int) -> float:
    """The highest rise to a maximum, of the corrected sample and of its halves, in nats per row.

    Parameters
    ----------
    sample : SampleRows
    at : Point
        Where the fit stands, with the moments of all rows.
    turns : int
        How many passes the fit has accepted.
    """
    whole, ended = _rise(sample, at)
    closed, unfinished = [whole], [0.0 if ended else whole]
    for first in range(_HALVES):
        half = sample.every(_HALVES, first)
        rise, half_ended = _rise(half, at)
        (closed if half_ended else unfinished).append(rise)
        sample.evaluations += half.evaluations
    steps = turns * 2.0 * max(at.gain, 0.0)  # twice what is certain of one: see `at_most`
    left = min(max(*closed, _WITHOUT_END * max(unfinished)), _OF_STEPS * steps)
    return max(left, whole) if ended else left


def _rise(sample: SampleRows, at: Point) -> tuple[float, bool]:
    """How far a corrected sample rises, and whether to a maximum."""
    assert at.moments is not None
    objective = CorrectedSample.create(sample, at.parameters, at.moments)
    start, enough = objective.start(), max(_INNER * at.gain, _ROUNDING)
    top, sound = climb(objective, start, enough, _EVALUATIONS)
    return max(top.value - start.value, 0.0), sound and top.gain <= enough
