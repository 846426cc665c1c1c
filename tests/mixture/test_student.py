"""Mixtures of t distributions: densities, statistics and M-steps against SciPy and brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import digamma, logsumexp

from dask_gmm.errors import CollapsedComponentError, InputError, NonFiniteError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.kernels.blas import BlasKernel
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.kernels.compiled.student import CompiledStudentKernel
from dask_gmm.mixture.kernels.student import StudentKernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.student import (
    FEWEST_DEGREES,
    MOST_DEGREES,
    StudentLikelihood,
    StudentParameters,
    StudentStatistics,
)
from dask_gmm.rows import Rows
from tests.marks import quick_ones
from tests.memory import peak_of
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Kernel

    Array = NDArray[np.float64]

KERNEL = CompiledStudentKernel()
KERNELS = {
    "compiled": KERNEL,
    "blas": StudentKernel(),
    **{f"compiled-{width}": CompiledStudentKernel(width) for width in this_cpu().widths[1:]},
}


@pytest.fixture(params=quick_ones(KERNELS, ["compiled", "blas"]))
def kernel(request: pytest.FixtureRequest) -> Kernel:
    found: Kernel = KERNELS[request.param]
    return found


def student(seed: int, family: str, k: int, d: int, degrees: Any = None) -> StudentParameters:
    nu = np.random.default_rng(seed).uniform(1.5, 20.0, size=k) if degrees is None else degrees
    return StudentParameters.of(random_mixture(seed, family, k, d), nu)


def heavy_rows(seed: int, p: StudentParameters, n: int) -> Array:
    """Rows of a mixture of t distributions."""
    rng, rows = np.random.default_rng(seed + 100), draw(seed, p, n)
    component = np.argmin(np.square(rows[:, None] - p.means).sum(axis=2), axis=1)
    nu = p.degrees_of_freedom[component]
    scale = np.sqrt(nu / rng.chisquare(nu))
    scaled: Array = p.means[component] + (rows - p.means[component]) * scale[:, None]
    return scaled


def densities_by_scipy(p: StudentParameters, rows: Array) -> Array:
    """log π_k t(x_n | μ_k, Σ_k, ν_k), (n, K)."""
    dense = p.form.dense(p.covariances, *p.means.shape)
    parts = zip(p.means, dense, p.degrees_of_freedom, strict=True)
    columns = [stats.multivariate_t(m, c, df=nu).logpdf(rows) for m, c, nu in parts]
    joint: Array = np.log(p.weights) + np.stack(columns, axis=1)
    return joint


@pytest.mark.parametrize("family", FAMILIES)
def test_densities_are_scipys(family: str, kernel: Kernel) -> None:
    p = student(1, family, 3, 4)
    rows = heavy_rows(2, p, 200)
    joint = densities_by_scipy(p, rows)
    log_density = logsumexp(joint, axis=1)
    np.testing.assert_allclose(kernel.log_densities(rows, p), log_density, atol=1e-9)
    posteriors = np.exp(joint - log_density[:, None])
    np.testing.assert_allclose(kernel.posteriors(rows, p), posteriors, atol=1e-9)
    np.testing.assert_array_equal(kernel.labels(rows, p), joint.argmax(axis=1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weighted", [True, False])
def test_statistics_are_those_by_force(family: str, weighted: bool, kernel: Kernel) -> None:
    p = student(3, family, 3, 3)
    rows, c = heavy_rows(4, p, 300), p.means + 0.1
    w = np.random.default_rng(5).exponential(size=300) if weighted else np.ones(300)
    found, kept = kernel.e_step([Candidate(p, c)]).with_log_densities(
        Rows(rows, w if weighted else None)
    )
    (s,) = found
    assert isinstance(s, StudentStatistics)
    joint = densities_by_scipy(p, rows)
    log_density = logsumexp(joint, axis=1)
    r = w[:, None] * np.exp(joint - log_density[:, None])
    dense = p.form.dense(p.covariances, 3, 3)
    about_means = rows[:, None] - p.means
    squares = np.einsum("nki,kij,nkj->nk", about_means, np.linalg.inv(dense), about_means)
    u = (p.degrees_of_freedom + 3) / (p.degrees_of_freedom + squares)
    shifted, ru = rows[:, None] - c, r * u
    second = np.einsum("nk,nki,nkj->kij", ru, shifted, shifted)
    by_form = {
        "full": second,
        "tied": second.sum(axis=0),
        "diag": np.diagonal(second, axis1=1, axis2=2),
        "spherical": np.trace(second, axis1=1, axis2=2),
    }
    near: Any = {"rtol": 1e-8, "atol": 1e-8}
    np.testing.assert_allclose(kept, log_density, atol=1e-9)
    assert s.log_likelihood == pytest.approx(w @ log_density, rel=1e-12)
    np.testing.assert_allclose(s.counts, r.sum(axis=0), **near)
    np.testing.assert_allclose(s.scaled_counts, ru.sum(axis=0), **near)
    np.testing.assert_allclose(s.log_scales, (r * (np.log(u) - u)).sum(axis=0), **near)
    np.testing.assert_allclose(s.first, np.einsum("nk,nki->ki", ru, shifted), **near)
    np.testing.assert_allclose(s.second, by_form[family], **near)


def test_statistics_add_up_and_know_no_company(kernel: Kernel) -> None:
    p, q = student(6, "full", 2, 3), student(7, "full", 4, 3)
    rows = heavy_rows(8, p, 400)
    (whole,) = kernel.statistics(Rows(rows), [Candidate(p)])
    (first,) = kernel.statistics(Rows(rows[:150]), [Candidate(p)])
    second, _ = kernel.statistics(Rows(rows[150:]), [Candidate(p), Candidate(q)])
    (alone,) = kernel.statistics(Rows(rows[150:]), [Candidate(p)])
    assert second == alone
    both = first + second
    assert isinstance(both, StudentStatistics)
    assert isinstance(whole, StudentStatistics)
    np.testing.assert_allclose(both.sums, whole.sums, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(both.scaled_counts, whole.scaled_counts, rtol=1e-12)
    np.testing.assert_allclose(both.log_scales, whole.log_scales, rtol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_many_degrees_it_is_the_gaussian_mixture(family: str, kernel: Kernel) -> None:
    p = student(9, family, 3, 2, 1e12)
    gaussian = random_mixture(9, family, 3, 2)
    rows = draw(10, p, 200)
    (s,) = kernel.statistics(Rows(rows), [Candidate(p)])
    (g,) = BlasKernel().statistics(Rows(rows), [Candidate(gaussian)])
    np.testing.assert_allclose(s.sums, g.sums, rtol=1e-8, atol=1e-8)


@given(
    family=st.sampled_from(FAMILIES),
    seed=st.integers(0, 10_000),
    estimated=st.sampled_from(["each", "shared", "fixed"]),
    weighted=st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_the_likelihood_never_falls(family: str, seed: int, estimated: str, weighted: bool) -> None:
    p, model = (
        student(seed, family, 2, 2),
        StudentLikelihood(covariance_family(family), estimated=estimated),
    )
    values = heavy_rows(seed + 1, p, 80)
    weights = np.random.default_rng(seed).exponential(size=80) if weighted else None
    now: MixtureParameters = student(seed + 5, family, 2, 2, 5.0)
    before = -np.inf
    for _ in range(8):
        (found,) = KERNEL.statistics(Rows(values, weights), [Candidate(now)])
        height = model.objective(found, now)
        assert height >= before - 1e-9 * (1.0 + abs(height))
        before = height
        try:
            now = model.update(found, now)
        except CollapsedComponentError:  # a component has closed in on a row
            return


@pytest.mark.parametrize(
    ("family", "estimated"),
    [
        ("full", "each"),
        ("diag", "shared"),
        pytest.param("tied", "each", marks=pytest.mark.slow),
        pytest.param("spherical", "shared", marks=pytest.mark.slow),
    ],
)
def test_where_em_ends_the_likelihood_is_flat(family: str, estimated: str) -> None:
    """By finite differences of SciPy's densities, in every direction of the family."""
    covariances: dict[str, Any] = {
        "full": [[[1.0, 0.3], [0.3, 0.5]], [[0.5, -0.2], [-0.2, 1.0]]],
        "tied": [[1.0, 0.3], [0.3, 0.5]],
        "diag": [[1.0, 0.5], [0.5, 1.0]],
        "spherical": [0.5, 1.0],
    }
    means = [[-3.0, 0.0], [3.0, 1.0]]
    mixture = MixtureParameters.create(family, [0.4, 0.6], means, covariances[family])
    truth = StudentParameters.of(mixture, [3.0, 6.0])
    rows = heavy_rows(11, truth, 300)
    model = StudentLikelihood(covariance_family(family), estimated=estimated)
    p: MixtureParameters = truth
    for _ in range(400):
        (found,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
        p = model.update(found, p)
    assert isinstance(p, StudentParameters)
    reached = p

    def height(step: Array) -> float:
        logs = np.log(reached.weights) + step[:2]
        weights = np.exp(logs - logsumexp(logs))
        means = reached.means + step[2:6].reshape(2, 2)
        scales = np.exp(step[6:8]).reshape((2,) + (1,) * (reached.covariances.ndim - 1))
        if reached.form.shared:
            scales = np.exp(step[6:7]).reshape(1, 1)
        covariances = reached.covariances * scales
        factor = step[8:10] if estimated == "each" else step[8:9]
        moved = MixtureParameters.create(family, weights, means, covariances)
        nu = reached.degrees_of_freedom * np.exp(factor)
        joint = densities_by_scipy(StudentParameters.of(moved, nu), rows)
        return float(np.mean(logsumexp(joint, axis=1)))

    slope = optimize.approx_fprime(np.zeros(10), height, 1e-5)
    assert np.all(np.abs(slope) < 2e-4), slope


def test_degrees_of_freedom_solve_their_equation_or_stand_at_a_bound() -> None:
    p = student(12, "full", 3, 2, [2.0, 8.0, 30.0])
    rows = heavy_rows(13, p, 4000)
    model = StudentLikelihood(covariance_family("full"))
    (s,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
    assert isinstance(s, StudentStatistics)
    found = model.update(s, p)
    assert isinstance(found, StudentParameters)
    nu, half = found.degrees_of_freedom, 0.5 * (p.degrees_of_freedom + 2)
    left = np.log(nu / 2) - digamma(nu / 2) + 1 + s.log_scales / s.counts
    np.testing.assert_allclose(left + digamma(half) - np.log(half), 0.0, atol=1e-9)
    scales = {"scaled_counts": s.scaled_counts}
    for none_left, bound in ((-1e9, FEWEST_DEGREES), (0.0, MOST_DEGREES)):
        extreme = StudentStatistics.carrying(s, log_scales=none_left * s.counts, **scales)
        at = model.update(extreme, p)
        assert isinstance(at, StudentParameters)
        np.testing.assert_allclose(at.degrees_of_freedom, bound, rtol=1e-6)


def test_outliers_do_not_move_what_they_would_move_in_a_gaussian_mixture() -> None:
    rng = np.random.default_rng(14)
    rows = np.vstack([rng.normal(size=(500, 2)), rng.uniform(-60, 60, size=(25, 2))])
    model = StudentLikelihood(covariance_family("full"))
    p: MixtureParameters = StudentParameters.of(
        MixtureParameters.create("full", [1.0], [[0.0, 0.0]], [10.0 * np.eye(2)]), 10.0
    )
    for _ in range(100):
        (found,) = KERNEL.statistics(Rows(rows), [Candidate(p)])
        p = model.update(found, p)
    assert isinstance(p, StudentParameters)
    assert np.linalg.det(p.covariances[0]) < 2.0 < np.linalg.det(np.cov(rows.T)) / 100
    assert p.degrees_of_freedom[0] < 3.0


@pytest.mark.parametrize("family", FAMILIES)
def test_both_kernels_in_float32_and_where_the_mixture_is_far_away(
    family: str, kernel: Kernel
) -> None:
    """Differences to the locations are whitened where a common centre has lost them."""
    p = student(19, family, 3, 2)
    away = np.array([[1e9, 0.0], [0.0, 0.0], [0.0, 0.0]])
    far = MixtureParameters.create(family, p.weights, p.means + away, p.covariances)
    q = StudentParameters.of(far, p.degrees_of_freedom)
    rows = heavy_rows(20, p, 200)
    rows[::3, 0] += 1e9
    expected = logsumexp(densities_by_scipy(q, rows), axis=1)
    np.testing.assert_allclose(kernel.log_densities(rows, q), expected, atol=1e-6)
    single = heavy_rows(21, p, 200).astype(np.float32)
    expected = logsumexp(densities_by_scipy(p, single.astype(np.float64)), axis=1)
    np.testing.assert_allclose(kernel.log_densities(single, p), expected, atol=1e-9)


def test_rows_that_are_no_numbers_are_named(kernel: Kernel) -> None:
    p = student(22, "full", 3, 2)
    for bad in (np.nan, np.inf, 1e200):
        rows = heavy_rows(23, p, 2000)
        rows[1203, 1] = bad
        for call in (
            lambda x: kernel.statistics(Rows(x), [Candidate(p)]),
            lambda x: kernel.log_densities(x, p),
        ):
            with pytest.raises(NonFiniteError, match="1203"):
                call(rows)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ["tied"]))
@pytest.mark.parametrize("d", [2, 40])
def test_memory_is_what_it_says(family: str, d: int, kernel: Kernel) -> None:
    p = student(24, family, 5, d)
    rows = Rows(heavy_rows(25, p, 20_000))
    bound = kernel.workspace_bytes(d, [5], [p.form])
    kernel.statistics(rows, [Candidate(p)])  # compiled, and imported, by now
    assert peak_of(lambda: kernel.statistics(rows, [Candidate(p)]), bound) <= bound


def test_a_component_without_weight_takes_nothing(kernel: Kernel) -> None:
    given_ = random_mixture(15, "diag", 3, 2)
    p = StudentParameters.of(
        MixtureParameters(
            given_.family,
            np.array([0.5, 0.0, 0.5]),
            given_.means,
            given_.covariances,
            given_.precisions_cholesky,
        ),
        4.0,
    )
    rows = draw(16, p, 100)
    (s,) = kernel.statistics(Rows(rows), [Candidate(p)])
    assert isinstance(s, StudentStatistics)
    assert s.counts[1] == s.scaled_counts[1] == s.log_scales[1] == 0.0
    found = StudentLikelihood(p.family, reg_covar=1e-6).update(s, p)
    assert isinstance(found, StudentParameters)
    np.testing.assert_array_equal(found.means[1], p.means[1])
    assert found.degrees_of_freedom[1] == 4.0


def test_what_it_refuses(kernel: Kernel) -> None:
    p = random_mixture(17, "full", 2, 2)
    with pytest.raises(InputError, match="no degrees of freedom"):
        kernel.predictor(p)
    for wrong in (0.0, -1.0, [1.0, 2.0, 3.0], np.inf, np.nan):
        with pytest.raises(InputError, match="a positive number, or 2 of them"):
            StudentParameters.of(p, wrong)


def test_values() -> None:
    p, q = student(18, "full", 2, 2, 3.0), student(18, "full", 2, 2, 4.0)
    assert p != q
    assert p == student(18, "full", 2, 2, 3.0)
    assert p != random_mixture(18, "full", 2, 2)
    assert p.nbytes == random_mixture(18, "full", 2, 2).nbytes + 16
    assert not p.degrees_of_freedom.flags.writeable
