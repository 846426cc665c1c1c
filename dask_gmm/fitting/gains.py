"""What a series of gains may still bring, from its terms alone."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["rest_of_gains"]

# How often a turn's largest recent gain counts, and what is about to be gained; see below.
_OF_RECENT, _OF_NEXT = 10.0, 300.0
_RECENT = 2


def rest_of_gains(heights: Sequence[float], ahead: float | None = None) -> float | None:
    """What is left to gain, rather too much than too little; None before anything was gained.

    The gains of EM are a mixture of geometric series, one for each direction. The fast ones fade
    first, and if the rates of the others have no largest one below 1, the gains decline by a power
    of the turn t, as t^−q; then t·gained / (q − 1) is left. But EM also crosses plateaus, behind
    which it gains more again, and a few gains tell neither how steep the decline is nor what lies
    behind it. So this is a rule: t times ten times the larger of the last two gains, but no more
    than t times three hundred times what a step gains now, which is next to nothing only where a
    fit has arrived, or at a saddle. `bench_calibration` says how often it is enough.

    Parameters
    ----------
    heights : sequence of float
        Mean log-likelihoods, in nats per row, one for each turn.
    ahead : float, optional
        What the next step gains; by default as much as the last one.
    """
    gains = [abs(after - before) for before, after in pairwise(heights)]
    if not gains:
        return None
    now = gains[-1] if ahead is None else ahead
    return len(gains) * min(_OF_RECENT * max(gains[-_RECENT:]), _OF_NEXT * now)
