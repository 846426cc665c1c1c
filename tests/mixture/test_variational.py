"""Variational Bayes: its bound by other people's densities, its updates by their laws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import digamma

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.kernels.marginal import MarginalKernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.variational import VariationalBayes, VariationalPosterior
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

K, D = 3, 2
QUICK = (("tied", True), ("diag", False))


def model_of(
    family: str, rows: Rows, *, process: bool = True, reg_covar: float = 0.0, **given: Any
) -> VariationalBayes:
    asked = {"weight_concentration_prior": 0.7, "mean_precision_prior": 1.3, **given}
    asked.setdefault("degrees_of_freedom_prior", D + 0.5)
    kind = covariance_family(family)
    return VariationalBayes(kind, reg_covar, dirichlet_process=process, **asked).settled(rows)


def start(rows: Rows, model: VariationalBayes, seed: int = 0) -> VariationalPosterior:
    found = initial_parameters(
        rows,
        n_components=K,
        model=model,
        init_params="random",
        random_state=np.random.RandomState(seed),
        given=GivenParameters(),
    )
    assert isinstance(found, VariationalPosterior)
    return found


def statistics(rows: Rows, at: MixtureParameters) -> Any:
    (found,) = MarginalKernel(get_kernel()).statistics(rows, [Candidate(at)])
    return found


def problem(seed: int, family: str, n: int = 90) -> Array:
    return draw(seed, random_mixture(seed, family, K, D), n)


def elbo(x: Array, r: Array, model: VariationalBayes, q: VariationalPosterior) -> float:
    """E log p − E log q by SciPy's entropies and Bishop's 10.71-10.77, with dense matrices."""
    form, c0, nu0 = model.family.form, model.covariance_prior, model.degrees_of_freedom_prior
    assert c0 is not None
    assert model.mean_prior is not None
    c0 = c0 * np.eye(D) if c0.ndim < 2 else c0
    dense = form.dense(q.covariances, K, D)
    total = 0.0
    for k in range(K):
        nu, beta, m = q.degrees_of_freedom[k], q.mean_precision[k], q.means[k]
        scale = np.linalg.inv(dense[k] * nu)  # of the Wishart: W_k
        logdet = (
            digamma((nu - np.arange(D)) / 2).sum() + D * np.log(2) + np.log(np.linalg.det(scale))
        )
        # log p(X | z, μ, Λ), 10.71
        squares = np.einsum("nd,de,ne->n", x - m, nu * scale, x - m)
        total += r[:, k] @ (0.5 * (logdet - D / beta - D * np.log(2 * np.pi) - squares))
        # log p(μ | Λ) and entropy of q(μ | Λ)
        beta0, away = model.mean_precision_prior, m - model.mean_prior
        total += 0.5 * (D * np.log(beta0 / beta) + D - D * beta0 / beta)
        total -= 0.5 * beta0 * nu * away @ scale @ away
        # log p(Λ) and entropy of q(Λ)
        prior = stats.wishart(nu0, np.linalg.inv(c0))
        total += prior.logpdf(np.eye(D)) + 0.5 * np.trace(c0)  # its constant
        total += 0.5 * (nu0 - D - 1) * logdet - 0.5 * nu * np.trace(c0 @ scale)
        total += stats.wishart(nu, scale).entropy()
    gamma, concentration = model.weight_concentration_prior, q.weight_concentration
    if model.dirichlet_process:
        for a, b in concentration.T:
            rest = digamma(b) - digamma(a + b)
            total += np.log(gamma) + (gamma - 1) * rest + stats.beta(a, b).entropy()
    else:
        of_weights = stats.dirichlet(np.full(K, gamma))
        logs = digamma(concentration) - digamma(concentration.sum())
        total += of_weights.logpdf(np.full(K, 1 / K)) + (gamma - 1) * (logs + np.log(K)).sum()
        total += stats.dirichlet(concentration).entropy()
    held = r > 0
    total += (r @ q.expected_log_weights).sum() - (r[held] * np.log(r[held])).sum()
    return float(total)


@pytest.mark.parametrize(
    ("family", "process"),
    [
        pytest.param(f, p, marks=() if (f, p) in QUICK else pytest.mark.slow)
        for f in FAMILIES
        for p in (True, False)
    ],
)
def test_the_bound_is_that_of_bishop(family: str, process: bool) -> None:
    x = problem(4, family)
    rows = Rows(x)
    model = model_of(family, rows, process=process)
    at = start(rows, model)
    for _ in range(2):
        found = statistics(rows, at)
        r, q = get_kernel().posteriors(x, at), model.update(found, at)
        said = model.objective(found, at) * found.weight + model.constant(found.weight, K)
        assert said == pytest.approx(elbo(x, r, model, q), rel=1e-10)
        # And no posterior nearby has a higher one: each factor is the best given the others.
        for change in range(4):
            assert elbo(x, r, model, disturbed(q, change)) < said
        at = q


def disturbed(q: VariationalPosterior, seed: int) -> VariationalPosterior:
    rng = np.random.default_rng(seed)

    def off(array: Array) -> Array:
        return np.asarray(array * np.exp(rng.normal(scale=0.03, size=array.shape)))

    nu = q.degrees_of_freedom * np.exp(rng.normal(scale=0.03, size=1 if q.form.shared else K))
    covariances = q.covariances * np.exp(rng.normal(scale=0.03))
    mixture = MixtureParameters.create(
        q.family, q.weights, q.means + rng.normal(scale=0.02, size=q.means.shape), covariances
    )
    return VariationalPosterior.of(mixture, off(q.weight_concentration), off(q.mean_precision), nu)


def test_of_one_component_it_is_the_evidence() -> None:
    """Then the posterior is exact, and rows come one after another from t distributions."""
    x = problem(2, "full", 25)
    rows = Rows(x)
    model = model_of("full", rows, process=False)
    found = statistics(rows, random_mixture(0, "full", 1, D))
    # Responsibilities are one, whatever the mixture.
    q = model.update(found)
    bound = model._normalisers(q) + model.constant(found.weight, 1)
    m0, c0 = model.mean_prior, model.covariance_prior
    assert m0 is not None
    assert c0 is not None
    beta, nu, evidence = model.mean_precision_prior, model.degrees_of_freedom_prior, 0.0
    t: Any = stats.multivariate_t
    mean, scatter = m0.copy(), c0.copy()
    for row in x:
        df = nu - D + 1
        shape = scatter * (beta + 1) / (beta * df)
        evidence += float(t(mean, shape, df).logpdf(row))
        scatter = scatter + beta / (beta + 1) * np.outer(row - mean, row - mean)
        mean = (beta * mean + row) / (beta + 1)
        beta, nu = beta + 1, nu + 1
    assert bound == pytest.approx(evidence, rel=1e-11)


@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 10_000),
    process=st.booleans(),
    weighted=st.booleans(),
    gaps=st.booleans(),
    concentration=st.floats(1e-3, 1e3),
)
@settings(max_examples=12, deadline=None)
def test_the_bound_never_falls(
    family: str, seed: int, process: bool, weighted: bool, gaps: bool, concentration: float
) -> None:
    x, rng = problem(seed, family), np.random.default_rng(seed)
    weights = rng.exponential(size=len(x)) * 3 + 0.1 if weighted else None
    if gaps:
        x[rng.uniform(size=x.shape) < 0.2] = np.nan
        some = ~np.isnan(x).all(axis=1)
        x, weights = x[some], None if weights is None else weights[some]
    rows = Rows(x, weights)
    complete = Rows(np.nan_to_num(x), weights)
    model = model_of(family, rows, process=process, weight_concentration_prior=concentration)
    at, before = start(complete, model, seed % 100), -np.inf
    for _ in range(8):
        found = statistics(rows, at)
        now = model.objective(found, at)
        assert now >= before - 1e-11 * (1.0 + abs(before))
        before, at = now, model.update(found, at)


def test_one_update_of_each_family_has_the_scatter_of_the_full_one() -> None:
    x = problem(7, "full")
    rows, scales = Rows(x), {}
    for family in FAMILIES:
        model = model_of(family, rows, covariance_prior=prior(family))
        # The same responsibilities for all: those of a start at random.
        q = start(rows, model, 3)
        nu = q.degrees_of_freedom[0] if family == "tied" else q.degrees_of_freedom
        scales[family] = q.covariances * np.reshape(nu, (-1,) + (1,) * (q.covariances.ndim - 1))
    full = scales["full"]
    np.testing.assert_allclose(scales["tied"].reshape(D, D), full.mean(axis=0))
    np.testing.assert_allclose(scales["diag"], np.diagonal(full, axis1=1, axis2=2))
    np.testing.assert_allclose(scales["spherical"], scales["diag"].mean(axis=1))


def prior(family: str) -> Array:
    return {
        "full": 2.0 * np.eye(D),
        "tied": 2.0 * np.eye(D),
        "diag": np.full(D, 2.0),
        "spherical": np.asarray(2.0),
    }[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_priors_of_the_data_are_their_moments(family: str) -> None:
    x = 1e6 + problem(1, family)
    weights = np.random.default_rng(0).integers(1, 4, size=len(x)).astype(float)
    model = model_of(family, Rows(x, weights))
    many = np.repeat(x, weights.astype(int), axis=0)
    covariance = np.cov(many.T)
    expected = {
        "full": covariance,
        "tied": covariance,
        "diag": np.diag(covariance),
        "spherical": np.diag(covariance).mean(),
    }[family]
    assert model.mean_prior is not None
    assert model.covariance_prior is not None
    np.testing.assert_allclose(model.mean_prior, many.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(model.covariance_prior, expected, rtol=1e-8)
    # Weights in a unit of their own: as if they added up to the number of rows.
    tiny = model_of(family, Rows(x, weights * 1e-9)).covariance_prior
    assert tiny is not None
    np.testing.assert_allclose(tiny, expected, rtol=0.02)
    given = model_of(family, Rows(x), mean_prior=np.zeros(D), covariance_prior=prior(family))
    assert given.settled(Rows(x)) is given


def test_priors_of_rows_with_gaps() -> None:
    x = problem(1, "full", 400)
    x[::3, 0] = np.nan
    model = model_of("full", Rows(x))
    assert model.mean_prior is not None
    np.testing.assert_allclose(model.mean_prior, np.nanmean(x, axis=0))
    complete = x[~np.isnan(x).any(axis=1)]
    assert model.covariance_prior is not None
    np.testing.assert_allclose(model.covariance_prior, np.cov(complete.T), rtol=0.02)
    x[:, 0] = np.where(np.arange(400) % 40 == 0, x[:, 0], np.nan)
    filled = np.where(np.isnan(x), np.nanmean(x, axis=0), x)
    few = model_of("full", Rows(x)).covariance_prior
    assert few is not None
    np.testing.assert_allclose(few, np.cov(filled.T), rtol=1e-10)


@pytest.mark.parametrize("process", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_chart_leads_back(family: str, process: bool) -> None:
    rows = Rows(problem(3, family))
    model = model_of(family, rows, process=process)
    at = start(rows, model)
    vector = model.chart.to_vector(at)
    back = model.chart.from_vector(vector, at)
    assert isinstance(back, VariationalPosterior)
    for name in ("weights", "means", "covariances", *at.more):
        np.testing.assert_allclose(getattr(back, name), getattr(at, name), rtol=1e-10, atol=1e-12)
    assert model.weight_of(back) == pytest.approx(len(rows))
    # Whatever comes back is a posterior of as many rows, perhaps of none in a component.
    step = np.zeros_like(vector)
    step[0] = -6.0
    moved = model.chart.from_vector(vector + step, at)
    assert isinstance(moved, VariationalPosterior)
    assert model.weight_of(moved) == pytest.approx(len(rows))
    assert moved.mean_precision.min() >= model.mean_precision_prior
    assert model.chart.from_vector(np.full_like(vector, np.nan), at) is None
    lengths = model.chart.metric(at).scaled((model.chart.to_vector(moved) - vector)[None])
    assert np.isfinite(lengths).all()
    assert np.linalg.norm(lengths) > 0


def test_components_without_rows_have_the_prior_and_cost_no_pass() -> None:
    x = problem(5, "full")
    rows = Rows(x)
    model = model_of("full", rows)
    far = MixtureParameters.create(
        "full", [1 / 3] * 3, [[0.0, 0.0], [1e6, 0.0], [0.0, 1e6]], np.stack([np.eye(2)] * 3)
    )
    found = statistics(rows, far)
    q = model.update(found)
    assert model.mean_prior is not None
    np.testing.assert_allclose(q.means[1:], [model.mean_prior] * 2, atol=1e-6)
    np.testing.assert_allclose(q.mean_precision[1:], model.mean_precision_prior)
    assert model.centring_error(statistics(rows, q)) < 1e-12


def test_what_no_posterior_can_be_is_refused() -> None:
    rows = Rows(problem(0, "diag"))
    model = model_of("diag", rows)
    q = start(rows, model)
    with pytest.raises(InputError, match="mean_precision should be positive"):
        VariationalPosterior.of(q, q.weight_concentration, 0.0 * q.mean_precision, np.ones(K))
    with pytest.raises(InputError, match="weight_concentration has the shape"):
        VariationalPosterior.of(q, np.ones(K + 1), q.mean_precision, q.degrees_of_freedom)
    unsettled = VariationalBayes(covariance_family("diag"), 0.0)
    with pytest.raises(RuntimeError, match="settled"):
        unsettled.update(statistics(rows, q))
    flat = Rows(np.ones((20, D)))
    degenerate = model_of("full", flat)
    with pytest.raises(CollapsedComponentError):
        start(flat, degenerate)
    found = statistics(flat, random_mixture(0, "full", K, D))
    assert degenerate.objective(found, random_mixture(0, "full", K, D)) == -np.inf
