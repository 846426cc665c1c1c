"""Kept statistics: what they say of rows that are not read, against the rows themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import xlogy

from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.contest import ContestState
from dask_gmm.fitting.loop import PlainEM, run
from dask_gmm.mixture.kept import KeptStatistics
from dask_gmm.mixture.kernels import Candidate, MarginalKernel, get_kernel
from dask_gmm.mixture.merging import take_components
from dask_gmm.mixture.moments import expected_log_density, per_row
from dask_gmm.rows import Rows
from tests.fitting.travelling import FITS
from tests.marks import quick_ones
from tests.mixture.problems import FAMILIES, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL = MarginalKernel(get_kernel())


def statistics(
    rows: NDArray[np.float64], at: MixtureParameters, weights: NDArray[np.float64] | None = None
) -> SufficientStatistics:
    return KERNEL.statistics(Rows(rows, weights), [Candidate(at)])[0]


def problem(
    seed: int, family: str, *, gaps: bool = False, n: int = 300
) -> tuple[MixtureParameters, MixtureParameters, NDArray[np.float64]]:
    """A mixture, another one near it, and rows of the first."""
    one = random_mixture(seed, family, 3, 2)
    rng = np.random.default_rng(seed)
    other = random_mixture(seed, family, 3, 2, offset=0.3)
    rows = rng.permutation(draw(seed, one, n))
    if gaps:
        rows[rng.random(rows.shape) < 0.2] = np.nan
        rows = rows[~np.isnan(rows).all(axis=1)]
    return one, other, rows


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("full", "tied")))
def test_what_the_free_energy_lacks_is_how_far_responsibilities_have_drifted(family: str) -> None:
    one, other, rows = problem(1, family)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(rows))
    kept = KeptStatistics.of(statistics(rows, one, weights), one)
    r, q = KERNEL.posteriors(rows, one), KERNEL.posteriors(rows, other)
    assert kept.entropy == pytest.approx(-weights @ xlogy(r, r).sum(axis=1), rel=1e-9)
    divergence = weights @ (xlogy(r, r) - xlogy(r, q)).sum(axis=1)
    lacking = weights @ KERNEL.log_densities(rows, other) - kept.free_energy(other)
    assert divergence > 0.1
    assert lacking == pytest.approx(divergence, rel=1e-8)
    assert kept.free_energy(one) == pytest.approx(weights @ KERNEL.log_densities(rows, one))


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    family=st.sampled_from(FAMILIES),
    gaps=st.booleans(),
    part=st.floats(0.0, 1.0),
)
def test_it_is_a_lower_bound_everywhere_and_touches_where_it_was_kept(
    seed: int, family: str, gaps: bool, part: float
) -> None:
    one, other, rows = problem(seed, family, gaps=gaps, n=60)
    kept = KeptStatistics.of(statistics(rows, one), one)
    scale = 1.0 + abs(kept.free_energy(one))
    for at in (one, other):
        height = KERNEL.log_densities(rows, at).sum()
        assert kept.free_energy(at) <= height + 1e-9 * scale
    assert kept.free_energy(one) == pytest.approx(KERNEL.log_densities(rows, one).sum(), rel=1e-9)
    cut = int(part * len(rows))
    halves = [KeptStatistics.of(statistics(r, one), one) for r in np.split(rows, [cut])]
    both = halves[0] + halves[1]
    assert both.rows == kept.rows
    np.testing.assert_allclose(both.statistics.sums, kept.statistics.sums, rtol=1e-9, atol=1e-9)
    assert both.entropy == pytest.approx(kept.entropy, abs=1e-9 * scale)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("full", "tied")))
def test_about_other_points_they_say_the_same(family: str) -> None:
    one, other, rows = problem(2, family)
    kept = KeptStatistics.of(statistics(rows, one), one)
    moved = kept.about(other.means)
    (direct,) = KERNEL.statistics(Rows(rows), [Candidate(one, other.means)])
    np.testing.assert_allclose(moved.sums, direct.sums, rtol=1e-9, atol=1e-9)
    assert kept.about(kept.statistics.reference) is kept.statistics
    n = kept.weight
    expected = n * expected_log_density(per_row(moved), other) + kept.entropy
    assert kept.free_energy(other) == pytest.approx(expected)


@pytest.mark.parametrize("family", quick_ones(FAMILIES, ("full", "tied")))
def test_in_another_order_and_of_copies_they_say_the_same(family: str) -> None:
    one, other, rows = problem(3, family, gaps=True)
    kept = KeptStatistics.of(statistics(rows, one), one)
    order = [2, 0, 1]
    taken, model = kept.taken(order), likelihood(family)
    np.testing.assert_allclose(
        model.update(taken.statistics).means, model.update(kept.statistics).means[order]
    )
    assert taken.statistics.missing_entropy == kept.statistics.missing_entropy != 0.0
    assert (
        taken.statistics.counts.tolist() == take_components(kept.statistics, order).counts.tolist()
    )
    twice = kept.times(2.0)
    assert twice.rows == 2 * kept.rows
    assert twice.free_energy(other) == pytest.approx(2.0 * kept.free_energy(other))
    assert twice.fingerprint != kept.fingerprint == kept.taken(range(3)).fingerprint


def brute_force(
    old: NDArray[np.float64], new: NDArray[np.float64], start: MixtureParameters, steps: int
) -> MixtureParameters:
    """Incremental EM with whole arrays of responsibilities, those of the old rows fixed."""
    held = KERNEL.posteriors(old, start)
    model, at = likelihood("full"), likelihood("full").update(statistics(old, start))
    rows = np.concatenate([old, new])
    for _ in range(steps):
        r = np.concatenate([held, KERNEL.posteriors(new, at)])
        n = r.sum(axis=0)
        means = (r.T @ rows) / n[:, None]
        shift = rows[:, None, :] - means
        covariances = np.einsum("nk,nki,nkj->kij", r, shift, shift) / n[:, None, None]
        at = type(at).create(model.family, n / n.sum(), means, covariances)
    return at


def test_an_update_is_incremental_em() -> None:
    one, _, old = problem(4, "full")
    new = problem(5, "full", n=100)[2]
    kept = KeptStatistics.of(statistics(old, one), one)
    fitting = PlainEM(0.0, 12, MStep(likelihood("full")))

    def evaluate(candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        (found,) = KERNEL.statistics(Rows(new), candidates)
        return (kept.joined(found, candidates[0].parameters),)

    start = likelihood("full").update(kept.statistics)
    (end,) = run([fitting], [fitting.begin([start])], evaluate)
    expected = brute_force(old, new, one, 12)
    np.testing.assert_allclose(end.parameters.means, expected.means, rtol=1e-9)
    np.testing.assert_allclose(end.parameters.covariances, expected.covariances, rtol=1e-8)


# -- what each strategy keeps --------------------------------------------------------------------


STRATEGIES = (
    "plain merge",
    "plain reseed",
    "plain restarts",
    "plain selection",
    "plain stop",
    "squarem merge",
    "squarem restarts",
    "variance-reduced reseed",
)


@pytest.mark.parametrize("name", quick_ones(STRATEGIES, ("plain merge", "squarem merge")))
def test_every_strategy_keeps_the_statistics_whose_mstep_it_ends_with(name: str) -> None:
    """Where it ends with an M-step that mended nothing; restarts, collapses and selections too."""
    fit = FITS[name]()
    for strategy, end in zip(fit.strategies, fit.go_on(fit.states), strict=True):
        pairs: list[tuple[Any, Any]] = [(strategy, end)]
        if isinstance(end, ContestState):
            fittings = [contestant.fitting for contestant in strategy.contestants]
            ended = zip(fittings, (s.fit for s in end.standings), strict=True)
            pairs = [(fitting, state) for fitting, state in ended if state.outcome is not None]
        for fitting, state in pairs:
            result = fitting.finish(state)
            if result.last is None:
                assert result.error is not None
                continue
            again, _ = fitting.m_step(result.last.statistics, result.last.parameters)
            assert again == result.parameters
            about = Candidate(result.last.parameters, result.last.statistics.reference)
            (found,) = get_kernel().statistics(Rows(fit.rows), [about])
            assert found == result.last.statistics
            kept = result.last.kept()
            assert kept.free_energy(result.last.parameters) == pytest.approx(found.log_likelihood)
