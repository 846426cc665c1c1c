"""The objective: its moments, its maximum, its gradient."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.fitting.acceleration.anderson import Step, mix
from dask_gmm.fitting.acceleration.climbing import CorrectedSample, SampleObjective, climb, slope
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.mixture.coordinates import Metric, from_vector, to_vector
from dask_gmm.mixture.form import FULL
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.model import maximizer
from dask_gmm.mixture.moments import (
    Moments,
    complete_moments,
    expected_log_density,
    per_row,
)
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import KERNEL, overlapping, sample_of
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

families = pytest.mark.parametrize("family", FAMILIES)


def distance(a: MixtureParameters, b: MixtureParameters) -> float:
    return float(
        max(
            np.max(np.abs(a.weights - b.weights)),
            np.max(np.abs(a.means - b.means)),
            np.max(np.abs(a.covariances - b.covariances)),
        )
    )


@families
def test_expected_log_density_is_the_mean_over_rows(family: str) -> None:
    """Against Σ_k r_nk log π_k N(x_n|μ_k, Σ_k), row by row, with moments about other points."""
    at, other = (random_mixture(seed, family, 3, 4) for seed in (1, 2))
    rows = draw(3, at, 200)
    about = at.means + 0.7
    moments = per_row(KERNEL.statistics(Rows(rows), [Candidate(at, about)])[0])
    responsibilities = KERNEL.posteriors(rows, at)
    expected = 0.0
    for k in range(3):
        single = MixtureParameters.create(
            "full",
            [1.0],
            other.means[k : k + 1],
            other.family.form.dense(other.covariances, 3, 4)[[k]],
        )
        logs = KERNEL.log_densities(rows, single) + np.log(other.weights[k])
        expected += float(responsibilities[:, k] @ logs) / len(rows)
    assert expected_log_density(moments, other) == pytest.approx(expected, rel=1e-12)


@families
def test_a_mixture_maximises_its_own_complete_moments(family: str) -> None:
    mixture = random_mixture(4, family, 3, 2)
    moments = complete_moments(mixture, mixture.means - 0.4)
    found = maximizer(moments, mixture.family)
    assert found is not None
    assert distance(found, mixture) < 1e-12


@families
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), reg=st.sampled_from([0.0, 1e-6, 1e-2, 1.0]))
def test_the_m_step_maximises_the_stated_objective(family: str, seed: int, reg: float) -> None:
    """It is the model's, it beats its neighbours, and F_θ rises by at least its gain."""
    rows, at = overlapping(seed, family, n=400)
    found = KERNEL.statistics(Rows(rows), [Candidate(at)])[0]
    model = likelihood(family, reg)
    moments = per_row(found) + model.regulariser(found)
    update = maximizer(moments, at.family)
    assert update is not None
    assert distance(update, model.update(found)) < 1e-9
    best = expected_log_density(moments, update)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 1e-1):
        aside = from_vector(to_vector(update) + scale * rng.normal(size=to_vector(update).size), at)
        assert aside is None or expected_log_density(moments, aside) < best

    def objective(parameters: MixtureParameters) -> float:
        traces = np.trace(
            np.linalg.inv(at.family.form.dense(parameters.covariances, 3, 3)), axis1=1, axis2=2
        )
        likelihood = float(KERNEL.log_densities(rows, parameters).mean())
        return likelihood - 0.5 * reg * float(moments.counts @ traces)

    gain = best - expected_log_density(moments, at)
    assert gain >= 0.0
    assert objective(update) - objective(at) >= gain - 1e-10


@families
@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_the_corrected_sample_has_the_gradient_of_all_rows(family: str, reg: float) -> None:
    """By central differences of the likelihood of all rows and of h, in every direction."""
    rows, at = overlapping(5, family)
    sample = sample_of(rows, 200)
    (statistics,) = KERNEL.statistics(Rows(rows), [Candidate(at)])
    found = per_row(statistics)
    moments = found + likelihood(family, reg).regulariser(statistics)
    for rho in (0.0, 0.3):
        corrected = CorrectedSample.create(sample, at, moments).held(rho)
        vector, step = to_vector(at), 1e-5
        directions = np.random.default_rng(0).normal(size=(5, vector.size))
        for direction in directions:
            ends = [from_vector(vector + sign * step * direction, at) for sign in (1, -1)]
            h, f = [], []
            for end in ends:
                assert end is not None
                h.append(corrected(end).value)
                traces = np.trace(
                    np.linalg.inv(at.family.form.dense(end.covariances, 3, 3)), axis1=1, axis2=2
                )
                penalty = 0.5 * reg * float(found.counts @ traces)
                f.append(float(KERNEL.log_densities(rows, end).mean()) - penalty)
            of_h, of_f = ((v[0] - v[1]) / (2 * step) for v in (h, f))
            assert of_h == pytest.approx(of_f, rel=1e-5, abs=1e-7)
            assert slope(corrected.start(), direction) == pytest.approx(of_f, rel=1e-5, abs=1e-7)


@families
def test_releasing_a_point_evaluates_nothing(family: str) -> None:
    rows, at = overlapping(6, family)
    sample = sample_of(rows, 200)
    moments = per_row(KERNEL.statistics(Rows(rows), [Candidate(at)])[0])
    corrected = CorrectedSample.create(sample, at, moments)
    elsewhere = random_mixture(7, family, 3, 3)
    held = corrected.held(0.2)(elsewhere)
    before = sample.evaluations
    free = corrected.held(0.2).released(held)
    assert sample.evaluations == before
    assert free.value == pytest.approx(corrected.held(0.0)(elsewhere).value, rel=1e-12)


def test_moments_of_no_rows_have_no_maximum() -> None:
    mixture = random_mixture(8, "full", 2, 2)
    moments = complete_moments(mixture, mixture.means)
    assert maximizer(moments.plus(moments, -1.0), mixture.family) is None
    negative = Moments(FULL, mixture.means, moments.counts, moments.first, -moments.second)
    assert maximizer(negative, mixture.family) is None


@families
@pytest.mark.parametrize("k", [1, 3])
def test_coordinates_come_back(family: str, k: int) -> None:
    mixture = random_mixture(9, family, k, 4)
    back = from_vector(to_vector(mixture), mixture)
    assert back is not None
    assert distance(back, mixture) < 1e-12
    np.testing.assert_allclose(back.precisions_cholesky, mixture.precisions_cholesky, rtol=1e-12)


def test_coordinates_out_of_reach_are_none() -> None:
    mixture = random_mixture(9, "full", 2, 2)
    vector = to_vector(mixture)
    assert from_vector(np.full_like(vector, np.nan), mixture) is None
    far = vector.copy()
    far[6] += 9.0  # the logarithm of a scale
    assert from_vector(far, mixture) is None
    light = vector.copy()
    light[0] += 40.0
    assert from_vector(light, mixture) is None


@families
def test_the_metric_is_the_curvature_of_the_complete_data(family: str) -> None:
    """½‖d‖² is the Kullback-Leibler divergence of the complete data, to second order."""
    mixture = random_mixture(10, family, 3, 3)
    moments = complete_moments(mixture, mixture.means)
    vector, step = to_vector(mixture), 1e-4
    top = expected_log_density(moments, mixture)
    for direction in np.random.default_rng(1).normal(size=(4, vector.size)):
        direction[:3] = 0.0  # log-weights are centred, so their length has a part that is no change
        moved = from_vector(vector + step * direction, mixture)
        assert moved is not None
        length = np.linalg.norm(Metric(mixture).scaled(step * direction[None]))
        loss = top - expected_log_density(moments, moved)
        assert loss == pytest.approx(0.5 * length**2, rel=1e-2)


def test_mixing_solves_a_linear_map() -> None:
    """As many steps as dimensions find the fixed point of x ↦ x + b − Ax."""
    rng = np.random.default_rng(0)
    mixture = random_mixture(11, "spherical", 2, 1)
    size = to_vector(mixture).size
    matrix = np.eye(size) + 0.3 * rng.normal(size=(size, size))
    solution = rng.normal(size=size)
    points = rng.normal(size=(size + 1, size))
    steps = [Step(x, matrix @ (solution - x)) for x in points]
    np.testing.assert_allclose(mix(steps, Metric(mixture), 1e-12), solution, atol=1e-9)


@families
def test_climbing_ends_at_a_fixed_point_of_em(family: str) -> None:
    rows, at = overlapping(12, family, n=1000)
    objective = SampleObjective(SampleRows(Rows(rows)), likelihood(family))
    start = objective(at)
    top, sound = climb(objective, start, 1e-12, 2000)
    assert sound
    assert top.value > start.value
    assert top.gain <= 1e-12
    assert top.update is not None
    assert distance(top.update, top.parameters) < 1e-4


def test_sample_statistics_do_not_depend_on_threads() -> None:
    rows, at = overlapping(13, n=20_000)
    one, two = (SampleRows(Rows(rows), n_threads=n).evaluate(at) for n in (1, 2))
    assert one[0] == two[0]
    np.testing.assert_array_equal(one[1].second, two[1].second)
