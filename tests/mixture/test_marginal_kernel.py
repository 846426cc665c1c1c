"""The kernel for rows with missing values: against the definition, and its own laws."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import logsumexp

from dask_gmm.errors import NonFiniteError
from dask_gmm.mixture.criteria import information_criteria
from dask_gmm.mixture.gaps import has_gaps, split
from dask_gmm.mixture.kernels import KERNELS, Candidate, MarginalKernel, get_kernel, marginal
from dask_gmm.mixture.moments import expected_log_density, per_row
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.equal_shape import EqualShape
from tests.marks import covering, quick_ones
from tests.memory import peak_of
from tests.mixture.gappy import (
    by_definition,
    densities_of_present,
    joint_of_present,
    kept_by,
    with_gaps,
)
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from dask_gmm.mixture.kernels import Kernel


def take_apart(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Give patterns of so many rows kernels of their own."""
    monkeypatch.setattr(marginal, "_FEW", rows)
    monkeypatch.setattr(marginal, "_MANY", rows)


WAYS = ("apart", "together")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Patterns by kernels of their own, or all rows together; and in more than one piece."""
    take_apart(monkeypatch, 2 if request.param == "apart" else 10**9)
    monkeypatch.setattr(marginal, "_PIECE_BYTES", 4 * 8 * 83)
    return str(request.param)


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return MarginalKernel(get_kernel(request.param))


FAST = [name for name in KERNELS if name != "reference"]
every_road = pytest.mark.parametrize(
    ("family", "way", "kernel"),
    quick_ones(
        itertools.product(FAMILIES, WAYS, KERNELS),
        covering(FAMILIES, WAYS, FAST, times=2),
    ),
    indirect=["way", "kernel"],
)


class TestAgainstTheDefinition:
    @every_road
    def test_statistics(self, kernel: Kernel, way: str, family: str) -> None:
        p = random_mixture(1, family, 3, 4, offset=2.0)
        rng = np.random.default_rng(3)
        rows, weights = with_gaps(4, draw(2, p, 150), 0.35), rng.uniform(0.5, 2.0, 150)
        rows[7] = np.nan
        reference = p.means + 0.3 * rng.normal(size=p.means.shape)
        (s,) = kernel.statistics(Rows(rows, weights), [Candidate(p, reference)])
        total, counts, first, second, entropy = by_definition(rows, weights, p, reference)
        assert s.rows == 150
        assert s.weight == pytest.approx(weights.sum(), rel=1e-15)
        assert s.log_likelihood == pytest.approx(total, rel=1e-12)
        np.testing.assert_allclose(s.counts, counts, rtol=1e-11)
        np.testing.assert_allclose(s.first, first, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(s.second, kept_by(family, second), rtol=1e-11, atol=1e-10)
        assert information_criteria(s, p).entropy == pytest.approx(entropy, rel=1e-9)

    @every_road
    def test_predictions(self, kernel: Kernel, way: str, family: str) -> None:
        p = random_mixture(5, family, 3, 4)
        rows = with_gaps(6, draw(7, p, 150), 0.35)
        rows[3] = np.nan
        joint = joint_of_present(rows, p)
        expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        found = kernel.log_densities(rows, p)
        np.testing.assert_allclose(found, densities_of_present(rows, p), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(kernel.posteriors(rows, p), expected, atol=1e-11)
        np.testing.assert_array_equal(kernel.labels(rows, p), joint.argmax(axis=1))
        assert found[3] == 0.0
        e_step = kernel.e_step([Candidate(p), Candidate(random_mixture(8, "diag", 2, 4))])
        statistics, densities = e_step.with_log_densities(Rows(rows))
        assert statistics == e_step.statistics(Rows(rows))
        np.testing.assert_allclose(densities, found, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(kernel.posteriors(rows, p)[3], p.weights, rtol=1e-14)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_complete_rows_are_the_other_kernels(self, family: str) -> None:
        p = random_mixture(8, family, 3, 4)
        rows, inner = draw(9, p, 700), get_kernel()
        assert MarginalKernel(inner).statistics(Rows(rows), [Candidate(p)]) == inner.statistics(
            Rows(rows), [Candidate(p)]
        )

    @pytest.mark.parametrize("family", FAMILIES)
    def test_float32(self, way: str, family: str) -> None:
        p = random_mixture(10, family, 3, 4)
        rows = with_gaps(11, draw(12, p, 400).astype(np.float32), 0.3)
        kernel = MarginalKernel(get_kernel())
        (single,) = kernel.statistics(Rows(rows), [Candidate(p)])
        (double,) = kernel.statistics(Rows(rows.astype(np.float64)), [Candidate(p)])
        np.testing.assert_allclose(single.sums, double.sums, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_in_any_company_and_layout(family: str) -> None:
    mixtures = [random_mixture(s, f, k, 4) for s, f, k in ((1, family, 3), (2, "diag", 5))]
    rows = with_gaps(3, draw(4, mixtures[0], 4000), 0.2)
    kernel = MarginalKernel(get_kernel())
    together = kernel.statistics(Rows(rows), [Candidate(p) for p in mixtures])
    for values in (rows, np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
        for p, expected in zip(mixtures, together, strict=True):
            assert kernel.statistics(Rows(values), [Candidate(p)]) == (expected,)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_prepared_changes_no_bit(
    family: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = random_mixture(1, family, 3, 4)
    blocks = [with_gaps(s, draw(s, p, 120), 0.3) for s in range(2)]
    kernel = MarginalKernel(get_kernel("blas"))
    step = kernel.e_step([Candidate(p)])
    for rows in (*blocks, *blocks):
        assert step.statistics(Rows(rows)) == kernel.statistics(Rows(rows), [Candidate(p)])
    monkeypatch.setattr(marginal, "PREPARED_BYTES", 0)
    for rows in blocks:
        assert step.statistics(Rows(rows)) == kernel.statistics(Rows(rows), [Candidate(p)])


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_rows_are_split_by_what_they_miss(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(0, 40)), data.draw(st.sampled_from([1, 3, 8, 64, 70]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = with_gaps(1, rng.normal(size=(n, d)), data.draw(st.sampled_from([0.0, 0.02, 0.5, 1.0])))
    complete, patterns = split(rows)
    assert has_gaps(rows) == bool(np.isnan(rows).any())
    np.testing.assert_array_equal(complete, np.flatnonzero(~np.isnan(rows).any(axis=1)))
    others = [pattern.rows for pattern in patterns]
    np.testing.assert_array_equal(np.sort(np.concatenate([complete, *others])), np.arange(n))
    assert len({pattern.key for pattern in patterns}) == len(patterns)
    for pattern in patterns:
        assert np.all(np.diff(pattern.rows) > 0)
        assert np.all(np.isnan(rows[pattern.rows]) == ~pattern.present)
    shuffled = rng.permutation(n)
    again = [pattern.key for pattern in split(rows[shuffled])[1]]
    assert again == [pattern.key for pattern in patterns]


@pytest.mark.parametrize("family", FAMILIES)
def test_em_never_lowers_the_likelihood_and_beats_the_truth(family: str) -> None:
    truth = random_mixture(21, family, 3, 4, spread=3.0)
    rows = Rows(with_gaps(22, draw(23, truth, 1500), 0.3))
    kernel, model, now = MarginalKernel(get_kernel()), likelihood(family), truth
    bounds = []
    for _ in range(12):
        (s,) = kernel.statistics(rows, [Candidate(now)])
        bounds.append(s.mean_log_likelihood)
        now = model.update(s)
    assert np.all(np.diff(bounds) > -1e-12)
    assert bounds[-1] > bounds[0]


def test_a_family_with_constraints() -> None:
    family = EqualShape()
    p = random_mixture(24, "diag", 3, 4)
    p = MixtureParameters.create(
        family, p.weights, p.means, family.nearest(p.weights, p.covariances, 4)
    )
    rows = Rows(with_gaps(25, draw(26, p, 2000), 0.25))
    kernel, model, before = MarginalKernel(get_kernel()), likelihood(family), -np.inf
    for _ in range(5):
        (s,) = kernel.statistics(rows, [Candidate(p)])
        assert s.mean_log_likelihood > before - 1e-12
        before, p = s.mean_log_likelihood, model.update(s)


def test_moments_are_the_gradient_of_the_likelihood(way: str) -> None:
    """Fisher's identity: ∇ℓ(θ) is the gradient of the expected complete log-density at θ."""
    p = random_mixture(27, "full", 2, 3)
    rows = with_gaps(28, draw(29, p, 60), 0.3)
    kernel = MarginalKernel(get_kernel("blas"))
    (s,) = kernel.statistics(Rows(rows), [Candidate(p)])

    def moved(vector: Any) -> MixtureParameters:
        means, halves = vector[:6].reshape(2, 3), vector[6:].reshape(2, 3, 3)
        covariances = 0.5 * (halves + halves.transpose(0, 2, 1))
        return MixtureParameters.create("full", p.weights, means, covariances)

    def height(vector: Any) -> float:
        return float(np.mean(kernel.log_densities(rows, moved(vector))))

    def expected(vector: Any) -> float:
        return expected_log_density(per_row(s), moved(vector))

    here = np.concatenate([p.means.ravel(), p.covariances.ravel()])
    slopes = [optimize.approx_fprime(here, f, 1e-7) for f in (height, expected)]
    np.testing.assert_allclose(slopes[0], slopes[1], atol=2e-6)


@pytest.mark.parametrize("row", [0, 250, 499])
@pytest.mark.parametrize("gap", [None, 0])
def test_an_infinite_row_is_named(way: str, row: int, gap: int | None) -> None:
    p = random_mixture(30, "full", 3, 4)
    rows = draw(31, p, 500)
    rows[100:400, 2] = np.nan
    rows[row, 1] = np.inf
    if gap is not None:
        rows[row, gap] = np.nan
    kernel = MarginalKernel(get_kernel())
    for call in (
        lambda: kernel.statistics(Rows(rows), [Candidate(p)]),
        lambda: kernel.log_densities(rows, p),
    ):
        with pytest.raises(NonFiniteError) as caught:
            call()
        assert (caught.value.row, caught.value.feature) == (row, 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("enough", [pytest.param(8, marks=pytest.mark.slow), 10**9])
def test_workspace_is_not_more_than_promised(
    family: str, enough: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_apart(monkeypatch, enough)
    monkeypatch.setattr(marginal, "PREPARED_BYTES", 2**20)
    p = random_mixture(32, family, 6, 12)
    rows, kernel = Rows(with_gaps(33, draw(34, p, 6000), 0.1)), MarginalKernel(get_kernel())
    step = kernel.e_step([Candidate(p)])
    step.statistics(rows.take(slice(100)))
    allowed = kernel.workspace_bytes(12, [6], [p.form])
    assert peak_of(lambda: kernel.statistics(rows, [Candidate(p)]), allowed) <= allowed


def test_nearly_singular_covariances() -> None:
    """A marginal has to be as exact where the whole covariance hardly has an inverse."""
    rng = np.random.default_rng(35)
    root = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    covariance = (root * np.geomspace(1e-8, 1.0, 6)) @ root.T
    p = MixtureParameters.create("full", [1.0], np.zeros((1, 6)), covariance[None])
    rows = with_gaps(36, draw(37, p, 200), 0.3)
    found = MarginalKernel(get_kernel()).log_densities(rows, p)
    np.testing.assert_allclose(found, densities_of_present(rows, p), rtol=1e-6, atol=1e-6)


def test_a_covariance_at_the_edge_of_float64() -> None:
    rng = np.random.default_rng(38)
    root = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    covariance = (root * np.geomspace(3e-16, 1.0, 8)) @ root.T
    p = MixtureParameters.create("full", [1.0], np.zeros((1, 8)), covariance[None])
    rows = with_gaps(39, draw(40, random_mixture(41, "full", 1, 8), 50), 0.4)
    (found,) = MarginalKernel(get_kernel("blas")).statistics(Rows(rows), [Candidate(p)])
    assert np.isfinite(found.sums).all()


def test_factors_of_what_cholesky_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    p = random_mixture(42, "full", 3, 5)
    rows = with_gaps(43, draw(44, p, 60), 0.4)
    kernel = MarginalKernel(get_kernel("blas"))
    (expected,) = kernel.statistics(Rows(rows), [Candidate(p)])

    def refuse(_: Any) -> Any:
        raise np.linalg.LinAlgError

    monkeypatch.setattr("dask_gmm.mixture.kernels.scattered.np.linalg.cholesky", refuse)
    (found,) = kernel.statistics(Rows(rows), [Candidate(p)])
    np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-10, atol=1e-10)
