"""Maximum a posteriori against densities of SciPy, published formulas, and its own laws."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import load_iris

import tests.equal_shape  # noqa: F401  # registers a constrained family
from dask_gmm import Prior
from dask_gmm.errors import InputError
from dask_gmm.mixture.family import CovarianceFamily, covariance_family
from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from dask_gmm.mixture.model import maximizer
from dask_gmm.mixture.moments import expected_log_density, per_row
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.posterior import MaximumAPosteriori
from dask_gmm.mixture.prior import check_prior
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

K = 3


def map_model(family: str, prior: Prior, rows: Rows, k: int = K) -> MaximumAPosteriori:
    return MaximumAPosteriori(covariance_family(family), 0.0, prior, k).settled(rows)


def e_step(p: MixtureParameters, rows: Rows) -> SufficientStatistics:
    (found,) = get_kernel().statistics(rows, [Candidate(p)])
    return found


def matrices(p: MixtureParameters) -> list[Array]:
    """Each component's covariance as a matrix."""
    return list(p.form.dense(p.covariances, *p.means.shape))


def log_density(p: MixtureParameters, prior: Prior) -> float:
    """The prior's density at a mixture by SciPy, constants included."""
    k, d = p.means.shape
    alpha = np.broadcast_to(prior.concentration, (k,))
    kappa, at = np.broadcast_to(prior.shrinkage, (k,)), np.broadcast_to(prior.mean, (k, d))
    total = float(stats.dirichlet.logpdf(p.weights, alpha))
    for j, covariance in enumerate(matrices(p)):
        total += stats.multivariate_normal.logpdf(p.means[j], at[j], covariance / kappa[j])
        dof, scale = prior.degrees_of_freedom, prior.scale
        if p.form.dense_factors:
            if not (p.form.shared and j):
                total += stats.invwishart.logpdf(covariance, dof, scale)
            continue
        variances = np.diagonal(covariance) if p.form.name == "diag" else covariance[0, 0]
        total += np.sum(stats.invgamma.logpdf(variances, dof / 2, scale=np.asarray(scale) / 2))
    return total


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_objective_is_the_log_posterior(family: str, d: int) -> None:
    """Between two mixtures it differs by what SciPy's densities differ by."""
    one, other = random_mixture(1, family, K, d), random_mixture(2, family, K, d)
    rows = Rows(draw(3, one, 40), np.random.default_rng(0).exponential(size=40))
    asked = Prior(concentration=[1.5, 2.0, 4.0], shrinkage=[0.3, 1.0, 7.0])
    model = map_model(family, asked, rows)
    prior = model.settled_prior(d)
    differences = []
    for p in (one, other):
        likelihood = float(rows.weights @ get_kernel().log_densities(rows.values, p))  # type: ignore[operator]
        objective = rows.total_weight * model.objective(e_step(p, rows), p)
        differences.append(objective - likelihood - log_density(p, prior))
    assert differences[0] == pytest.approx(differences[1], abs=1e-9)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("family", [*FAMILIES, "EEI", "EII"])
def test_the_m_step_of_fraley_and_raftery(family: str, d: int) -> None:
    """Table 2 of their 2007 paper, for VVV, EEE, VVI, VII, EEI, EII and the univariate V and E."""
    p = random_mixture(4, covariance_family(family).form.name, K, d)
    rows = Rows(draw(5, p, 80))
    model = map_model(family, Prior(), rows)
    prior, found = model.settled_prior(d), model.update(e_step(p, rows))
    x, r = rows.values, get_kernel().posteriors(rows.values, p)
    n, kappa, nu = r.sum(axis=0), 0.01, d + 2.0
    means = r.T @ x / n[:, None]
    np.testing.assert_allclose(found.weights, n / n.sum(), rtol=1e-10)
    drawn = (n[:, None] * means + kappa * prior.mean) / (n + kappa)[:, None]
    np.testing.assert_allclose(found.means, drawn, rtol=1e-9)
    scatter = []
    for k in range(K):
        centred, off = x - means[k], (means[k] - prior.mean)[None]
        within = (centred * r[:, k, None]).T @ centred
        scatter.append(within + kappa * n[k] / (n[k] + kappa) * off.T @ off)
    between = np.array(scatter)
    traces = np.trace(between, axis1=1, axis2=2)
    diagonals = np.diagonal(between, axis1=1, axis2=2)
    expected = {
        "full": (prior.scale + between) / (nu + n + d + 2)[:, None, None],
        "tied": (prior.scale + between.sum(axis=0)) / (nu + n.sum() + d + K + 1),
        "diag": (prior.scale + diagonals) / (nu + n + 3)[:, None],
        "spherical": (prior.scale + traces) / (nu + (n + 1) * d + 2),
        "EEI": np.array([prior.scale + diagonals.sum(axis=0)] * K) / (nu + n.sum() + K + 2),
        "EII": np.array([prior.scale + traces.sum()] * K) / (nu + (n.sum() + K) * d + 2),
    }[family]
    np.testing.assert_allclose(found.covariances, expected, rtol=1e-9)


def test_the_default_prior_of_iris() -> None:
    """var(iris)/√3 and so on: what the paper's defaults are for three components in four."""
    values = load_iris().data
    model = map_model("full", Prior(), Rows(values))
    prior = model.settled_prior(4)
    np.testing.assert_allclose(prior.mean, values.mean(axis=0))
    np.testing.assert_allclose(prior.scale, np.cov(values.T) / np.sqrt(3.0))
    assert (prior.shrinkage, prior.degrees_of_freedom) == (0.01, 6.0)
    equal = map_model("spherical", Prior(), Rows(values)).settled_prior(4)
    assert equal.scale == pytest.approx(np.var(values, axis=0, ddof=1).mean() / np.sqrt(3.0))
    one = map_model("full", Prior(), Rows(values[:, :1])).settled_prior(1)
    assert one.scale[0, 0] == pytest.approx(np.var(values[:, 0], ddof=1) / 9.0)
    assert one.degrees_of_freedom == 3.0


PRIORS = st.builds(
    Prior,
    concentration=st.floats(1.0, 50.0),
    shrinkage=st.one_of(st.just(0.0), st.floats(1e-3, 200.0)),
    degrees_of_freedom=st.one_of(st.just("auto"), st.floats(3.5, 300.0)),
)


@given(
    family=st.sampled_from([*FAMILIES, "equal-shape"]),
    seed=st.integers(0, 10_000),
    prior=PRIORS,
    weighted=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_the_objective_never_falls(family: str, seed: int, prior: Prior, weighted: bool) -> None:
    form = "diag" if family == "equal-shape" else family
    p = random_mixture(seed, form, K, 2)
    values = draw(seed + 1, p, 50)
    weights = np.random.default_rng(seed).exponential(size=50) if weighted else None
    rows = Rows(values, weights)
    model, before = map_model(family, prior, rows), -np.inf
    kind = covariance_family(family)
    nearest = kind.nearest(p.weights, p.covariances, 2)
    p = MixtureParameters.create(kind, p.weights, p.means, nearest)
    for _ in range(5):
        found = e_step(p, rows)
        now = model.objective(found, p)
        assert now >= before - 1e-10 * (1.0 + abs(now))
        before, p = now, model.update(found)


@given(family=st.sampled_from(FAMILIES), seed=st.integers(0, 10_000), prior=PRIORS)
@settings(max_examples=15, deadline=None)
def test_the_m_step_is_the_maximum(family: str, seed: int, prior: Prior) -> None:
    """No mixture nearby has a higher expected log-posterior, and its gradient is zero there."""
    p = random_mixture(seed, family, K, 2)
    rows = Rows(draw(seed + 1, p, 50))
    model, found = map_model(family, prior, rows), e_step(p, rows)
    moments = per_row(found) + model.regulariser(found)
    top = model.update(found)
    height = expected_log_density(moments, top)
    rng = np.random.default_rng(seed)
    for size in (1e-3, 1e-1):
        weights = top.weights * np.exp(size * rng.normal(size=K))
        means = top.means + size * rng.normal(size=top.means.shape)
        covariances = top.covariances * np.exp(size * rng.normal())
        near = MixtureParameters.create(family, weights / weights.sum(), means, covariances)
        assert expected_log_density(moments, near) <= height + 1e-12 * (1.0 + abs(height))
    again = maximizer(moments, top.family)
    assert again is not None
    np.testing.assert_allclose(again.means, top.means, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(again.covariances, top.covariances, rtol=1e-7)
    np.testing.assert_allclose(again.weights, top.weights, rtol=1e-7)


def test_reynolds_adaptation_of_means() -> None:
    """α_k E_k + (1 − α_k) μ_k with α_k = n_k / (n_k + r), whatever weights and covariances are."""
    known = random_mixture(1, "diag", K, 2)
    rows = Rows(draw(9, random_mixture(2, "diag", K, 2), 40))
    prior = Prior.adapting(known.means, relevance=16)
    model = MaximumAPosteriori(known.family, 0.0, prior, K)
    assert not model.needs_rows
    r = get_kernel().posteriors(rows.values, known)
    n = r.sum(axis=0)
    alpha = (n / (n + 16.0))[:, None]
    expected = alpha * (r.T @ rows.values / n[:, None]) + (1.0 - alpha) * known.means
    np.testing.assert_allclose(model.update(e_step(known, rows)).means, expected, rtol=1e-10)


def test_a_component_without_rows_stands_by_its_prior() -> None:
    rows = Rows(np.random.default_rng(0).normal(size=(30, 2)))
    model = map_model("full", Prior(mean=[1.0, 2.0], scale=2.0, degrees_of_freedom=5.0), rows)
    p = random_mixture(3, "full", K, 2)
    nothing = SufficientStatistics.zero(p.form, p.means)
    found = model.update(SufficientStatistics.around(p.form, p.means, 1, nothing.sums + 1e-300))
    np.testing.assert_allclose(found.means, [[1.0, 2.0]] * K, atol=1e-9)
    np.testing.assert_allclose(found.covariances, [2.0 * np.eye(2) / (5 + 2 + 2)] * K, atol=1e-9)


def test_a_sample_has_its_part_of_the_prior() -> None:
    """Its objective per row is that of all rows, were they so many copies of it."""
    p = random_mixture(1, "full", K, 2)
    values = draw(2, p, 50)
    all_rows = Rows(values, np.full(50, 20.0))
    model = map_model("full", Prior(shrinkage=5.0), all_rows).of_all(all_rows.total_weight)
    of_all, of_sample = e_step(p, all_rows), e_step(p, Rows(values))
    there = model.of_sample(50.0)
    expected = model.objective(of_all, p)
    assert there.objective(of_sample, p) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(
        there.update(of_sample).covariances, model.update(of_all).covariances, rtol=1e-9
    )
    assert there.of_sample(1000.0).part == 1.0


def test_weights_are_copies_in_what_is_taken_from_the_data() -> None:
    values = np.random.default_rng(0).normal(size=(40, 3)) + 1e6
    weights = np.random.default_rng(1).integers(1, 4, size=40)
    by_weight = map_model("full", Prior(), Rows(values, weights.astype(np.float64)))
    copied = np.repeat(values, weights, axis=0)
    expected = map_model("full", Prior(), Rows(copied)).settled_prior(3)
    found = by_weight.settled_prior(3)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-9)
    np.testing.assert_allclose(expected.scale, np.cov(copied.T) / K ** (2 / 3), rtol=1e-9)


@pytest.mark.parametrize("family", ["full", "diag"])
def test_gaps_are_those_of_the_most_likely_gaussian(family: str) -> None:
    """No step of EM of one Gaussian, with the values that there are, leads away from it."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3)) + 5.0
    values[rng.random(values.shape) < 0.2] = np.nan
    rows = Rows(values)
    model = map_model(family, Prior(), rows)
    assert model.centre is not None
    assert model.spread is not None
    covariance = model.spread[None] * (len(values) - 1.0) / len(values)
    found = MixtureParameters.create(family, [1.0], model.centre[None], covariance)
    (statistics,) = MarginalKernel(get_kernel()).statistics(rows, [Candidate(found)])
    after = likelihood(family).update(statistics)
    np.testing.assert_allclose(after.means, found.means, atol=1e-5)
    np.testing.assert_allclose(after.covariances, found.covariances, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.nanmean(values, axis=0), model.centre, atol=0.3)


def test_a_component_on_one_row_keeps_its_digits() -> None:
    """Rows without scatter are no reason to read again: the prior gives them some."""
    p = random_mixture(1, "full", 2, 2)
    values = np.concatenate([draw(2, p, 50), [[40.0, 40.0]]])
    rows = Rows(values)
    model = map_model("full", Prior(), rows, k=2)
    away = MixtureParameters.create(
        "full", [0.5, 0.5], [[0.0, 0.0], [40.0, 39.0]], [9.0 * np.eye(2)] * 2
    )
    assert model.centring_error(e_step(away, rows)) < 1e-12


class _OtherForm(CovarianceFamily):
    name = "of-another-form"
    form = object()  # type: ignore[assignment]

    def degrees_of_freedom(self, n_components: int, n_features: int) -> int:
        return 1

    def estimate(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"concentration": 0.5}, "should be 1 or more"),
        ({"concentration": [1.0, np.nan]}, "NaN or infinity"),
        ({"concentration": "much"}, "a number or a sequence"),
        ({"shrinkage": -1.0}, "should not be negative"),
        ({"shrinkage": True}, "a number or a sequence"),
        ({"mean": "median"}, "or 'auto'"),
        ({"mean": np.zeros((2, 2, 2))}, "or 'auto'"),
        ({"degrees_of_freedom": 0}, "above zero, 'auto' or None"),
        ({"degrees_of_freedom": "few"}, "above zero, 'auto' or None"),
        ({"scale": 0.0}, "should be positive"),
        ({"scale": [[1.0, 2.0], [2.0, 1.0]]}, "should be positive"),
        ({"scale": [[1.0, 0.0], [0.5, 1.0]]}, "should be positive"),
        ({"scale": 1.0, "degrees_of_freedom": None}, "no scale"),
    ],
)
def test_what_is_no_prior_is_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prior(**how)


@pytest.mark.parametrize(
    ("family", "how", "message"),
    [
        ("full", {"mean": [0.0, 0.0, 0.0]}, r"mean of a prior should be \(2,\) or \(3, 2\)"),
        ("full", {"shrinkage": [1.0, 2.0]}, r"shrinkage of a prior should be a number or \(3,\)"),
        ("spherical", {"scale": [1.0, 2.0]}, "scale of a prior should be a number, but"),
        ("diag", {"scale": np.eye(2)}, r"scale of a prior should be a number or \(2,\)"),
        ("full", {"degrees_of_freedom": 1.0}, "more than 1 for"),
        (_OtherForm(), {}, r"degrees_of_freedom=None"),
    ],
)
def test_a_prior_of_other_mixtures_is_refused(
    family: Any, how: dict[str, Any], message: str
) -> None:
    kind = covariance_family(family) if isinstance(family, str) else family
    with pytest.raises(InputError, match=message):
        check_prior(Prior(**how), kind, K, 2)


@pytest.mark.parametrize("relevance", [0.0, "much", True])
def test_a_relevance_is_a_number_of_rows(relevance: Any) -> None:
    with pytest.raises(InputError, match="relevance="):
        Prior.adapting([[0.0]], relevance)
    with pytest.raises(InputError, match=r"\(K, D\)"):
        Prior.adapting([0.0, 1.0])


def test_rows_that_are_all_the_same_have_no_scale() -> None:
    with pytest.raises(InputError, match="give a scale"):
        map_model("full", Prior(), Rows(np.ones((5, 2)))).settled_prior(2)


def test_priors_are_values() -> None:
    one, same = Prior(mean=[1.0, 2.0], shrinkage=2), Prior(mean=np.array([1, 2]), shrinkage=2.0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != Prior(mean=[1.0, 2.5], shrinkage=2)
    assert one != "prior"
    assert pickle.loads(pickle.dumps(one)) == one
    assert Prior(**one.described()) == one
    assert repr(one) == "Prior(mean=[1.0, 2.0], shrinkage=2.0)"
    large, other = (Prior(mean=np.full((40, 3), value)) for value in (0.0, 1e-9))
    assert repr(large) != repr(other)
    assert len(repr(large)) < 60
    with pytest.raises(ValueError, match="read-only"):
        one.mean[0] = 5.0
