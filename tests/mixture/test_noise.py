"""Mixtures beside uniform noise, against brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import logsumexp

from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import KERNELS, Candidate, get_kernel
from dask_gmm.mixture.kernels.noisy import NoisyKernel
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.noise import NoisyParameters, NoisyStatistics, UniformNoise, box_of
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.rows import Rows
from tests.mixture.problems import FAMILIES, draw, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def noisy(seed: int, family: str, k: int, d: int, weight: float = 0.2) -> NoisyParameters:
    box = np.stack([np.full(d, -9.0), 8.0 + np.arange(d)])
    return NoisyParameters.of(random_mixture(seed, family, k, d), weight, box)


def rows_of(seed: int, p: NoisyParameters, n: int) -> Array:
    rng = np.random.default_rng(seed)
    low, high = p.noise_box
    rows: Array = np.vstack([draw(seed, p, n), rng.uniform(low, high, size=(n // 4, len(low)))])
    return rows


def joint_of(p: NoisyParameters, rows: Array) -> Array:
    """log-densities (n, K + 1), the last those of noise."""
    weight = float(p.noise_weight)
    gaussian = MixtureParameters(p.family, p.weights, p.means, p.covariances, p.precisions_cholesky)
    one = get_kernel("reference")
    logs = one.log_densities(rows, gaussian)[:, None] + np.log(one.posteriors(rows, gaussian))
    volume = np.prod(p.noise_box[1] - p.noise_box[0])
    noise = np.full((len(rows), 1), np.log(weight / volume))
    joint: Array = np.hstack([np.log1p(-weight) + logs, noise])
    return joint


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["f8", "f4"])
def test_kernels_know_noise(kernel: str, family: str, dtype: str) -> None:
    p = noisy(1, family, 3, 4)
    rows = rows_of(2, p, 240).astype(dtype)
    w = np.random.default_rng(3).exponential(size=len(rows))
    noise, c = NoisyKernel(get_kernel(kernel)), p.means + 0.1
    (s,), kept = noise.e_step([Candidate(p, c)]).with_log_densities(Rows(rows, w))
    joint = joint_of(p, rows.astype("f8"))
    densities = logsumexp(joint, axis=1)
    r = np.exp(joint - densities[:, None])
    near: Any = {"rtol": 2e-4, "atol": 2e-3} if dtype == "f4" else {"rtol": 1e-9, "atol": 1e-8}
    np.testing.assert_allclose(kept, densities, **near)
    np.testing.assert_allclose(noise.log_densities(rows, p), densities, **near)
    np.testing.assert_allclose(noise.posteriors(rows, p), r[:, :3], **near)
    labels = np.where(joint.argmax(axis=1) == 3, -1, joint.argmax(axis=1))
    np.testing.assert_array_equal(noise.labels(rows, p), labels)
    assert isinstance(s, NoisyStatistics)
    r *= w[:, None]
    shifted = rows.astype("f8")[:, None] - c
    second = np.einsum("nk,nki,nkj->kij", r[:, :3], shifted, shifted)
    by_form = {
        "full": second,
        "tied": second.sum(axis=0),
        "diag": np.diagonal(second, axis1=1, axis2=2),
        "spherical": np.trace(second, axis1=1, axis2=2),
    }
    near = {"rtol": 1e-3, "atol": 0.3} if dtype == "f4" else {"rtol": 1e-8, "atol": 1e-7}
    assert s.noise == pytest.approx(r[:, 3].sum(), rel=1e-3 if dtype == "f4" else 1e-9)
    np.testing.assert_allclose(s.counts, r[:, :3].sum(axis=0), **near)
    np.testing.assert_allclose(s.first, np.einsum("nk,nki->ki", r[:, :3], shifted), **near)
    np.testing.assert_allclose(s.second, by_form[family], **near)
    assert s.log_likelihood == pytest.approx(w @ densities, rel=1e-6)


def test_rows_far_out_are_noise_and_no_less_likely_for_it() -> None:
    p = noisy(4, "full", 2, 3)
    far = np.array([[1e3, 0, 0], [1e9, 1e9, -1e9]])
    kernel = NoisyKernel(get_kernel())
    np.testing.assert_allclose(kernel.log_densities(far, p), p.log_noise, rtol=1e-12)
    np.testing.assert_array_equal(kernel.labels(far, p), [-1, -1])
    np.testing.assert_array_equal(kernel.posteriors(far, p), 0.0)


def test_without_noise_it_is_the_mixture() -> None:
    p = noisy(5, "full", 3, 2, 0.0)
    gaussian = random_mixture(5, "full", 3, 2)
    rows = draw(6, p, 300)
    (s,) = NoisyKernel(get_kernel()).statistics(Rows(rows), [Candidate(p)])
    (g,) = get_kernel().statistics(Rows(rows), [Candidate(gaussian)])
    assert isinstance(s, NoisyStatistics)
    assert s.noise == 0.0
    np.testing.assert_allclose(s.sums, g.sums, rtol=1e-12, atol=1e-10)


def test_statistics_add_up() -> None:
    p = noisy(7, "tied", 3, 2)
    rows, kernel = rows_of(8, p, 200), NoisyKernel(get_kernel())
    parts = [kernel.statistics(Rows(part), [Candidate(p)])[0] for part in (rows[:90], rows[90:])]
    (whole,) = kernel.statistics(Rows(rows), [Candidate(p)])
    both = parts[0] + parts[1]
    assert isinstance(both, NoisyStatistics)
    assert isinstance(whole, NoisyStatistics)
    assert both.noise == pytest.approx(whole.noise, rel=1e-12)
    np.testing.assert_allclose(both.sums, whole.sums, rtol=1e-12, atol=1e-9)


def model_of(family: str, box: Array | None = None) -> UniformNoise:
    return UniformNoise.beside(MaximumLikelihood(covariance_family(family), 0.0), box)


@given(family=st.sampled_from(FAMILIES), seed=st.integers(0, 10_000), weighted=st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_likelihood_never_falls(family: str, seed: int, weighted: bool) -> None:
    truth = noisy(seed, family, 2, 2)
    values = rows_of(seed + 1, truth, 80)
    weights = np.random.default_rng(seed).exponential(size=len(values)) if weighted else None
    model, kernel = model_of(family).settled(Rows(values)), NoisyKernel(get_kernel())
    now = model.starting(random_mixture(seed + 5, family, 2, 2))
    before = -np.inf
    for _ in range(8):
        (found,) = kernel.statistics(Rows(values, weights), [Candidate(now)])
        height = model.objective(found, now)
        assert height >= before - 1e-9 * (1.0 + abs(height))
        before = height
        try:
            now = model.update(found, now)
        except CollapsedComponentError:  # a component has closed in on a row
            return


@pytest.mark.parametrize("family", ["full", pytest.param("tied", marks=pytest.mark.slow)])
def test_where_em_ends_the_likelihood_is_flat(family: str) -> None:
    truth = noisy(9, family, 2, 2)
    rows = rows_of(10, truth, 400)
    model, kernel = model_of(family).settled(Rows(rows)), NoisyKernel(get_kernel())
    p = model.starting(truth)
    for _ in range(600):
        (found,) = kernel.statistics(Rows(rows), [Candidate(p)])
        p = model.update(found, p)
    assert isinstance(p, NoisyParameters)
    reached = p

    def height(step: Array) -> float:
        logs = np.log(reached.weights) + step[:2]
        weight = float(reached.noise_weight) * np.exp(step[6])
        scale = np.exp(step[7])
        moved = MixtureParameters.create(
            family,
            np.exp(logs - logsumexp(logs)),
            reached.means + step[2:6].reshape(2, 2),
            reached.covariances * scale,
        )
        joint = joint_of(NoisyParameters.of(moved, weight, reached.noise_box), rows)
        return float(np.mean(logsumexp(joint, axis=1)))

    slope = optimize.approx_fprime(np.zeros(8), height, 1e-6)
    assert np.all(np.abs(slope) < 1e-4), slope
    assert 0.1 < float(p.noise_weight) < 0.3


def test_a_box_is_looked_at() -> None:
    np.testing.assert_array_equal(box_of([[0, 1], [2, 3]], 2), [[0.0, 1.0], [2.0, 3.0]])
    misshapen: list[Any] = [[[0, 1]], [[0], [1]], "box", [[0, 1], [2, "x"]]]
    for wrong in misshapen:
        with pytest.raises(InputError, match=r"shape \(2, 2\)"):
            box_of(wrong, 2)
    empty: list[Any] = [[[0, 1], [0, 2]], [[0, 3], [1, 2]], [[0, 0], [1, np.inf]]]
    for wrong in empty:
        with pytest.raises(InputError, match="no volume"):
            box_of(wrong, 2)
    flat = np.column_stack([np.arange(5.0), np.ones(5)])
    with pytest.raises(InputError, match="Feature 1 has one value only"):
        model_of("full").settled(Rows(flat))


def test_drawn_rows() -> None:
    p = noisy(11, "diag", 3, 2, 0.3)
    rows, labels = sample_mixture(p, 20_000, np.random.RandomState(0))
    noise = rows[labels == -1]
    assert len(noise) == pytest.approx(6000, abs=250)
    low, high = p.noise_box
    assert np.all((noise >= low) & (noise <= high))
    np.testing.assert_allclose(noise.mean(axis=0), 0.5 * (low + high), atol=0.3)
    found = np.bincount(labels[labels >= 0]) / np.sum(labels >= 0)
    np.testing.assert_allclose(found, p.weights, atol=0.02)
