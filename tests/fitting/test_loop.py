"""The loop: restarts share passes, statuses are scikit-learn's, degenerate data end well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.fitting.budget import BudgetSpentError
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.loop import FitResult, PlainEM, PlainState, best_result, run
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.runs import fit, fit_restarts
from tests.mixture.problems import FAMILIES, likelihood

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL = get_kernel()


class Passes:
    """Evaluates candidates on rows in memory and remembers how many it was given each time."""

    def __init__(self, rows: NDArray[np.float64]) -> None:
        self.rows = rows
        self.candidates: list[int] = []

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        self.candidates.append(len(candidates))
        return KERNEL.statistics(Rows(self.rows), candidates)


def blobs(seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(m, 1.0, size=(200, 2)) for m in (-3.0, 0.0, 3.0)])


def start(rows: NDArray[np.float64], k: int = 3, seed: int = 0) -> MixtureParameters:
    means = rows[np.random.default_rng(seed).choice(len(rows), k, replace=False)]
    return MixtureParameters.create("full", np.full(k, 1 / k), means, np.stack([np.eye(2)] * k))


def em(family: str = "full", **settings: float) -> PlainEM:
    given = {"tol": 1e-3, "max_iter": 100, "reg_covar": 1e-6, **settings}
    m_step = MStep(likelihood(family, given["reg_covar"]))
    return PlainEM(given["tol"], int(given["max_iter"]), m_step)


def test_restarts_share_every_pass() -> None:
    rows = blobs()
    starts = [start(rows, seed=seed) for seed in range(4)]
    alone = [fit(em(), Passes(rows), s) for s in starts]
    passes = Passes(rows)
    together = fit_restarts(em(), passes, starts)
    assert len(passes.candidates) == max(r.n_iter for r in alone)
    assert passes.candidates == [
        sum(r.n_iter > i for r in alone) for i in range(len(passes.candidates))
    ]
    # The tiles of a pass are chosen per candidate, so company changes rounding at the most.
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.lower_bounds, b.lower_bounds, rtol=1e-12)


def test_bounds_never_go_down_without_regularisation() -> None:
    result = fit(em(reg_covar=0.0, tol=0.0, max_iter=200), Passes(blobs()), start(blobs()))
    steps = np.diff(result.lower_bounds)
    assert steps.min() > -1e-13
    assert result.outcome is Outcome.MAX_ITER


def test_tolerance_is_strict_and_zero_never_stops() -> None:
    rows = blobs()
    result = fit(em(tol=1e-4), Passes(rows), start(rows))
    steps = np.abs(np.diff(result.lower_bounds))
    assert result.outcome is Outcome.CONVERGED
    assert steps[-1] < 1e-4
    assert np.all(steps[:-1] >= 1e-4)
    single = start(rows, k=1)
    fixed = fit(em(tol=0.0, max_iter=7), Passes(rows), single)
    assert fixed.n_iter == 7
    assert fixed.outcome is Outcome.MAX_ITER


def test_no_iteration_reads_nothing_and_keeps_the_start() -> None:
    rows, passes = blobs(), Passes(blobs())
    given = start(rows)
    result = fit(em(max_iter=0), passes, given)
    assert passes.candidates == []
    assert result.parameters == given
    assert result.lower_bound == -np.inf
    assert result.n_iter == 0


def test_a_far_start_is_recentred_once_and_ends_exact() -> None:
    """A mean 1e7 σ away: about it, nothing would be left of a variance of one."""
    rng = np.random.default_rng(1)
    rows = 1e7 + rng.normal(size=(500, 2))
    far = MixtureParameters.create("full", [1.0], np.zeros((1, 2)), [np.eye(2) * 1e14])
    passes = Passes(rows)
    result = fit(em(max_iter=3, tol=0.0, reg_covar=0.0), passes, far)
    assert len(passes.candidates) == 4, "three iterations and one repeated read"
    expected = np.cov(rows.T, bias=True)
    np.testing.assert_allclose(result.parameters.covariances[0], expected, rtol=1e-8, atol=1e-9)


def test_a_component_that_suddenly_narrows_stays_exact() -> None:
    """Rows far from the others on a line: the first M-step finds a variance of almost nothing."""
    rng = np.random.default_rng(2)
    flat = np.column_stack([rng.normal(300.0, 1.0, 400), np.full(400, 77.0)])
    wide = rng.normal(0.0, 30.0, size=(400, 2))
    rows = np.concatenate([flat, wide])
    given = MixtureParameters.create(
        "full", [0.5, 0.5], [[300.0, 77.0], [0.0, 0.0]], [np.eye(2) * 400.0, np.eye(2) * 900.0]
    )
    passes = Passes(rows)
    result = fit(em(max_iter=2, tol=0.0, reg_covar=1e-6), passes, given)
    oracle = get_kernel("reference")
    truth = fit(
        em(max_iter=2, tol=0.0, reg_covar=1e-6),
        lambda candidates: oracle.statistics(Rows(rows), candidates),
        given,
    )
    np.testing.assert_allclose(result.lower_bounds, truth.lower_bounds, rtol=1e-9)


def test_a_collapse_keeps_the_last_sound_parameters() -> None:
    rows = np.concatenate([np.zeros((50, 2)), blobs()])
    narrow = MixtureParameters.create(
        "full", [0.1, 0.9], [[0.0, 0.0], [0.1, 0.1]], [np.eye(2) * 1e-12, np.eye(2) * 9.0]
    )
    result = fit(em(reg_covar=0.0), Passes(rows), narrow)
    assert result.outcome is Outcome.COLLAPSED
    assert result.error is not None
    assert "component 0" in str(result.error)
    assert np.all(np.isfinite(result.parameters.precisions_cholesky))
    assert np.isfinite(result.lower_bound)


@pytest.mark.parametrize("covariance_type", FAMILIES)
@pytest.mark.parametrize(
    "rows",
    [
        np.repeat([[1.0, 2.0], [3.0, -1.0]], 20, axis=0),
        np.column_stack([np.random.default_rng(0).normal(size=60), np.full(60, 1e8)]),
        np.repeat(np.random.default_rng(1).normal(size=(3, 2)), 30, axis=0),
    ],
    ids=["two distinct rows", "constant column of 1e8", "three distinct rows"],
)
def test_covariances_stay_positive_definite(
    rows: NDArray[np.float64], covariance_type: str
) -> None:
    """At every step, with five components on data that have fewer places for them."""
    k, d = 5, 2
    rng = np.random.default_rng(3)
    identity = {
        "full": np.stack([np.eye(d)] * k),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }[covariance_type]
    means = rows[rng.choice(len(rows), k)] + rng.normal(size=(k, d))
    begin = MixtureParameters.create(covariance_type, np.full(k, 1 / k), means, identity)
    fitting, passes = em(covariance_type, tol=0.0, max_iter=40), Passes(rows)
    state = fitting.begin((begin,))
    while state.outcome is None:
        state = fitting.judge(state, passes(fitting.propose(state)))
        parameters = state.parameters
        dense = parameters.family.form.dense(parameters.covariances, k, d)
        assert np.all(np.linalg.eigvalsh(dense) > 0.0)
    assert state.outcome is Outcome.MAX_ITER


def result(bound: float, outcome: Outcome = Outcome.CONVERGED) -> FitResult:
    return FitResult(start(blobs()), (bound,), bound, 1, outcome)


def test_the_best_result_is_the_first_of_the_strictly_largest() -> None:
    results = [result(-2.0), result(-1.0), result(-1.0)]
    assert best_result(results) is results[1]


def test_a_collapsed_restart_wins_only_when_all_collapsed() -> None:
    sound, collapsed = result(-5.0), result(99.0, Outcome.COLLAPSED)
    assert best_result([collapsed, sound]) is sound
    assert best_result([collapsed]) is collapsed


def turns_of(passes: Passes, spent: int) -> list[tuple[PlainState, ...]]:
    """Two restarts, one of which ends early, and what is told after each turn."""
    told: list[tuple[PlainState, ...]] = []
    fittings = [em(max_iter=3), em(tol=0.0, max_iter=100)]

    def refuse(candidates: Sequence[Candidate]) -> Outcome | None:
        assert len(candidates) == (2 if len(passes.candidates) < 3 else 1)
        return Outcome.MAX_BYTES if len(passes.candidates) == spent else None

    begun = [fitting.begin((start(passes.rows),)) for fitting in fittings]
    ends = run(fittings, begun, passes, refuse, told.append)
    assert ends == (told[-1] if told else ends)
    assert ends[1].outcome is Outcome.MAX_BYTES
    return told


def test_each_turn_is_told_once_and_the_last_one_says_which_budget_is_spent() -> None:
    told = turns_of(Passes(blobs()), 5)
    assert [len(states[1].bounds) for states in told] == [1, 2, 3, 4, 5]
    assert [states[0].outcome for states in told] == [None, None] + [Outcome.MAX_ITER] * 3
    assert [states[1].outcome for states in told] == [None] * 4 + [Outcome.MAX_BYTES]
    assert told[2][0] is told[4][0], "who has ended is left alone"
    assert turns_of(Passes(blobs()), 0) == []


def test_states_are_values_that_no_turn_changes() -> None:
    told = turns_of(Passes(blobs()), 5)
    assert [state.bounds for state, _ in told[:2]] == [told[4][0].bounds[:n] for n in (1, 2)]
    fitting, passes = em(tol=0.0, max_iter=100), Passes(blobs())
    again = fitting.judge(told[1][1], passes(fitting.propose(told[1][1])))
    assert again.parameters == told[2][1].parameters
    assert again.bounds == told[2][1].bounds


def test_a_read_that_cannot_be_paid_for_after_all_ends_all_where_they_were() -> None:
    passes, fitting = Passes(blobs()), em(tol=0.0)

    def evaluate(candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        if len(passes.candidates) == 2:
            raise BudgetSpentError(Outcome.MAX_PASSES)
        return passes(candidates)

    told: list[tuple[PlainState, ...]] = []
    (end,) = run([fitting], [fitting.begin((start(blobs()),))], evaluate, after_turn=told.append)
    assert end.outcome is Outcome.MAX_PASSES
    assert len(told) == len(end.bounds) == 2
    assert fitting.finish(end).parameters is told[-1][0].parameters
