"""Accelerated strategies: never a step down, EM's fixed points, fewer reads, honest stops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, StepKind
from dask_gmm.fitting.loop import FitResult, PlainEM
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import KERNEL, Passes, overlapping, sample_of
from tests.fitting.runs import fit
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, by_objective, likelihood

if TYPE_CHECKING:
    from dask_gmm.fitting.acceleration.verified import VerifiedEM
    from dask_gmm.mixture.family import CovarianceFamily

REG = 1e-6


def strategy(
    kind: str,
    family: CovarianceFamily | str,
    rows: np.ndarray,
    *,
    tol: float = 1e-8,
    most: int = 400,
    reg: float = REG,
    sample: SampleRows | None = None,
) -> VerifiedEM[Any]:
    m_step = MStep(likelihood(family, reg))
    if kind == "by objective":
        name = family if isinstance(family, str) else family.name
        return SquaremByObjective(tol, most, MStep(by_objective(name, reg)))
    if kind == "squarem":
        return Squarem(tol, most, m_step)
    return VarianceReducedEM(tol, most, m_step, sample=sample or sample_of(rows))


def plain(start: MixtureParameters, rows: np.ndarray, tol: float, reg: float = REG) -> FitResult:
    return fit(PlainEM(tol, 5000, MStep(likelihood(start.family, reg))), Passes(rows), start)


KINDS = ("variance-reduced", "squarem", "by objective")
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("kind", quick_ones(KINDS, ["squarem", "by objective"]))
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    family=st.sampled_from(FAMILIES),
    m=st.sampled_from([40, 200, 1000]),
)
def test_no_accepted_pass_is_a_step_down(kind: str, seed: int, family: str, m: int) -> None:
    """Whatever the sample: 40 rows know next to nothing. With reg_covar=0 the objective is ℓ."""
    rows, start = overlapping(seed, family, n=2000)
    running = strategy(kind, family, rows, reg=0.0, most=8, sample=sample_of(rows, m))
    result = fit(running, Passes(rows), start)
    assert np.all(np.diff(result.lower_bounds) >= -1e-12)
    rejected = [j for j in result.judgements if j.kind is StepKind.REJECTED]
    assert len(result.judgements) == len(result.lower_bounds) + len(rejected)


@kinds
def test_a_misleading_sample_costs_reads_and_no_truth(kind: str) -> None:
    """Rows of one component only: bold steps fail, plain ones do not."""
    rows, start = overlapping(3)
    misled = SampleRows(Rows(np.ascontiguousarray(rows[np.argsort(rows[:, 0])][:300])))
    result = fit(strategy(kind, "full", rows, most=30, sample=misled), Passes(rows), start)
    assert np.all(np.diff(result.lower_bounds) >= -1e-9)
    assert result.lower_bound > result.lower_bounds[0]
    after = [
        late.kind
        for early, late in zip(result.judgements, result.judgements[1:], strict=False)
        if early.kind is StepKind.REJECTED
    ]
    assert set(after) <= {StepKind.PLAIN}


@kinds
@pytest.mark.parametrize("reg", [0.0, 0.05])
@pytest.mark.parametrize("family", quick_ones(FAMILIES, ["full", "tied"]))
def test_fixed_points_are_those_of_plain_em(kind: str, reg: float, family: str) -> None:
    """Also where reg_covar is large: a converged plain fit does not move."""
    rows, start = overlapping(5, family, n=800, spread=4.0)
    slow = PlainEM(0.0, 300, MStep(likelihood(family, reg)))
    there = fit(slow, Passes(rows), start).parameters
    running = strategy(kind, family, rows, most=6, tol=0.0, reg=reg)
    result = fit(running, Passes(rows), there)
    np.testing.assert_allclose(result.parameters.means, there.means, atol=1e-5)
    np.testing.assert_allclose(result.parameters.covariances, there.covariances, atol=1e-5)
    assert abs(result.lower_bound - result.lower_bounds[0]) < 1e-9


def test_few_reads_on_overlapping_components() -> None:
    """Within 1e-3 and 1e-6 of plain EM's limit, in a fraction of its reads."""
    rows, start = overlapping(17, n=10_000)
    limit = plain(start, rows, 1e-10)
    sample = sample_of(rows, 2500)
    fitted = fit_sample(sample, [start], likelihood(start.family, REG))
    led = VarianceReducedEM(1e-8, 100, MStep(likelihood(start.family, REG)), sample=sample)
    fast = fit(led, Passes(rows), *fitted)
    squared = fit(strategy("squarem", "full", rows), Passes(rows), start)

    def reads(result: FitResult, level: float) -> int:
        heights = [j.objective for j in result.judgements]
        return next(i + 1 for i, h in enumerate(heights) if limit.lower_bound - h <= level)

    assert abs(fast.lower_bound - limit.lower_bound) < 1e-6, "the same optimum"
    for level in (1e-3, 1e-6):
        assert 4 * reads(fast, level) < reads(limit, level)
        assert reads(squared, level) < reads(limit, level)
    assert reads(fast, 1e-3) <= 6
    assert reads(fast, 1e-6) <= 16


@pytest.mark.parametrize("tol", [1e-3, 1e-5])
@pytest.mark.parametrize("seed", [17, 18])
def test_the_fit_stops_as_far_from_the_optimum_as_it_says(seed: int, tol: float) -> None:
    rows, start = overlapping(seed, n=10_000)
    sample = sample_of(rows, 2500)
    m_step = MStep(likelihood(start.family, REG))
    result = fit(VarianceReducedEM(tol, 100, m_step, sample=sample), Passes(rows), start)
    assert result.outcome is Outcome.CONVERGED
    further = VarianceReducedEM(1e-11, 100, m_step, sample=sample)
    end = fit(further, Passes(rows), result.parameters)
    left = end.lower_bound - result.lower_bound
    assert left < 2.0 * tol
    assert result.remaining_gain is not None
    assert result.remaining_gain < tol
    assert abs(left - result.remaining_gain) < tol


@pytest.mark.slow
def test_the_first_read_decides_between_starts() -> None:
    rows, start = overlapping(19, spread=4.0)
    good = plain(start, rows, 1e-6).parameters
    m_step = MStep(likelihood(start.family, REG))
    led = VarianceReducedEM(1e-3, 1, m_step, sample=sample_of(rows))
    passes = Passes(rows)
    result = fit(led, passes, start, good)
    assert passes.reads == 1
    heights = [KERNEL.log_densities(rows, p).mean() for p in (start, good)]
    assert heights[1] > heights[0]
    assert result.lower_bound == pytest.approx(heights[1], rel=1e-12)


def test_starts_on_the_sample_come_back_best_first() -> None:
    rows, start = overlapping(20, n=2000)
    sample = sample_of(rows, 1000)
    broad = MixtureParameters.create(
        "full", start.weights, np.tile(rows.mean(axis=0), (3, 1)), np.stack([np.cov(rows.T)] * 3)
    )
    first, second = fit_sample(sample, [broad, start], likelihood(start.family, REG), keep=2)
    assert sample.evaluate(first)[0] > sample.evaluate(second)[0] + 1e-3


@kinds
def test_a_budget_of_iterations_ends_it(kind: str) -> None:
    rows, start = overlapping(21)
    none = fit(strategy(kind, "full", rows, most=0), Passes(rows), start)
    assert (none.outcome, none.n_iter, none.parameters) == (Outcome.MAX_ITER, 0, start)
    two = fit(strategy(kind, "full", rows, tol=0.0, most=2), Passes(rows), start)
    assert (two.outcome, two.n_iter) == (Outcome.MAX_ITER, 2)


@kinds
def test_a_collapse_keeps_the_last_sound_parameters(kind: str) -> None:
    rows = np.concatenate([np.zeros((50, 3)), overlapping(22)[0][:500]])
    narrow = MixtureParameters.create(
        "full", [0.1, 0.9], [[0.0] * 3, [0.1] * 3], [np.eye(3) * 1e-12, np.eye(3) * 9.0]
    )
    running = strategy(kind, "full", rows, reg=0.0, sample=SampleRows(Rows(rows[::2].copy())))
    result = fit(running, Passes(rows), narrow)
    assert result.outcome is Outcome.COLLAPSED
    assert "component 0" in str(result.error)
    assert np.isfinite(result.lower_bound)


@kinds
@pytest.mark.parametrize("family", FAMILIES)
def test_degenerate_data_end_where_plain_em_would(kind: str, family: str) -> None:
    """Five components for three places, and a sample that has seen but one of them."""
    places = np.random.default_rng(1).normal(size=(3, 2))
    rows = np.repeat(places, 30, axis=0)
    rng = np.random.default_rng(3)
    k, d = 5, 2
    start = MixtureParameters.create(
        family,
        np.full(k, 1 / k),
        rows[rng.choice(len(rows), k)] + rng.normal(size=(k, d)),
        {"full": np.stack([np.eye(d)] * k), "tied": np.eye(d), "diag": np.ones((k, d))}.get(
            family, np.ones(k)
        ),
    )
    for sample in (SampleRows(Rows(rows[:30].copy())), SampleRows(Rows(rows[::3].copy()))):
        fitted = fit_sample(sample, [start], likelihood(start.family, REG))[0]
        for begin in (start, fitted):
            running = strategy(kind, family, rows, most=25, sample=sample)
            result = fit(running, Passes(rows), begin)
            assert result.outcome in (Outcome.CONVERGED, Outcome.MAX_ITER)
            dense = covariance_family(family).form.dense(result.parameters.covariances, k, d)
            assert np.all(np.linalg.eigvalsh(dense) > 0.0)


@kinds
def test_a_far_start_is_recentred(kind: str) -> None:
    rng = np.random.default_rng(1)
    rows = 1e7 + rng.normal(size=(500, 2))
    far = MixtureParameters.create("full", [1.0], np.zeros((1, 2)), [np.eye(2) * 1e14])
    running = strategy(kind, "full", rows, reg=0.0, sample=SampleRows(Rows(rows[::5].copy())))
    result = fit(running, Passes(rows), far)
    assert StepKind.REPEATED in [j.kind for j in result.judgements]
    expected = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(result.parameters.covariances[0], expected, rtol=1e-6, atol=1e-7)
