"""Starting parameters, computed on a sample of rows held in memory.

The methods and their order of random draws are scikit-learn's, so that with all rows in the sample
the same `random_state` gives the same start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus

from dask_gmm.errors import InputError
from dask_gmm.fitting.factor_starts import factor_start, nearest_pieces
from dask_gmm.fitting.kmeans_scaling import for_k_means, for_k_means_plus_plus
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.rows import Rows

    Values = NDArray[np.floating[Any]]
    Array = NDArray[np.float64]
    Piece = tuple[NDArray[np.intp] | slice, Array]

__all__ = [
    "GivenParameters",
    "check_distinct",
    "cluster_weighted",
    "fill_in",
    "initial_parameters",
    "responsibilities",
    "responsibility_statistics",
    "spread_out",
    "start_from",
]


@dataclass(frozen=True)
class GivenParameters:
    """Starting values that the user has given; None where the start is to be computed."""

    weights: Array | None = None
    means: Array | None = None
    precisions: Array | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return not any(v is None for v in (self.weights, self.means, self.precisions))

    @property
    def any(self) -> bool:
        """Whether anything is given."""
        return any(v is not None for v in (self.weights, self.means, self.precisions))

    def arrays(self, family: CovarianceFamily) -> tuple[Array | None, Array | None, Array | None]:
        """Weights, means and precision Cholesky factors, to the last bit as in a start."""
        weights = None if self.weights is None else self.weights / self.weights.sum()
        factors = None
        if self.precisions is not None:
            factors = frozen_array(family.form.factor_precisions(self.precisions))
        return weights, self.means, factors


def initial_parameters(
    rows: Rows | None,
    *,
    n_components: int,
    model: MixtureModel,
    init_params: str,
    random_state: np.random.RandomState,
    given: GivenParameters,
) -> MixtureParameters:
    """Compute one start.

    Parameters
    ----------
    rows : Rows or None
        The sample; None only when everything is given.
    n_components : int
    model : MixtureModel
    init_params : {"kmeans", "k-means++", "random", "random_from_data"}
    random_state : numpy.random.RandomState
        Advanced by the draws of this start.
    given : GivenParameters
        Replaces what the method would have computed.

    Raises
    ------
    CollapsedComponentError
        The start has a covariance that is not positive definite (reg_covar = 0, and a component
        with too few distinct rows).
    """
    if given.complete:
        assert given.weights is not None
        return MixtureParameters.from_precisions(
            model.family,
            given.weights / given.weights.sum(),
            given.means,  # type: ignore[arg-type]
            given.precisions,  # type: ignore[arg-type]
        )
    assert rows is not None
    pieces = responsibilities(rows, n_components, init_params, random_state)
    computed = start_from(rows, pieces, n_components, model, init_params)
    return fill_in(computed, given)


def start_from(
    rows: Rows,
    pieces: Iterable[Piece],
    n_components: int,
    model: MixtureModel,
    init_params: str,
) -> MixtureParameters:
    """The start of a model that follows from `responsibilities`; see `initial_parameters`."""
    with np.errstate(over="ignore", invalid="ignore"):  # `factor` says whose squares are too large
        form = model.family.form
        factors, single = model.family, init_params in ("k-means++", "random_from_data")
        if single and (isinstance(factors, FactorFamily) or not model.starts_from_single_rows):
            # Single rows have no directions, and no width: those nearest to each have.
            chosen = np.concatenate([rows.values[index] for index, _ in pieces])
            pieces, single = nearest_pieces(rows, np.asarray(chosen, dtype=np.float64)), False
        if isinstance(factors, FactorFamily):
            return factor_start(rows, pieces, n_components, factors, model.reg_covar)
        statistics = responsibility_statistics(rows, pieces, n_components, form)
        computed = model.of_sample(rows.total_weight).update(statistics)
        if form.shared and single:
            computed = _pooled_start(rows, statistics, computed, model)
    return computed


def check_distinct(rows: Values, n_components: int) -> None:
    """Refuse more components than the sample has different rows: two would start as one.

    Raises
    ------
    InputError
    """
    # The first few rows say enough unless most are alike; all of them are looked at only then.
    for some in (rows[: 16 * n_components], rows):
        distinct = len(np.unique(some, axis=0))
        if distinct >= n_components:
            return
    raise InputError(
        f"The sample of {rows.shape[0]:,} rows holds {distinct} different one(s), too few for "
        f"{n_components} components: use fewer components, or a larger init_size."
    )


def cluster_weighted(
    places: Array, weights: Array, n_clusters: int, random_state: np.random.RandomState
) -> tuple[NDArray[np.intp], Array]:
    """Weighted k-means of a few places in memory: labels (J,) and centres (K, D).

    A light place far away is a centre in the best clustering and missed by many a start of
    k-means; on so few places another start costs nothing.
    """
    comfortable = for_k_means(places)
    means = KMeans(n_clusters=n_clusters, n_init=20, random_state=random_state)
    means.fit(comfortable.rows, sample_weight=weights)
    return means.labels_.astype(np.intp), comfortable.back(means.cluster_centers_)


def spread_out(
    rows: Rows, n_clusters: int, random_state: np.random.RandomState
) -> NDArray[np.floating[Any]]:
    """Rows that k-means++ chooses, (K, D)."""
    found: NDArray[np.floating[Any]] = rows.values[_plus_plus(rows, n_clusters, random_state)]
    return found


def _plus_plus(
    rows: Rows, n_clusters: int, random_state: np.random.RandomState
) -> NDArray[np.intp]:
    """Which rows k-means++ chooses, (K,)."""
    comfortable = for_k_means_plus_plus(rows.values)
    _, chosen = kmeans_plusplus(
        comfortable.rows, n_clusters, sample_weight=rows.weights, random_state=random_state
    )
    return np.asarray(chosen, dtype=np.intp)


def responsibility_statistics(
    rows: Rows,
    responsibilities: Iterable[Piece],
    n_components: int,
    form: CovarianceForm,
) -> SufficientStatistics:
    """Statistics of rows whose responsibilities are known, about each component's own mean.

    Parameters
    ----------
    rows : Rows
    responsibilities : iterable of (index, r)
        For each component in turn, the rows that have any responsibility and how much, times
        their weight.
    n_components : int
    form : CovarianceForm
    """
    d = rows.values.shape[1]
    counts = np.zeros(n_components)
    reference = np.zeros((n_components, d))
    first = np.zeros((n_components, d))
    second = np.zeros(form.second_moment_shape(n_components, d))
    for k, (index, r) in enumerate(responsibilities):
        x = np.asarray(rows.values[index], dtype=np.float64)
        counts[k] = r.sum()
        if counts[k] > 0.0:
            reference[k] = (r @ x) / counts[k]
        centred = x - reference[k]
        weighted = centred * r[:, None]
        first[k] = weighted.sum(axis=0)
        form.add_moment(second, k, form.component_moment(weighted, centred))
    return SufficientStatistics.create(
        form,
        reference,
        rows=len(rows),
        weight=rows.total_weight,
        log_likelihood=0.0,
        counts=counts,
        first=first,
        second=second,
    )


def responsibilities(
    rows: Rows, n_components: int, init_params: str, random_state: np.random.RandomState
) -> Iterator[Piece]:
    """For each component in turn, the rows that start in it and how much of each.

    Where a start is a choice of single rows, each stands for one, whatever its weight.
    """
    n, weights = len(rows), rows.weights
    if init_params == "kmeans":
        means = KMeans(n_clusters=n_components, n_init=1, random_state=random_state)
        labels = means.fit(for_k_means(rows.values).rows, sample_weight=weights).labels_
        for k in range(n_components):
            members = np.flatnonzero(labels == k)
            yield members, np.ones(members.size) if weights is None else weights[members]
    elif init_params == "random":
        r = random_state.uniform(size=(n, n_components))
        r /= r.sum(axis=1, keepdims=True)
        if weights is not None:
            r *= weights[:, None]
        for k in range(n_components):
            yield slice(None), r[:, k]
    elif init_params in ("k-means++", "random_from_data"):
        if init_params == "k-means++":
            chosen = _plus_plus(rows, n_components, random_state)
        else:
            shares = None if weights is None else weights / weights.sum()
            chosen = random_state.choice(n, size=n_components, replace=False, p=shares)
        for index in chosen:
            yield np.array([index], dtype=np.intp), np.ones(1)
    else:
        raise InputError(
            f"init_params={init_params!r} is unknown; choose kmeans, k-means++, random or "
            f"random_from_data."
        )


def _pooled_start(
    rows: Rows, statistics: SufficientStatistics, computed: MixtureParameters, model: MixtureModel
) -> MixtureParameters:
    """The tied start from one row per component, as scikit-learn has it.

    K rows that are their components' means leave no scatter about them, and a shared covariance
    of nothing but `reg_covar` would make the first E-step a hard assignment. scikit-learn's tied
    estimate takes the moments of *all* rows here, which gives a wide start that finds better
    optima; a start must be the same for the same `random_state`, so this is its formula. It is
    about the origin; so far from there that nothing else were left of it, about the rows' mean.
    Weights count as parts of an average one: neither their unit nor how many rows each of a sample
    stands for may make it wider.
    """
    x, k = np.asarray(rows.values, dtype=np.float64), computed.n_components
    means = statistics.reference  # each that of one row
    comfortable = for_k_means_plus_plus(rows.values)
    if comfortable.centre is not None:
        middle = comfortable.back(np.zeros((1, x.shape[1])))
        x, means = x - middle, means - middle
    weighted = x
    if rows.weights is not None:
        weighted = x * (rows.weights * (len(rows) / rows.total_weight))[:, None]
    scatter = weighted.T @ x - means.T @ means
    if not model.conjugate:  # parameters are more than weights, means and covariances
        return model.update(_with_second(statistics, scatter))
    covariance = scatter / k
    covariance.flat[:: covariance.shape[0] + 1] += model.reg_covar
    computed.form.factor(covariance)  # says what is wrong with it, if anything is
    family = computed.family
    return MixtureParameters.create(family, computed.weights, computed.means, covariance)


def _with_second(statistics: SufficientStatistics, second: Array) -> SufficientStatistics:
    """The same with other second moments."""
    return SufficientStatistics.create(
        statistics.form,
        statistics.reference,
        rows=statistics.rows,
        weight=statistics.weight,
        log_likelihood=statistics.log_likelihood,
        counts=statistics.counts,
        first=statistics.first,
        second=second,
    )


def fill_in(computed: MixtureParameters, given: GivenParameters) -> MixtureParameters:
    """The computed start, with what the user gave put in its place."""
    if not given.any:
        return computed
    weights = computed.weights if given.weights is None else given.weights / given.weights.sum()
    means = computed.means if given.means is None else given.means
    if given.precisions is not None:
        return MixtureParameters.from_precisions(computed.family, weights, means, given.precisions)
    return MixtureParameters(
        computed.family,
        frozen_array(weights),
        frozen_array(means),
        computed.covariances,
        computed.precisions_cholesky,
    )
