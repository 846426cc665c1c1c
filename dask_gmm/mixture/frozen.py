r"""Parts of a mixture that a fit leaves as they are given: weights, means, covariances, components.

The M-step of a conjugate model maximises the expected log-density of moments, those of the rows and
those that the model adds to them (`MixtureModel.regulariser`). `Frozen` maximises the same over
what is free. With n_k, G_k, C_k such moments about c_k, m_k what stands before log π_k, b_k what
stands before log|Σ_k|^(-1/2) (both n_k but for a prior), and F the components whose weights are
given:

    π_k = (1 − Σ_{j∈F} π_j) m_k / Σ_{j∉F} m_j     where the weight is free,
    μ_k = c_k + G_k / n_k                           where the mean is free,
    Σ_k = [C_k − G_k δ_kᵀ − δ_k G_kᵀ + n_k δ_k δ_kᵀ] / b_k,  δ_k = μ_k − c_k,   where Σ_k is free:

the scatter about the component's mean, be that given or its own. The first is Lagrange's condition
for weights that share what is left. A free mean does not depend on its covariance, and the
covariance is estimated about whatever mean there is, so that the three together are the maximum;
families estimate from that scatter as from any other, a covariance that components share from the
sum of theirs. As the M-step maximises, the objective never falls (generalised EM: Dempster, Laird &
Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the Royal
Statistical Society B 39, 1977, section 2).

With weights and covariances given and a prior on the means that is adaptation of the means alone
(Reynolds, Quatieri & Dunn, "Speaker verification using adapted Gaussian mixture models", Digital
Signal Processing 10, 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.mixture.model import MixtureModel
from dask_gmm.mixture.moments import Moments, per_row
from dask_gmm.mixture.parameters import MixtureParameters, freeze_arrays, frozen_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dask_gmm.mixture.chart import Chart, Lengths
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.prior import Prior
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["PARTS", "Frozen", "FrozenParts", "arrays_of"]

PARTS = ("weights", "means", "covariances")
"""What may be frozen."""

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class FrozenParts:
    """Of which components the weight, the mean and the covariance are left as given; by number."""

    weights: tuple[int, ...] = ()
    means: tuple[int, ...] = ()
    covariances: tuple[int, ...] = ()

    @classmethod
    def of(cls, asked: Any, n_components: int) -> FrozenParts | None:
        """What ``frozen=`` asks for; None for nothing.

        Parameters
        ----------
        asked : None, str, int, sequence of these, or dict
            Names of parts, of all components; numbers of components, all parts of which are meant;
            or by each part's name the numbers, True for all.
        n_components : int

        Raises
        ------
        InputError
            There is no such part or component.
        """
        found: dict[str, set[int]] = {part: set() for part in PARTS}
        for part, component in _asked(asked, n_components):
            found[part].add(component)
        if not any(found.values()):
            return None
        return cls(**{part: tuple(sorted(numbers)) for part, numbers in found.items()})

    def check(self, family: CovarianceFamily, n_components: int, n_features: int) -> None:
        """Refuse what no mixture of the family can leave as it is.

        Raises
        ------
        InputError
            Covariances that are estimated together are to be frozen in part, or nothing is free.
        """
        some = 0 < len(self.covariances) < n_components
        if some and not family.independent:
            raise InputError(
                f"covariance_type={family.name!r} estimates all covariances together, and frozen "
                f"names those of components {_listed(self.covariances)} alone: name all or none. "
                f"Weights and means of some may be frozen: "
                f"frozen={{'weights': [0], 'means': [0]}}."
            )
        if self.n_free(family, n_components, n_features) == 0:
            raise InputError("frozen leaves nothing to fit: name less of the mixture.")

    def n_free(self, family: CovarianceFamily, n_components: int, n_features: int) -> int:
        """Free parameters of a mixture: those that BIC and AIC count."""
        k, d = n_components, n_features
        weights = max(k - len(self.weights) - 1, 0)
        covariances = 0
        if len(self.covariances) < k:
            covariances = family.degrees_of_freedom(k, d)
            covariances -= len(self.covariances) * covariances // k
        return weights + (k - len(self.means)) * d + covariances


def _asked(asked: Any, n_components: int) -> Iterator[tuple[str, int]]:
    """Each part of each component that is named."""
    everyone = range(n_components)
    if asked is None:
        return
    if isinstance(asked, dict):
        for part, numbers in asked.items():
            _check_part(part)
            for k in everyone if numbers is True else _numbers(numbers, n_components):
                yield part, k
        return
    for name in _each(asked):
        if isinstance(name, str):
            _check_part(name)
            yield from ((name, k) for k in everyone)
        else:
            for k in _numbers(name, n_components):
                yield from ((part, k) for part in PARTS)


def _each(value: Any) -> Iterator[Any]:
    """The value, or what a sequence of values holds."""
    if isinstance(value, str) or not np.iterable(value):
        yield value
    else:
        yield from value


def _check_part(part: object) -> None:
    if part not in PARTS:
        raise InputError(
            f"frozen names {part!r}, which is no part of a mixture: choose among "
            f"{', '.join(map(repr, PARTS))}, or name components by their numbers."
        )


def _numbers(value: Any, n_components: int) -> Iterator[int]:
    for number in _each(value):
        sound = isinstance(number, Integral) and not isinstance(number, bool)
        if not sound or not 0 <= int(number) < n_components:
            raise InputError(
                f"frozen names component {number!r}, and components are numbered from 0 to "
                f"{n_components - 1}."
            )
        yield int(number)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


@dataclass(frozen=True, eq=False)
class Frozen(MixtureModel):
    """A conjugate model of which some parts are given; see the module. Build it by `around`.

    Its M-step is a maximum under constraints, which strategies that work in moments do not know: so
    it is not conjugate itself, and goes by its objective.

    Attributes
    ----------
    base : MixtureModel
        What is maximised.
    parts : FrozenParts
    weights : (K,) float64 or None
        As given; None where none is frozen.
    means : (K, D) float64 or None
    covariances, factors : float64, the form's `covariance_shape`, or None
    """

    conjugate: ClassVar[bool] = False

    base: MixtureModel
    parts: FrozenParts
    weights: Array | None
    means: Array | None
    covariances: Array | None
    factors: Array | None

    @classmethod
    def around(
        cls,
        base: MixtureModel,
        parts: FrozenParts,
        weights: Array | None,
        means: Array | None,
        factors: Array | None,
        covariances: Array | None = None,
    ) -> Frozen:
        """Freeze parts of a model.

        Parameters
        ----------
        base : MixtureModel
        parts : FrozenParts
        weights : (K,) float64 or None
            They sum to one; None where none is frozen. So are the means, (K, D).
        means : (K, D) float64 or None
        factors : float64 or None
            Precision Cholesky factors, of the form's `covariance_shape`.
        covariances : float64, optional
            They follow from the factors.

        Raises
        ------
        InputError
            Something is frozen and not given, or the model is not conjugate.
        """
        if not base.conjugate:
            raise InputError(
                "frozen goes with maximum likelihood and with conjugate priors: the M-step of this "
                "model is another one. Leave frozen out."
            )
        form = base.family.form
        if factors is not None and covariances is None:
            covariances = form.covariances(factors)
        given = {"weights": weights, "means": means, "covariances": factors}
        for part, value in given.items():
            if getattr(parts, part) and value is None:
                name = "precisions" if part == "covariances" else part
                raise InputError(
                    f"frozen leaves {part} as they are given, and none are: give {name}_init, or "
                    f"continue a fit by warm_start=True."
                )
        return cls(
            base.family,
            base.reg_covar,
            base,
            parts,
            _kept(weights, parts.weights),
            _kept(means, parts.means),
            _kept(covariances, parts.covariances),
            _kept(factors, parts.covariances),
        )

    # -- the model that is maximised -------------------------------------------------------------

    @property
    def needs_rows(self) -> bool:
        """As the model that it freezes."""
        return self.base.needs_rows

    @property
    def places(self) -> Array | None:
        """As the model that it freezes."""
        return self.base.places

    def settled(self, rows: Rows) -> Self:
        """Settle the model that it freezes."""
        return replace(self, base=self.base.settled(rows))

    def of_all(self, weight: float) -> Self:
        """Tell the model that it freezes."""
        return replace(self, base=self.base.of_all(weight))

    def of_sample(self, weight: float) -> Self:
        """See `MixtureModel.of_sample`."""
        return replace(self, base=self.base.of_sample(weight))

    def settled_prior(self, n_features: int) -> Prior | None:
        """That of the model that it freezes."""
        return self.base.settled_prior(n_features)

    def start_rows(self, rows: Rows) -> tuple[Rows, ...]:
        """As the model that it freezes."""
        return self.base.start_rows(rows)

    def starting(self, parameters: MixtureParameters) -> MixtureParameters:
        """As the model that it freezes."""
        return self.base.starting(parameters)

    def of_mixture(self, family: CovarianceFamily, n_components: int) -> Self:
        """The same model, of the same mixtures: what is given has a shape.

        Raises
        ------
        InputError
            Other mixtures are asked for.
        """
        if family is not self.family:
            raise InputError(
                f"What is frozen is of covariance_type={self.family.name!r} and cannot be that of "
                f"{family.name!r}."
            )
        return replace(self, base=self.base.of_mixture(family, n_components))

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """That of the model that it freezes."""
        return self.base.objective(statistics, parameters)

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """That of the model that it freezes."""
        return self.base.regulariser(statistics)

    # -- what is free ----------------------------------------------------------------------------

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """The maximum over what is free; of groups of rows, without `at`, over everything.

        As everywhere 10·eps (of a row) is added to each N_k, so that an empty component divides by
        something; its mean then stays.
        """
        if at is None:
            return self.base.update(statistics)
        moments, k = self._moments(statistics), statistics.n_components
        weighing = moments.counts if moments.weighing is None else moments.weighing
        means = _with(self.means, self.parts.means, _free_means(moments), k)
        covariances, factors = self.covariances, self.factors
        if len(self.parts.covariances) < k:
            covariances = self._estimated(moments, means)
            found = self.family.form.factor(covariances)
            factors = _with(self.factors, self.parts.covariances, found, k)
        assert covariances is not None
        assert factors is not None
        arrays = (self._sharing(weighing), means, covariances, factors)
        for array in arrays:
            array.setflags(write=False)
        return MixtureParameters(self.family, *arrays)

    def centring_error(self, statistics: SufficientStatistics) -> float:
        """See `MixtureModel.centring_error`; what is given loses no digit."""
        k, d = statistics.reference.shape
        free = np.setdiff1d(np.arange(k), self.parts.covariances)
        if not len(free):
            return 0.0
        moments = self._moments(statistics)
        means = _with(self.means, self.parts.means, _free_means(moments), k)
        shift = (means - statistics.reference)[free]
        variances = self.family.form.diagonals(self._estimated(moments, means), k, d)[free]
        if not np.all(variances > 0.0):
            return float("inf") if np.any(shift) else _EPS
        return _EPS * (1.0 + float(np.max(shift**2 / variances)))

    def pinned(self, parameters: MixtureParameters) -> MixtureParameters:
        """A mixture with what is given in its place; free weights share what is left."""
        parts, k = self.parts, parameters.n_components
        arrays = (
            self._sharing(parameters.weights),
            _with(self.means, parts.means, parameters.means, k),
            _with(self.covariances, parts.covariances, parameters.covariances, k),
            _with(self.factors, parts.covariances, parameters.precisions_cholesky, k),
        )
        for array in arrays:
            array.setflags(write=False)
        return MixtureParameters(self.family, *arrays)

    @property
    def chart(self) -> Chart:
        """The model's chart, with what is given in its place wherever a step leads."""
        return _FrozenChart(self)

    def n_free(self, n_components: int, n_features: int) -> int:
        """Free parameters."""
        return self.parts.n_free(self.family, n_components, n_features)

    def _moments(self, statistics: SufficientStatistics) -> Moments:
        """The rows' moments and the model's, per unit of weight."""
        rows = per_row(statistics)
        least = 10.0 * _EPS * statistics.row_weight / (statistics.weight or 1.0)
        return replace(rows, counts=rows.counts + least) + self.base.regulariser(statistics)

    def _sharing(self, weighing: Array) -> Array:
        """Weights: those given, and of the others what they share by these numbers."""
        held = np.array(self.parts.weights, dtype=np.intp)
        if self.weights is None or not len(held):
            return np.asarray(weighing / weighing.sum())
        if len(held) == len(weighing):
            return np.array(self.weights)
        free = np.setdiff1d(np.arange(len(weighing)), held)
        found = np.array(self.weights)
        found[free] = max(1.0 - float(self.weights[held].sum()), 0.0)
        found[free] *= weighing[free] / weighing[free].sum()
        return found

    def _estimated(self, moments: Moments, means: Array) -> Array:
        """Covariances about some means, with those given in their places."""
        volumes = moments.counts if moments.volumes is None else moments.volumes
        with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares overflow
            scatter = moments.about(means).second
            nowhere = np.zeros_like(means)
            # The noise of reg_covar is among the moments.
            found = self.family.estimate(volumes, nowhere, scatter, 0.0)
        return _with(self.covariances, self.parts.covariances, found, len(means))

    def __setstate__(self, state: dict[str, Any]) -> None:
        freeze_arrays(state)
        self.__dict__.update(state)


def arrays_of(
    parameters: MixtureParameters,
) -> tuple[Array, Array, Array, Array]:
    """Weights, means, factors and covariances of a mixture, as `Frozen.around` takes them."""
    p = parameters
    return p.weights, p.means, p.precisions_cholesky, p.covariances


def _free_means(moments: Moments) -> Array:
    """c_k + G_k / n_k."""
    means: Array = moments.reference + moments.first / moments.counts[:, None]
    return means


def _with(given: Array | None, held: tuple[int, ...], found: Array, k: int) -> Array:
    """What was found, but of those of K components that are held what is given.

    A covariance that all share is held by all of them, or by none.
    """
    if given is None or not held:
        return found
    if len(held) == k:
        return np.array(given)
    both, chosen = np.array(found), list(held)
    both[chosen] = given[chosen]
    return both


def _kept(given: Array | None, held: tuple[int, ...]) -> Array | None:
    return None if given is None or not held else frozen_array(given)


@dataclass(frozen=True)
class _FrozenChart:
    """The chart of a model of which parts are given."""

    model: Frozen

    def to_vector(self, parameters: MixtureParameters) -> Array:
        return self.model.base.chart.to_vector(parameters)

    def from_vector(self, vector: Array, like: MixtureParameters) -> MixtureParameters | None:
        found = self.model.base.chart.from_vector(vector, like)
        return None if found is None else self.model.pinned(found)

    def metric(self, at: MixtureParameters) -> Lengths:
        return self.model.base.chart.metric(at)
