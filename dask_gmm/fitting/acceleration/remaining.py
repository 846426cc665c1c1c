"""What is left to gain: what the sample says, held against what the passes have gained.

Along one direction let g be the gradient of all rows, H how much their log-likelihood bends, and
H_Y how much the sample's does. What is left is g²/2H; the sample says g²/2H_Y. On a plateau, where
EM creeps, H is small beside the error of H_Y, and the sample may say far too little. But both are
proportional to g², and a pass tells what it gained, which is what is left less. So

    left = said · gained / (said before − said),

whatever the step was: a bold one, a plain one, one held back by ρ.
"""

from __future__ import annotations

__all__ = ["RemainingGain"]

# Rises below this are those of rounding in a mean log-likelihood of some nats: they do not decline.
_NOISE = 1e-12
_UNKNOWN = float("inf")


class RemainingGain:
    """Estimates from pass to pass; nats per row throughout.

    What a fit's first pass leaves is only what the sample says: nothing has been gained yet.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: what comes next says nothing about what was before."""
        self._said = self._pull = self._left = _UNKNOWN

    def by_sample(self, said: float, gained: float) -> float:
        """Estimate while the sample is trusted; never less than it says.

        Parameters
        ----------
        said : float
            Rise to the maximum of the corrected sample.
        gained : float
            By the last pass; NaN at a start.
        """
        before = self._said
        self.forget()
        self._said = said
        if said < _NOISE or before == _UNKNOWN:
            return said
        declined = before - said
        return said * max(1.0, gained / declined) if declined > 0.0 else _UNKNOWN

    def by_decline(self, rise: float, rho: float, gained: float) -> float:
        """Estimate where the sample has been refuted, and its own maximum says nothing.

        A climb held back by ρ rises by g²/2(H + ρ), so that ρ·rise is about g²/2 whatever ρ. A pass
        may have gained along another direction than is left; hence the larger of two in a row.

        Parameters
        ----------
        rise : float
            Of the held corrected sample to its maximum.
        rho : float
            What held it; 1 for a plain step, which has no sample in it.
        gained : float
            By the last pass; NaN at a start.
        """
        before, earlier = self._pull, self._left - gained
        self.forget()
        self._pull = rho * rise
        declined = before - self._pull
        if rise < _NOISE:
            self._left = rise
        elif 0.0 < declined < _UNKNOWN:
            self._left = max(rise, gained * self._pull / declined)
        return max(self._left, earlier) if earlier < _UNKNOWN else self._left
