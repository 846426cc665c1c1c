"""The sample corrected by its errors at all mixtures that passes have evaluated lately.

The corrected sample (`climbing.CorrectedSample`) has the gradient of all rows at one mixture θ, and
its own curvature everywhere. On a plateau that is not good enough: there all rows hardly bend, the
sample's error of a few rows in heavy tails is larger than that, and wherever it bends upwards by
mistake a climb goes astray. But the error e = S − S_Y of the sample's moments is the gradient of
ℓ − ℓ_Y in the natural parameters T, and a pass tells it at each mixture that it evaluates, taken or
not: the *anchors*. Differences between two of these are secant equations for E, the curvature of
ℓ − ℓ_Y: E·(T_j − T) = e_j − e. Of all symmetric E that solve them the one is taken that changes
least, in the metric of the complete data's Fisher information at θ (Powell's symmetric Broyden
update for many secants at a time; Schnabel 1983). With P the projection onto the span of the
T_j − T, orthogonal in that metric, it is E P + Pᵀ E − Pᵀ E P: exact along the anchors, also for
what a step along them does to the gradient across, and zero where no anchor tells anything.

Nothing here needs coordinates. Moments and natural parameters are dual, and what the metric makes
of a step is, to first order, the difference of the complete data's moments: all is inner products
<moments, T>, as in the sample's own objective, and a family's restrictions are the M-step's affair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.acceleration.climbing import Point
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.moments import complete_moments, natural_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.acceleration.climbing import CorrectedSample
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.parameters import MixtureParameters

    Array = NDArray[np.float64]

__all__ = ["Anchor", "AnchoredSample", "Secants"]

# An anchor counts if it leads so far off the span of newer ones, as a part of its distance.
_NEW_PART = 0.1
# Squared lengths below this are rounding.
_SHORT = 1e-14


@saved
@dataclass(frozen=True)
class Anchor:
    """A mixture that a pass has evaluated, and what the sample has wrong there.

    Attributes
    ----------
    parameters : MixtureParameters
    error : Moments
        S − S_Y, of rows alone: whatever regularises belongs to no mixture but the last accepted.
    """

    parameters: MixtureParameters
    error: Moments


@dataclass(frozen=True, eq=False)
class Secants:
    """What some anchors say of the curvature of ℓ − ℓ_Y around a mixture θ.

    Attributes
    ----------
    origin : (n,) float64
        T(θ).
    pulls : (q, n) float64
        σ_j, the complete data's moments at an anchor minus those at θ: the metric's image of the
        step there.
    errors : (q, n) float64
        y_j = e_j − e, scaled as the steps are.
    inverse : (q, q) float64
        Of <σ_i, T_j − T>, which is symmetric to first order only.
    bend : (q, q) float64
        <y_i, T_j − T>, symmetrised: the rest is what the error has beyond the linear.
    gram : (q, q) float64
        <σ_i, T_j − T>, symmetrised.
    """

    origin: Array
    pulls: Array
    errors: Array
    inverse: Array
    bend: Array
    gram: Array

    @classmethod
    def around(cls, here: Anchor, others: Sequence[Anchor]) -> Secants | None:
        """Take the differences between θ and other anchors, the most telling first.

        Anchors that lead nowhere new are left out. None where none is left.
        """
        reference = here.error.reference
        origin, error = natural_parameters(here.parameters, reference), here.error.vector()
        base = complete_moments(here.parameters, reference).vector()
        steps: list[Array] = []
        pulls: list[Array] = []
        errors: list[Array] = []
        for other in others:
            step = natural_parameters(other.parameters, reference) - origin
            pull = complete_moments(other.parameters, reference).vector() - base
            square = float(step @ pull)  # twice Jeffreys' divergence of the complete data's halves
            if not _SHORT < square < np.inf:
                continue
            scale = 1.0 / np.sqrt(square)
            steps.append(scale * step)
            pulls.append(scale * pull)
            errors.append(scale * (other.error.about(reference).vector() - error))
        if not steps:
            return None
        product = np.stack(pulls) @ np.stack(steps).T
        gram = 0.5 * (product + product.T)
        kept = _independent(gram)
        step, pull, difference = (np.stack(each)[kept] for each in (steps, pulls, errors))
        some = np.ix_(kept, kept)
        bend = difference @ step.T
        bend = 0.5 * (bend + bend.T)
        inverse: Array = np.asarray(np.linalg.inv(product[some]), np.float64)
        return cls(origin, pull, difference, inverse, bend, gram[some])

    def quadratic(self, natural: Array, freed: float) -> tuple[float, Array]:
        """½ uᵀ E u for u = T − T(θ), and its gradient as moments, (n,).

        Parameters
        ----------
        natural : (n,) float64
            T.
        freed : float
            Times the metric on the span of the anchors, added to E: so much of a pull to θ is
            taken back there, where nothing has to be held because of what is not known.
        """
        u = natural - self.origin
        along, across = self.inverse @ (self.pulls @ u), self.errors @ u
        value = float(along @ across - 0.5 * along @ self.bend @ along)
        value += 0.5 * freed * float(along @ self.gram @ along)
        weights = across - self.bend @ along + freed * (self.gram @ along)
        return value, self.pulls.T @ (self.inverse.T @ weights) + self.errors.T @ along


def _independent(gram: Array) -> list[int]:
    """Which vectors of unit length are not nearly in the span of those before them."""
    kept: list[int] = []
    for i in range(len(gram)):
        rest = gram[i, i]
        if kept:
            shared = gram[kept, i]
            rest -= shared @ np.linalg.solve(gram[np.ix_(kept, kept)], shared)
        if rest > _NEW_PART**2:
            kept.append(i)
    return kept


@dataclass(frozen=True, eq=False)
class AnchoredSample:
    """The corrected sample with the secants of anchors; an objective for `climbing.climb`.

    EM steps need not raise it: the quadratic may bend upwards.

    Attributes
    ----------
    corrected : CorrectedSample
    secants : Secants or None
    freed : float
        The part of the pull that is taken back along the anchors.
    """

    corrected: CorrectedSample
    secants: Secants | None
    freed: float

    def start(self) -> Point:
        """Return the objective at θ."""
        own = self.corrected
        return self._point(own.at, own.value, own.moments)

    def __call__(self, parameters: MixtureParameters) -> Point:
        """Evaluate the objective: one E-step over the sample."""
        own = self.corrected
        return self._point(parameters, *own.sample.evaluate(parameters, own.moments.reference))

    def _point(self, parameters: MixtureParameters, value: float, moments: Moments) -> Point:
        value, moments = self.corrected.terms(parameters, value, moments)
        if self.secants is not None:
            natural = natural_parameters(parameters, moments.reference)
            more, gradient = self.secants.quadratic(natural, self.freed * self.corrected.rho)
            value, moments = value + more, moments + moments.of_vector(gradient)
        return Point.of(parameters, value, moments)
