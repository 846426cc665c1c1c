"""What is left to gain: what the sample says, held against what the passes have gained.

Along one direction let g be the gradient of all rows, H how much their log-likelihood bends, and
H_Y how much the sample's does. What is left is g²/2H; the sample says g²/2H_Y. On a plateau, where
EM creeps, H is small beside the error of H_Y, and the sample may say far too little. But both are
proportional to g², and a pass tells what it gained, which is what is left less. So

    left = said · gained / (said before − said),

whatever the step was: a bold one, a plain one, one held back by ρ.

More than one direction may be left, and a turn then tells of the one it went. On a plateau it shows
in the gains themselves, which do not even halve from pass to pass. So where they do not, no less is
taken to be left than such a series brings (`series_rest`), at the slowest of the last turns.
"""

from __future__ import annotations

from math import exp, isnan

__all__ = ["RemainingGain", "series_rest", "whole_rise"]

# Rises below this are those of rounding in a mean log-likelihood of some nats: they do not decline.
_NOISE = 1e-12
_UNKNOWN = float("inf")
# Turns whose gains are compared, and from where on their decline is slow.
_TURNS = 3
_SLOW = 0.5
# A series that has been followed over few turns cannot be told from one that does not decline: it
# brings at most so many times its last gain.
_MOST = 19.0


def series_rest(gained: float, ratio: float, turns: int) -> float:
    """What a series of gains still brings whose decline becomes slower.

    The gains of EM are a mixture of geometric series, one for each direction. The fast ones fade
    first, so that the ratio of one gain to the one before rises from turn to turn, and the sum
    gained·r / (1 − r) of a single series is too small: by four times and more at the tails of heavy
    ones. If their rates have no smallest one, the gains decline by a power of the turn t, as t^−q,
    with r = (1 − 1/t)^q ≈ e^(−q/t), and t·gained / (q − 1) is left, which is what a single series
    with r·e^(1/t) leaves. Late, or for a fast decline, both are the same. Where q ≤ 3/2 the last
    turns do not tell what q is; then 2t times the gain, and at least 19 times, is the most.

    Parameters
    ----------
    gained : float
        By the last turn.
    ratio : float
        Of the last gain to the one before.
    turns : int
        How many there have been, at least one.
    """
    slower = ratio * exp(1.0 / turns)
    return gained * (min(slower / (1.0 - slower), _most(turns)) if slower < 1.0 else _most(turns))


def _most(turns: int) -> float:
    return max(_MOST, 2.0 * turns)


def whole_rise(held: float, farther: float) -> float:
    """Rise to a maximum, from those of climbs that are held by some ρ and by 3ρ; see `by_decline`.

    Of several directions this is a lower bound, and infinite where they bend the other way.
    """
    ratio = held / farther
    return max(held, 2.0 * held / (3.0 - ratio)) if ratio < 3.0 else _UNKNOWN


class RemainingGain:
    """Estimates from pass to pass; nats per row throughout.

    What a fit's first pass leaves is only what the sample says: nothing has been gained yet.
    """

    def __init__(self) -> None:
        self._gained = float("nan")
        self._gains: list[float] = []
        self._turns = 0
        self._plain = self._plain_before = _UNKNOWN
        self._said = self._pull = _UNKNOWN
        self._earlier = _UNKNOWN

    def take(self, gained: float, plain: float) -> None:
        """Take in an accepted pass.

        Parameters
        ----------
        gained : float
            By that pass; NaN at a start.
        plain : float
            What an EM step from there gains for certain.
        """
        self._gained = gained
        self._plain_before, self._plain = self._plain, plain
        if not isnan(gained):
            self._turns += 1
            self._gains = [*self._gains[-_TURNS:], max(gained, 0.0)]

    def by_sample(self, said: float) -> float:
        """Estimate while the sample is trusted; never less than it says.

        Parameters
        ----------
        said : float
            Rise to the maximum of the corrected sample.
        """
        before = self._said
        self._said, self._pull = said, _UNKNOWN
        left = max(said, self._by_gains())
        if said < _NOISE or before == _UNKNOWN:
            return left
        return max(left, said * self._gained / (before - said) if said < before else self.most)

    def by_decline(self, rise: float, rho: float, rise_farther: float = 0.0) -> float:
        """Estimate where the sample has been refuted, and its own maximum says nothing.

        A climb held back by ρ rises by g²/2(H + ρ), so that ρ·rise is about g²/2 whatever ρ, and
        declines from pass to pass as the gains of EM do. And where one of 3ρ rises by a part 1/q of
        that, H is ρ(3 − q)/(q − 1) and the whole rise 2/(3 − q) times as high. The larger of both
        counts, twice, as either is too small if there are several directions; but a series cannot
        bring more than 19 times the largest of the last gains, or as `series_rest` says.

        Parameters
        ----------
        rise : float
            Of the held corrected sample to its maximum.
        rho : float
            What held it; 1 for a plain step, which has no sample in it.
        rise_farther : float
            With 3ρ; 0 where that is not known.
        """
        before, pull = self._pull, rho * rise
        self._said, self._pull = _UNKNOWN, pull
        if not self._turns:
            return _UNKNOWN
        if rise < _NOISE:
            return max(rise, self._by_gains())
        if before == _UNKNOWN:  # the first turn without the sample; but a plain step never has it
            before, pull = self._plain_before, self._plain
        rest = _UNKNOWN
        if pull < before:
            rest = series_rest(self._gained, pull / before, self._turns)
        if rise_farther > 0.0:
            rest = max(rest, whole_rise(rise, rise_farther))
        return max(rise, min(2.0 * rest, self._most_of(_TURNS + 1)), self._by_gains())

    def larger_of_two(self, left: float) -> float:
        """Return an estimate, or what the last turn's has left of itself if that is more.

        A pass may have gained along another direction than is left. So what one turn has taken to
        be left and no pass has gained is given up only when two turns in a row say so.
        """
        earlier, self._earlier = self._earlier, left
        return max(left, earlier - self._gained) if earlier < _UNKNOWN else left

    @property
    def most(self) -> float:
        """What no series brings whose gains were those of the last two turns; infinite before."""
        return self._most_of(2)

    def _most_of(self, turns: int) -> float:
        return _most(self._turns) * max(self._gains[-turns:]) if self._turns else _UNKNOWN

    def _by_gains(self) -> float:
        """The rest of a series of gains that declines slowly; 0 where they decline fast."""
        pairs = zip(self._gains, self._gains[1:], strict=False)
        slowest = max((now / before for before, now in pairs if before > 0.0), default=0.0)
        if slowest <= _SLOW:
            return 0.0
        return series_rest(self._gains[-1], slowest, self._turns)
