"""A model that exists only here goes wherever maximum likelihood goes: how to write another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import open_source
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.fit import FitReport, fit_mixture
from dask_gmm.fitting.settings import FitSettings
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import FASTEST, Candidate, get_kernel
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.moments import Moments, expected_log_density
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from distributed import Client
    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters


@dataclass(frozen=True, eq=False)
class MaximumAPosteriori(MaximumLikelihood):
    """Maximum a posteriori under a conjugate prior: for each component, rows that were not seen.

    `count` of them, about `mean`, with covariance `spread`·I: a Dirichlet prior on the weights and
    a normal-inverse-Wishart one on each mean and covariance (Bishop, PRML, 10.38-10.40).
    """

    count: float = 0.0
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    spread: float = 1.0

    def prior(self, statistics: SufficientStatistics) -> Moments:
        """Moments of the rows not seen, per unit of the weight of those seen."""
        form, (k, d) = statistics.form, statistics.reference.shape
        count, second = self.count / statistics.weight, np.zeros(form.second_moment_shape(k, d))
        offset = self.mean - statistics.reference
        for j in range(k):
            rows = np.vstack([np.sqrt(self.spread) * np.eye(d), offset[j : j + 1]])
            form.add_moment(second, j, form.component_moment(count * rows, rows))
        return Moments(form, statistics.reference, np.full(k, count), count * offset, second)

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        """What accelerated steps have to know."""
        return super().regulariser(statistics) + self.prior(statistics)

    def update(
        self, statistics: SufficientStatistics, at: MixtureParameters | None = None
    ) -> MixtureParameters:
        """Maximum likelihood's M-step on the rows seen and not seen."""
        n, prior = statistics.weight, self.prior(statistics)
        both = SufficientStatistics.create(
            statistics.form,
            statistics.reference,
            rows=statistics.rows,
            weight=n,
            log_likelihood=statistics.log_likelihood,
            counts=statistics.counts + n * prior.counts,
            first=statistics.first + n * prior.first,
            second=statistics.second + n * prior.second,
        )
        return super().update(both)

    def objective(self, statistics: SufficientStatistics, parameters: MixtureParameters) -> float:
        """Log-posterior per row, up to a constant."""
        beside = expected_log_density(self.prior(statistics), parameters)
        return super().objective(statistics, parameters) + beside


def map_model(family: str, count: float, d: int) -> MaximumAPosteriori:
    return MaximumAPosteriori(covariance_family(family), 0.0, count, np.zeros(d), 2.0)


@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 10_000),
    count=st.floats(0.01, 1000.0),
    weighted=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_the_objective_never_falls(family: str, seed: int, count: float, weighted: bool) -> None:
    p, model = random_mixture(seed, family, 3, 2), map_model(family, count, 2)
    values = draw(seed + 1, p, 60)
    weights = np.random.default_rng(seed).exponential(size=60) if weighted else None
    before = -np.inf
    for _ in range(8):
        (found,) = get_kernel().statistics(Rows(values, weights), [Candidate(p)])
        now = model.objective(found, p)
        assert now >= before - 1e-10 * (1.0 + abs(now))
        before, p = now, model.update(found)


def fit(family: str, model: Any, values: Any, backend: Any = None, **given: Any) -> FitReport:
    asked = {"acceleration": None, "tol": 1e-10, "max_iter": 3000, "n_init": 3, **given}
    fitting = FitSettings(
        3,
        model,
        asked["tol"],
        asked["max_iter"],
        asked["n_init"],
        "kmeans",
        500,
        FASTEST,
        GivenParameters(),
        acceleration=asked["acceleration"],
    )
    source = open_source(values)
    return fit_mixture(
        source, backend or LocalBackend(2), fitting, random_state=np.random.RandomState(0)
    )


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in ("full", "tied") else pytest.mark.slow) for f in FAMILIES],
)
def test_plain_fits_with_restarts_climb_the_posterior(family: str) -> None:
    model, values = map_model(family, 30.0, 2), draw(2, random_mixture(1, family, 3, 2), 900)
    report = fit(family, model, values)
    bounds = np.asarray(report.best.lower_bounds)
    assert report.best.outcome is Outcome.CONVERGED
    assert np.all(np.diff(bounds) > -1e-12)
    p = report.best.parameters
    (found,) = get_kernel().statistics(Rows(values), [Candidate(p)])
    assert model.objective(found, p) == pytest.approx(report.best.lower_bound, abs=1e-8)
    np.testing.assert_allclose(model.update(found).means, p.means, atol=1e-3)
    without = fit(family, MaximumLikelihood(model.family), values).best.parameters
    assert np.abs(p.means).mean() < np.abs(without.means).mean(), "the prior draws to its mean"


@pytest.mark.parametrize("acceleration", ["squarem", "variance-reduced"])
def test_accelerated_fits_end_where_plain_ones_do(acceleration: str) -> None:
    model, values = map_model("full", 30.0, 2), draw(2, random_mixture(1, "full", 3, 2), 4000)
    plain = fit("full", model, values, n_init=1).best
    fast = fit("full", model, values, acceleration=acceleration).best
    assert fast.lower_bound == pytest.approx(plain.lower_bound, abs=1e-6)
    assert fast.n_iter < plain.n_iter


def test_a_component_without_rows_stands_by_its_prior() -> None:
    model = map_model("full", 5.0, 2)
    p = random_mixture(3, "full", 3, 2)
    nothing = SufficientStatistics.zero(p.form, p.means)
    seen = SufficientStatistics.around(p.form, nothing.reference, 1, nothing.sums + 1e-300)
    found = model.update(seen)
    np.testing.assert_allclose(found.means, 0.0, atol=1e-9)
    np.testing.assert_allclose(found.covariances, np.stack([2.0 * np.eye(2)] * 3), atol=1e-9)


@pytest.mark.slow
def test_the_same_bits_on_a_cluster(two_processes: Client) -> None:
    import dask.array as da

    model, values = map_model("diag", 10.0, 2), draw(2, random_mixture(1, "diag", 3, 2), 900)
    lazy = da.from_array(values, chunks=(100, 2))
    here = fit("diag", model, lazy, max_iter=20).best.parameters
    there = fit("diag", model, lazy, ClusterBackend(two_processes), max_iter=20).best.parameters
    assert here == there
