"""The best guess at what is left: what the sample says, held against what the passes have gained.

It decides when a fit has converged and when a contestant drops out, and may be too small; what a
fit says is left when it has ended is another, larger estimate (`one_sided`).

Along one direction let g be the gradient of all rows, H how much their log-likelihood bends, and
H_Y how much the sample's does. What is left is g²/2H; the sample says g²/2H_Y, its rise. On
a plateau, where EM creeps, H is small beside the error of H_Y, and the sample may say far too
little. But both are proportional to g², and a pass tells what it gained, which is what is left
less. So

    left = rise · gained / (rise before − rise),

whatever the step was: a bold one, a plain one, one held back by ρ.

More than one direction may be left, and a turn then tells of the one it went. On a plateau it shows
in the gains themselves, which do not even halve from pass to pass. So where they do not, no less is
taken to be left than a series brings that declines as slowly as the slowest of the last turns.
Where the sample has no maximum, and so says nothing, the gains alone have to do: one small gain
tells nothing then, as behind it there may be larger ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan

from dask_gmm.fitting.state import saved

__all__ = ["RemainingGain"]

# Rises below this are those of rounding in a mean log-likelihood of some nats: they do not decline.
_NOISE = 1e-12
_UNKNOWN = float("inf")
# Turns whose gains are compared, and from where on their decline is slow. A series that declines
# slower than the last of these cannot be told from none by so few turns.
_TURNS = 3
_SLOW_RATIO, _SLOWEST_RATIO = 0.5, 0.95
_FEWEST_GAINS = 2
# A fit creeps if two passes gain more than this part of what the two before them have gained, and
# none of the four more than so many nats per row.
_CREEPING_RATIO, _MOST_CREEPING = 0.5, 1e-2


@saved
@dataclass(frozen=True)
class RemainingGain:
    """Estimates from pass to pass; nats per row throughout.

    What a fit's first pass leaves is only what the sample says: nothing has been gained yet.

    Attributes
    ----------
    gained : float
        By the last accepted pass; NaN at a start.
    gains : tuple of float
        By the last few.
    sample_rise, pull, left : float
        What was said after the pass before: the sample's rise; ρ·rise, and what was left by it.
        Infinite where it was not asked.
    """

    gained: float = float("nan")
    gains: tuple[float, ...] = ()
    sample_rise: float = _UNKNOWN
    pull: float = _UNKNOWN
    left: float = _UNKNOWN

    def take(self, gained: float) -> RemainingGain:
        """Take in what the last accepted pass has gained; NaN at a start."""
        if isnan(gained):
            return replace(self, gained=gained)
        return replace(self, gained=gained, gains=(*self.gains[-_TURNS:], max(gained, 0.0)))

    def forget(self) -> RemainingGain:
        """Compare what is said next to nothing that was said before."""
        return RemainingGain(self.gained, self.gains)

    def by_sample(self, rise: float) -> tuple[float, RemainingGain]:
        """Estimate while the sample is trusted; never less than it says.

        Parameters
        ----------
        rise : float
            Rise to the maximum of the corrected sample.
        """
        after = replace(self.forget(), sample_rise=rise)
        if rise < _NOISE or self.sample_rise == _UNKNOWN:
            return max(rise, self._by_gains()), after
        declined = self.sample_rise - rise
        if not declined > 0.0:
            return _UNKNOWN, after
        return max(rise * max(1.0, self.gained / declined), self._by_gains()), after

    def by_decline(self, rise: float, rho: float) -> tuple[float, RemainingGain]:
        """Estimate where the sample has been refuted, and its own maximum says nothing.

        A climb held back by ρ rises by g²/2(H + ρ), so that ρ·rise is about g²/2 whatever ρ. A pass
        may have gained along another direction than is left; hence the larger of two in a row.

        Parameters
        ----------
        rise : float
            Of the held corrected sample to its maximum.
        rho : float
            What held it; 1 for a plain step, which has no sample in it.
        """
        earlier, pull, left = self.left - self.gained, rho * rise, _UNKNOWN
        declined = self.pull - pull
        if rise < _NOISE:
            left = rise
        elif 0.0 < declined < _UNKNOWN:
            left = max(rise, self.gained * pull / declined)
        larger = max(left, earlier) if earlier < _UNKNOWN else left
        return max(larger, self._by_gains()), replace(self.forget(), pull=pull, left=left)

    def by_gains_alone(self) -> tuple[float, RemainingGain]:
        """Estimate where nothing is known but what the last passes have gained.

        Infinite before there are two gains to compare. Else it is the larger of the last two where
        they decline fast, and never less.
        """
        left = _UNKNOWN
        if len(self.gains) >= _FEWEST_GAINS:
            left = max(*self.gains[-_FEWEST_GAINS:], self._by_gains())
        return left, self.forget()

    @property
    def creeps(self) -> bool:
        """Whether the last two passes have gained little, and nearly what the two before have."""
        if len(self.gains) <= _TURNS or self.gains[-1] < _NOISE:
            return False
        if max(self.gains) > _MOST_CREEPING:
            return False
        return sum(self.gains[-2:]) > _CREEPING_RATIO * sum(self.gains[:-2])

    def _by_gains(self) -> float:
        """The rest of a series of gains that declines slowly; 0 where they decline fast."""
        pairs = zip(self.gains, self.gains[1:], strict=False)
        slowest = max((now / before for before, now in pairs if before > 0.0), default=0.0)
        if slowest <= _SLOW_RATIO:
            return 0.0
        ratio = min(slowest, _SLOWEST_RATIO)
        return self.gains[-1] * ratio / (1.0 - ratio)
