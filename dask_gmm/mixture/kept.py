r"""Statistics of rows that are not read again: what a fit keeps for those that come later.

EM raises the free energy of responsibilities q and parameters θ (Neal & Hinton 1998, "A view of the
EM algorithm that justifies incremental, sparse, and other variants", eq. 7),

    F(q, θ) = Σ_n w_n Σ_k q_nk log π_k N(x_n | μ_k, Σ_k) + H(q) ≤ Σ_n w_n log p(x_n | θ),

and F is all that is needed of rows whose q stay as they are: its first part is linear in their
statistics (`moments.expected_log_density`), H(q) a number. So an M-step from the sum of kept
statistics and those of rows that are read never lowers the free energy of both, and neither does
the E-step of the latter, after which their part of F is their log-likelihood. What F lacks of the
log-likelihood is exactly

    Σ_n w_n log p(x_n | θ) − F(q, θ) = Σ_n w_n KL(q_n ‖ r_n(θ)),

by how much the kept rows' responsibilities r_n(θ) have drifted from those that were kept. Of rows
that miss values q is that of component and missing values together, and all of this holds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.mixture.merging import take_components
from dask_gmm.mixture.moments import Moments, expected_log_density, per_row
from dask_gmm.mixture.statistics import COUNTS_AT, SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["Evaluated", "KeptStatistics", "plain_statistics"]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A mixture that a pass has evaluated, and what it found there; part of strategies' states.

    Attributes
    ----------
    parameters : MixtureParameters
    statistics : SufficientStatistics
    """

    parameters: MixtureParameters
    statistics: SufficientStatistics

    @classmethod
    def of(cls, parameters: MixtureParameters, statistics: SufficientStatistics) -> Evaluated:
        """Without what a kind of statistics has beside: rows that a pass has kept."""
        return cls(parameters, plain_statistics(statistics))

    def kept(self) -> KeptStatistics:
        """The statistics, with the entropy of their responsibilities."""
        return KeptStatistics.of(self.statistics, self.parameters)


@dataclass(frozen=True, eq=False)
class KeptStatistics:
    """Statistics of rows at responsibilities that stay as they are.

    Attributes
    ----------
    statistics : SufficientStatistics
        Their M-step is the mixture that they are kept with.
    entropy : float
        H(q) = Σ_n w_n H(q_n), in nats.
    drift : float
        How far q has drifted from the responsibilities by the mixture, in nats per unit of weight,
        as far as that is known; 0 after a fit.
    """

    statistics: SufficientStatistics
    entropy: float
    drift: float = 0.0

    @classmethod
    def of(cls, statistics: SufficientStatistics, at: MixtureParameters) -> KeptStatistics:
        """Of the E-step at a mixture, where the free energy is the log-likelihood."""
        expected = statistics.weight * expected_log_density(per_row(statistics), at)
        return cls(plain_statistics(statistics), statistics.log_likelihood - expected)

    @property
    def weight(self) -> float:
        """Σ_n w_n."""
        return self.statistics.weight

    @property
    def rows(self) -> int:
        """How many rows they are of."""
        return self.statistics.rows

    def __dask_tokenize__(self) -> object:
        """Name them for Dask."""
        return (type(self).__name__, self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of every number."""
        found = self.statistics
        numbers = (found.missing_entropy, self.entropy, self.drift)
        head = " ".join([found.form.name, str(found.rows), *(float(n).hex() for n in numbers)])
        whole = hashlib.sha256(head.encode())
        whole.update(np.ascontiguousarray(found.reference).tobytes() + found.sums.tobytes())
        return whole.hexdigest()

    def free_energy(self, parameters: MixtureParameters) -> float:
        """F(q, θ) in nats, a lower bound of the rows' log-likelihood at θ."""
        expected = expected_log_density(per_row(self.statistics), parameters)
        return self.weight * expected + self.entropy

    def about(self, reference: NDArray[np.float64]) -> SufficientStatistics:
        """The statistics about other points, shape (K, D), for others to be added."""
        found = self.statistics
        if reference is found.reference:
            return found
        own = Moments(found.form, found.reference, found.counts, found.first, found.second)
        sums = found.sums.copy()
        sums[COUNTS_AT:] = own.about(reference).vector()
        return SufficientStatistics.around(
            found.form, reference, found.rows, sums, found.missing_entropy
        )

    def joined(self, found: SufficientStatistics, at: MixtureParameters) -> SufficientStatistics:
        """Statistics of the kept rows and of others, whose E-step was at θ.

        Their `log_likelihood` is F, a lower bound of the log-likelihood of all of them: what EM on
        the others alone never lowers.
        """
        both = self.about(found.reference) + plain_statistics(found)
        sums = both.sums.copy()
        sums[0] = self.free_energy(at) + found.log_likelihood
        return SufficientStatistics.around(
            both.form, both.reference, both.rows, sums, both.missing_entropy
        )

    def times(self, factor: float) -> KeptStatistics:
        """As if there were so many times the rows."""
        found = self.statistics
        scaled = SufficientStatistics.around(
            found.form,
            found.reference,
            round(factor * found.rows),
            factor * found.sums,
            factor * found.missing_entropy,
        )
        return KeptStatistics(scaled, factor * self.entropy, self.drift)

    def __add__(self, other: object) -> KeptStatistics:
        """Of both sets of rows, about the other's reference."""
        if not isinstance(other, KeptStatistics):
            return NotImplemented
        both = self.about(other.statistics.reference) + other.statistics
        weighed = self.weight * self.drift + other.weight * other.drift
        drift = weighed / both.weight if both.weight else 0.0
        return KeptStatistics(both, self.entropy + other.entropy, drift)

    def taken(self, components: Sequence[int]) -> KeptStatistics:
        """The same with the components in another order."""
        entropy = self.statistics.missing_entropy
        taken = replace(take_components(self.statistics, components), missing_entropy=entropy)
        return replace(self, statistics=taken)


def plain_statistics(statistics: SufficientStatistics) -> SufficientStatistics:
    """Without the fields that a kind of statistics has beside; the same arrays."""
    if type(statistics) is SufficientStatistics:
        return statistics
    return SufficientStatistics.around(
        statistics.form,
        statistics.reference,
        statistics.rows,
        statistics.sums,
        statistics.missing_entropy,
    )
