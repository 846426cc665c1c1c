"""Families of factor analysers, against dense Gaussians and the textbook's formulas row by row."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.fitting.factor_starts import factor_start
from dask_gmm.mixture.criteria import complete_log_likelihood, information_criteria
from dask_gmm.mixture.factors import FACTOR_FAMILIES, FactorFamily, heywood_cases, oriented, turned
from dask_gmm.mixture.family import COVARIANCE_TYPES, covariance_family
from dask_gmm.mixture.form import covariance_form
from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from dask_gmm.mixture.low_rank import expected_factors, low_rank, projection
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.mixture.problems import FACTORS, draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

KERNEL = get_kernel("blas")
KINDS = list(FACTOR_FAMILIES)


def factor_family(name: str, q: int) -> FactorFamily:
    family = covariance_family(name, q)
    assert isinstance(family, FactorFamily)
    return family


def some_rows(seed: int, n: int = 400, k: int = 3, d: int = 7) -> Array:
    return draw(seed + 1, random_mixture(seed, FACTORS, k, d, spread=2.0), n)


def started(name: str, values: Array, k: int, q: int, seed: int = 0) -> MixtureParameters:
    r = np.random.default_rng(seed).dirichlet(np.full(k, 0.3), size=len(values))
    pieces = [(slice(None), np.ascontiguousarray(r[:, j])) for j in range(k)]
    return factor_start(Rows(values), pieces, k, factor_family(name, q), 0.0)


def textbook(values: Array, p: MixtureParameters) -> tuple[Array, Array]:
    dense = p.form.dense(p.covariances, *p.means.shape)
    joint = np.stack(
        [
            np.log(w) + stats.multivariate_normal(m, c).logpdf(values)
            for w, m, c in zip(p.weights, p.means, dense, strict=True)
        ],
        axis=1,
    )
    densities = logsumexp(joint, axis=1)
    return densities, np.exp(joint - densities[:, None])


class TestNames:
    def test_of_each_kind_and_number_there_is_one(self) -> None:
        for name in KINDS:
            family = covariance_family(f"{name}:3")
            assert family is covariance_family(name, 3) is covariance_family(f"{name}:3", 3)
            assert family is pickle.loads(pickle.dumps(family))
            assert family.form is pickle.loads(pickle.dumps(family.form))
            assert family.form is low_rank(3) is covariance_form(family.form.name)
            assert family.name in COVARIANCE_TYPES
            assert not family.conjugate

    @pytest.mark.parametrize(
        ("name", "q", "words"),
        [
            ("factors", None, "n_factors=5"),
            ("factors:0", None, "at least 1"),
            ("ppca:x", None, "'ppca:5'"),
            ("factors:2", 3, "contradict"),
            ("full", 2, "has no factors"),
            ("factors", 0, "at least 1"),
        ],
    )
    def test_what_is_none(self, name: str, q: int | None, words: str) -> None:
        with pytest.raises(InputError, match=words):
            covariance_family(name, q)

    def test_as_many_factors_as_features(self) -> None:
        with pytest.raises(InputError, match="fewer factors"):
            factor_family("factors", 4).check(4)

    def test_free_parameters_are_those_of_the_tables(self) -> None:
        """McNicholas & Murphy 2008, table 1, with G = 3, p = 10, q = 2: pq − q(q−1)/2 = 19."""
        expected = {
            "CCC": 20, "CCU": 29, "CUC": 22, "CUU": 49,
            "UCC": 58, "UCU": 67, "ppca": 60, "factors": 87,
        }  # fmt: skip
        found = {name: factor_family(name, 2).degrees_of_freedom(3, 10) for name in KINDS}
        assert found == expected


class TestForm:
    @pytest.mark.parametrize("strength", [0.0, 1.0, 1e3])
    def test_against_dense_matrices(self, strength: float) -> None:
        rng = np.random.default_rng(0)
        form, k, d = low_rank(2), 2, 6
        c = np.concatenate(
            [rng.uniform(0.5, 2.0, size=(k, d, 1)), strength * rng.normal(size=(k, d, 2))], axis=2
        )
        dense, factors = form.dense(c, k, d), form.factor(c)
        inverse, near = np.linalg.inv(dense), 1e-8
        np.testing.assert_allclose(form.covariances(factors), c, rtol=1e-13)
        np.testing.assert_allclose(form.factor_precisions(form.precisions(factors)), factors)
        np.testing.assert_allclose(form.diagonals(c, k, d), np.diagonal(dense, axis1=1, axis2=2))
        logs = -0.5 * np.linalg.slogdet(dense)[1]
        np.testing.assert_allclose(form.log_determinant(factors, k, d), logs, rtol=1e-8)
        x = rng.normal(size=(5, d))
        for j in range(k):
            white = form.whiten(factors, j, x)
            np.testing.assert_allclose(form.colour(factors, j, white), x, rtol=1e-7)
            np.testing.assert_allclose(white @ white.T, x @ inverse[j] @ x.T, rtol=1e-7, atol=near)
            beta = expected_factors(factors[j])
            np.testing.assert_allclose(beta, inverse[j] @ c[j, :, 1:], atol=1e-9)
            v = projection(factors[j])
            own = np.eye(d) - v @ v.T
            np.testing.assert_allclose(
                own * factors[j, :, :1] * factors[j, :, 0], inverse[j], atol=1e-7
            )
            scatter = x.T @ x
            moment = form.moment_at(factors, j, x, x)
            square = np.sum(form.precisions(factors)[j] * moment)
            assert square == pytest.approx(np.trace(inverse[j] @ scatter), rel=1e-7)

    def test_a_noise_of_nothing_and_what_is_not_finite(self) -> None:
        c = np.ones((2, 3, 2))
        c[1, 2, 0] = 0.0
        with pytest.raises(CollapsedComponentError, match="component 1 leave feature 2"):
            low_rank(1).factor(c)
        c[0, 1, 1] = np.inf
        with pytest.raises(InputError, match="component 0 is not finite at feature 1"):
            low_rank(1).factor(c)

    def test_moments_of_no_mixture_are_refused(self) -> None:
        with pytest.raises(TypeError, match="belong to a mixture"):
            low_rank(1).component_moment(np.ones((2, 3)), np.ones((2, 3)))
        with pytest.raises(ValueError, match="without the mixture"):
            factor_family("factors", 1).improve(
                np.ones(1), np.zeros((1, 3)), np.ones((1, 3, 2)), 0.0, None
            )

    @pytest.mark.parametrize("noise", [1.0, 1e-6, 1e-10])
    def test_nothing_cancels_where_factors_are_strong(self, noise: float) -> None:
        """Woodbury's identity subtracts what is 1/noise times as large."""
        p = random_mixture(3, FACTORS, 3, 40)
        c = p.covariances.copy()
        c[..., 0] *= noise
        p = MixtureParameters.create(p.family, p.weights, p.means, c)
        values = draw(4, p, 200)
        found = KERNEL.log_densities(values, p)
        true = get_kernel("reference").log_densities(values, p)
        np.testing.assert_allclose(found, true, rtol=1e-8, atol=1e-7)

    def test_the_marginal_kernel_refuses_it(self) -> None:
        p, kernel = random_mixture(1, FACTORS, 2, 4), MarginalKernel(KERNEL)
        for call in (lambda: kernel.e_step([Candidate(p)]), lambda: kernel.predictor(p)):
            with pytest.raises(InputError, match="missing='drop'"):
                call()


class TestMStep:
    def test_it_is_the_books(self) -> None:
        """Ghahramani & Hinton's updates, by expected factors of each row; means come first."""
        values, q = some_rows(5, d=6), 2
        p = started("factors", values, 2, q)
        _, r = textbook(values, p)
        (found,) = KERNEL.statistics(Rows(values), [Candidate(p)])
        new = MaximumLikelihood(p.family).update(found, p)
        for k in range(2):
            dense = p.form.dense(p.covariances, *p.means.shape)[k]
            loadings = p.covariances[k, :, 1:]
            mean = r[:, k] @ values / r[:, k].sum()
            beta = loadings.T @ np.linalg.inv(dense)
            x = values - mean
            z = x @ beta.T
            zz = np.sum(r[:, k]) * (np.eye(q) - beta @ loadings) + (r[:, k, None] * z).T @ z
            updated = (r[:, k, None] * x).T @ z @ np.linalg.inv(zz)
            noise = (r[:, k] @ x**2 - np.sum(updated * ((r[:, k, None] * x).T @ z), axis=1)) / r[
                :, k
            ].sum()
            np.testing.assert_allclose(new.means[k], mean, rtol=1e-9)
            np.testing.assert_allclose(new.covariances[k, :, 0], noise, rtol=1e-9)
            turned = new.covariances[k, :, 1:]
            np.testing.assert_allclose(turned @ turned.T, updated @ updated.T, atol=1e-9)

    @pytest.mark.parametrize("name", KINDS)
    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 10**6), k=st.integers(1, 3), q=st.integers(1, 3))
    def test_no_step_goes_down(self, name: str, seed: int, k: int, q: int) -> None:
        values = some_rows(seed, 120)
        weights = np.random.default_rng(seed).exponential(size=120)
        for reg_covar in (0.0, 0.3):
            p = started(name, values, k, q, seed)
            model, before = MaximumLikelihood(p.family, reg_covar), -np.inf
            for _ in range(5):
                (found,) = KERNEL.statistics(Rows(values, weights), [Candidate(p)])
                # What reg_covar maximises belongs to the counts of the step: bounded below by it.
                noise = found.counts @ (1.0 / p.covariances[..., 0]).sum(axis=1)
                height = found.log_likelihood - 0.5 * reg_covar * noise
                assert height >= before - 1e-9 * abs(before)
                p = model.update(found, p)
                (after,) = KERNEL.statistics(Rows(values, weights), [Candidate(p)])
                noise = found.counts @ (1.0 / p.covariances[..., 0]).sum(axis=1)
                risen = after.log_likelihood - 0.5 * reg_covar * noise
                assert risen >= height - 1e-9 * abs(height)
                before = -np.inf if reg_covar else risen

    @pytest.mark.parametrize("name", KINDS)
    def test_what_it_returns_is_of_the_family(self, name: str) -> None:
        values = some_rows(8)
        p = started(name, values, 3, 2)
        (found,) = KERNEL.statistics(Rows(values), [Candidate(p)])
        new = MaximumLikelihood(p.family, 0.1).update(found, p)
        family, noise, loadings = new.family, new.covariances[..., 0], new.covariances[..., 1:]
        assert isinstance(family, FactorFamily)
        assert (np.ptp(noise, axis=1).max() == 0.0) == family.isotropic
        assert (np.ptp(noise, axis=0).max() < 1e-12) == family.shared_noise
        assert (np.ptp(loadings, axis=0).max() == 0.0) == family.shared_loadings
        near = family.nearest(new.weights, new.covariances, 7)
        np.testing.assert_allclose(near, new.covariances, rtol=1e-12)
        new = turned(new)
        if not family.shared_loadings:
            white = new.precisions_cholesky[..., 1:]
            gram = np.einsum("kdi,kdj->kij", white, white)
            spread = np.diagonal(gram, axis1=1, axis2=2)
            np.testing.assert_allclose(gram, spread[:, :, None] * np.eye(2), atol=1e-9)
            assert np.all(np.diff(spread, axis=1) <= 0.0)
        assert new.covariances[..., 0].min() >= 0.1

    @pytest.mark.parametrize("name", ["factors", "CUU"])
    def test_where_it_stays_nothing_rises(self, name: str) -> None:
        """The likelihood's differences vanish along all parameters at a fixed point."""
        p = random_mixture(12, FACTORS, 2, 8, spread=4.0)
        shared = np.array(p.covariances)
        shared[:, :, 1:] = shared[0, :, 1:]
        p = MixtureParameters.create(covariance_family(name, 2), p.weights, p.means, shared)
        values = draw(13, p, 600)
        model = MaximumLikelihood(p.family)
        for _ in range(300):
            (found,) = KERNEL.statistics(Rows(values), [Candidate(p)])
            p = model.update(found, p)
        rng = np.random.default_rng(0)

        def height(means: Array, covariances: Array) -> float:
            moved = MixtureParameters.create(p.family, p.weights, means, covariances)
            return float(KERNEL.log_densities(values, moved).mean())

        for _ in range(6):
            means, change = rng.normal(size=p.means.shape), rng.normal(size=p.covariances.shape)
            if name == "CUU":
                change[:, :, 1:] = change[0, :, 1:]
            change[..., 0] *= p.covariances[..., 0]  # of log ψ
            up, down = (
                height(p.means + h * means, p.covariances + h * change) for h in (1e-4, -1e-4)
            )
            assert abs(up - down) / 2e-4 < 1e-5

    def test_loadings_do_not_depend_on_how_they_were_turned(self) -> None:
        rng = np.random.default_rng(1)
        loadings, noise = rng.normal(size=(8, 3)), rng.uniform(0.5, 2.0, size=8)
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        np.testing.assert_allclose(
            oriented(loadings @ turn, noise), oriented(loadings, noise), atol=1e-12
        )


def test_entropy_and_expected_likelihood_follow_from_the_moments() -> None:
    values = some_rows(21)
    p = started("factors", values, 3, 2)
    densities, r = textbook(values, p)
    about = p.means + 0.5
    for reference in (None, about):
        (found,) = KERNEL.statistics(Rows(values), [Candidate(p, reference)])
        joint = densities[:, None] + np.log(r)
        assert complete_log_likelihood(found, p) == pytest.approx(np.sum(r * joint), rel=1e-10)
        entropy = information_criteria(found, p).entropy
        assert entropy == pytest.approx(-np.sum(r * np.log(r)), rel=1e-7)


def test_heywood_cases_are_found_and_nothing_else() -> None:
    c = np.ones((2, 4, 3))
    assert not len(heywood_cases(c, 1e-6))
    c[1, 2, 0] = 1.5e-4
    c[0, 3] = [1e-6, 0.0, 0.0]  # a constant: no factor explains it
    assert heywood_cases(c, 1e-6).tolist() == [[1, 2]]
    assert heywood_cases(c, 0.0).tolist() == [[1, 2]]
    assert not len(heywood_cases(np.ones((2, 4, 3)), 0.5))


class TestStarts:
    @pytest.mark.parametrize("d", [30, 260])
    def test_principal_components_of_few_and_many_features(self, d: int) -> None:
        """Of one component it is Tipping & Bishop's maximum of the likelihood."""
        rng = np.random.default_rng(2)
        axes = np.linalg.qr(rng.normal(size=(d, 2)))[0] * [9.0, 5.0]
        values = 1e4 + rng.normal(size=(400, 2)) @ axes.T + 0.5 * rng.normal(size=(400, d))
        r = rng.uniform(0.5, 1.5, size=400)
        p = factor_start(Rows(values), [(slice(None), r)], 1, factor_family("ppca", 2), 0.0)
        scatter = np.cov(values.T, aweights=r, bias=True)
        lengths, vectors = np.linalg.eigh(scatter)
        noise = lengths[:-2].mean()
        best = (vectors[:, -2:] * (lengths[-2:] - noise)) @ vectors[:, -2:].T + noise * np.eye(d)
        (found,) = p.form.dense(p.covariances, 1, d)
        np.testing.assert_allclose(found, best, atol=1e-3 * lengths[-1])
        np.testing.assert_allclose(p.means[0], r @ values / r.sum(), rtol=1e-12)

    def test_a_component_without_rows_or_of_one(self) -> None:
        values = some_rows(3, 50)
        pieces = [(np.arange(49), np.ones(49)), (np.array([49]), np.ones(1))]
        with pytest.raises(CollapsedComponentError, match="component 1"):
            factor_start(Rows(values), pieces, 2, factor_family("factors", 1), 0.0)
        p = factor_start(Rows(values), pieces, 2, factor_family("factors", 1), 1e-3)
        np.testing.assert_array_equal(p.means[1], values[49])
