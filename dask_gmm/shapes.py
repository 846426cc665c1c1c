"""What shape components have: how rows lie about a mean, in words and in numbers.

Whatever shows a mixture, or holds rows against it, asks its components' shape instead of knowing
which kinds there are. A component along one feature is its mean plus its width, the root of the
diagonal of Σ_k, times a number of a distribution that the shape knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import betaincinv, betaln, chdtri, ndtr, ndtri, stdtr, stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["GAUSSIAN", "ComponentShape", "StudentShape"]

_AS_GAUSSIAN = 1e6
"""Degrees of freedom beyond which digits are lost and nothing is told from a Gaussian."""


@dataclass(frozen=True, eq=False)
class ComponentShape:
    """Gaussian components: the shape that others override."""

    name: ClassVar[str] = "Gaussian"
    """A density's name, whose plural ends with s."""
    component: ClassVar[str] = "Gaussian component"
    width: ClassVar[str] = "standard deviation"
    """What the root of the diagonal of Σ_k is called."""

    def of(self, components: Sequence[int] | NDArray[np.intp] | slice) -> ComponentShape:
        """The shape of some of the components."""
        return self

    def density(self, z: Floats) -> Floats:
        """Densities of standardised values, (..., K) of K components."""
        found: Floats = np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
        return found

    def below(self, z: Floats) -> Floats:
        """Chances of less than standardised values, (..., K); of small ones all digits."""
        found: Floats = np.asarray(ndtr(z))
        return found

    def quantile(self, chances: Floats) -> Floats:
        """The standardised values of such chances of less, (..., K)."""
        found: Floats = np.asarray(ndtri(chances))
        return found

    def falls_beyond(self, chances: Floats, n_features: int) -> Floats:
        """Twice the fall of a log-density from its peak that rows of a component exceed.

        Of a Gaussian it is the squared Mahalanobis distance, χ² of D degrees of freedom.

        Parameters
        ----------
        chances : (n,) float64
            With which it is exceeded, of 0 to 1.
        n_features : int
            D.

        Returns
        -------
        (K, n) float64, or (1, n) where it is the same for all components
        """
        found: Floats = np.asarray(chdtri(n_features, chances))
        return found[None, :]


GAUSSIAN = ComponentShape()


@dataclass(frozen=True, eq=False)
class StudentShape(ComponentShape):
    """Components that are t distributions.

    Attributes
    ----------
    degrees : (K,) float64
        Degrees of freedom ν_k.
    """

    name: ClassVar[str] = "t distribution"
    component: ClassVar[str] = "t component"
    width: ClassVar[str] = "scale"

    degrees: Floats

    def of(self, components: Sequence[int] | NDArray[np.intp] | slice) -> ComponentShape:
        """The shape of some of the components."""
        return StudentShape(self.degrees[components])

    def density(self, z: Floats) -> Floats:
        """Densities of standardised values, (..., K) of K components."""
        nu = self.degrees
        logs = -0.5 * (nu + 1.0) * np.log1p(z * z / nu) - 0.5 * np.log(nu) - betaln(0.5 * nu, 0.5)
        return np.where(nu > _AS_GAUSSIAN, super().density(z), np.exp(logs))

    def below(self, z: Floats) -> Floats:
        """Chances of less than standardised values, (..., K)."""
        return np.where(self.degrees > _AS_GAUSSIAN, super().below(z), stdtr(self.degrees, z))

    def quantile(self, chances: Floats) -> Floats:
        """The standardised values of such chances of less, (..., K)."""
        found = stdtrit(self.degrees, chances)
        found = np.where(chances <= 0.0, -np.inf, np.where(chances >= 1.0, np.inf, found))
        return np.where(self.degrees > _AS_GAUSSIAN, super().quantile(chances), found)

    def falls_beyond(self, chances: Floats, n_features: int) -> Floats:
        """See `ComponentShape.falls_beyond`; (K, n).

        Where δ² is the squared distance of a row, ν/(ν + δ²) is of the distribution Beta(ν/2, D/2),
        and the fall is −(ν + D) times its logarithm.
        """
        nu = self.degrees[:, None]
        with np.errstate(divide="ignore"):
            falls = -(nu + n_features) * np.log(betaincinv(0.5 * nu, 0.5 * n_features, chances))
        gaussian = super().falls_beyond(chances, n_features)
        return np.where(nu > _AS_GAUSSIAN, gaussian, np.maximum(falls, 0.0))
