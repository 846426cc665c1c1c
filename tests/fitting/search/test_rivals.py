"""A fit and its rival: which of the two goes on, by what reads say of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, RareComponentsFound, SampleAdvanced, StepKind
from dask_gmm.fitting.loop import run
from dask_gmm.fitting.search.reservoir import Reservoir, Sieved, SievedStatistics
from dask_gmm.fitting.search.rivals import FitWithRivals, Rival, RivalsState, has_rivals
from dask_gmm.fitting.state import from_bytes, to_bytes
from dask_gmm.rows import Rows
from tests.fitting.search.problems import CENTRES, KERNEL, around, optimum, sample_of
from tests.fitting.search.test_births import EVERY, PLACE, RARE, cloud, rows_with, spare
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics


@cache
def rows() -> NDArray[np.float64]:
    return rows_with(cloud(RARE))


class Reads:
    """Reads of all rows, which keep what they are asked to."""

    def __init__(self) -> None:
        self.candidates: list[int] = []

    def __call__(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        self.candidates.append(len(candidates))
        e_step = KERNEL.e_step(candidates)
        first = candidates[0]
        if not isinstance(first, Sieved):
            return e_step.statistics(Rows(rows()))
        found, densities = e_step.with_log_densities(Rows(rows()))
        kept = Reservoir.of(Rows(rows()), densities, 0, first.sieve)
        return (SievedStatistics.carrying(found[0], reservoir=kept), *found[1:])


def searching(
    tol: float = 1e-5, *, events: list[object] | None = None, **settings: Any
) -> FitWithRivals:
    values = np.ascontiguousarray(rows()[::EVERY])
    sample = SampleRows(Rows(values, complete=True), KERNEL)
    step = MStep(likelihood("full", 1e-6), settings.pop("on_collapse", "stop"))
    max_iter = settings.pop("max_iter", 50)
    led = VarianceReducedEM(tol, max_iter, step, sample=sample)
    return FitWithRivals(led, sample, (lambda _: None) if events is None else events.append)


@cache
def start(kind: str = "spare") -> Any:
    values = np.ascontiguousarray(rows()[::EVERY])
    begun = spare("full") if kind == "spare" else around(CENTRES[:4], "full")
    return optimum(sample_of(values), begun)[1]


def test_the_rival_shares_reads_and_takes_over() -> None:
    events: list[object] = []
    search, reads = searching(events=events), Reads()
    (end,) = run([search], [search.begin((start(),))], reads)
    result = search.finish(end)
    assert reads.candidates[:2] == [1, 2]
    # Until it is known that the fit ends below it.
    shared = [n > 1 for n in reads.candidates[1:]]
    assert shared == sorted(shared, reverse=True)
    assert result.judgements[sum(shared)].objective in result.lower_bounds
    assert [type(event) for event in events] == [SampleAdvanced, RareComponentsFound]
    assert np.linalg.norm(result.parameters.means - PLACE, axis=1).min() < 0.5
    assert len(result.judgements) == len(reads.candidates)
    assert list(result.lower_bounds) == sorted(result.lower_bounds)
    assert result.n_iter == len(result.lower_bounds)
    assert result.outcome is Outcome.CONVERGED


def test_states_travel_while_there_is_a_rival() -> None:
    search = searching()
    turns: list[bytes] = []
    states = (search.begin((start(),)),)
    (end,) = run([search], states, Reads(), at_rest=lambda now: turns.append(to_bytes(now)))
    expected = search.finish(end).parameters
    kinds = []
    for turn in turns[:3]:
        (state,) = now = from_bytes(turn)
        assert has_rivals(now)
        kinds.append((state.sieve is not None, bool(state.rivals)))
        (again,) = run([search], now, Reads())
        assert search.finish(again).parameters == expected
    assert kinds[:2] == [(True, False), (False, True)]
    assert not has_rivals([end.fit])


def test_a_rival_that_reads_do_not_confirm_is_given_up() -> None:
    search, reads = searching(), Reads()
    state = search.judge(before := search.begin((start(),)), reads(search.propose(before)))
    assert state.rivals
    # All rows are as they were, so that a rival which is asked for more is none.
    tall = _asked_for_more(state)
    after = search.judge(tall, reads(search.propose(tall)))
    assert not after.rivals
    plain = search.led.judge(state.fit, reads(search.led.propose(state.fit)))
    assert to_bytes(after.fit) == to_bytes(plain)


def _asked_for_more(state: RivalsState) -> RivalsState:
    (rival,) = state.rivals
    return replace(state, rivals=(replace(rival, height=rival.height + 1.0),))


def compared(
    search: FitWithRivals, state: RivalsState, *, patient: bool = False, **said: Any
) -> tuple[RivalsState, float]:
    """What comes of a read where the rival is ahead, if the fit says this of itself; how far."""
    found = Reads()(search.propose(state))
    (rival,) = state.rivals
    n = len(search.led.propose(state.fit))
    fit, run = search.led.judge(state.fit, found[:n]), search.led.judge(rival.run, found[n:])
    ahead = run.bounds[-1] - fit.bounds[-1]
    assert ahead > 1e-3
    rival = replace(rival, run=run, patient=patient)
    return search._settled(replace(fit, **said), (rival,)), ahead


@cache
def with_rival() -> RivalsState:
    search = searching()
    begun = search.begin((start(),))
    state = search.judge(begun, Reads()(search.propose(begun)))
    assert state.rivals
    return state


@pytest.mark.parametrize("expected", [None, np.inf, 1.0], ids=str)
def test_both_go_on_while_the_fit_may_end_higher(expected: float | None) -> None:
    search = searching()
    after, _ = compared(search, with_rival(), expected_gain=expected, outcome=None)
    (rival,) = after.rivals
    assert after.outcome is None
    # However many reads that takes; a rival that has ended waits.
    run = replace(rival.run, judgements=rival.run.judgements * 9, outcome=Outcome.CONVERGED)
    many = replace(rival, run=run)
    waiting = search._settled(after.fit, (many,))
    assert waiting.rivals == (many,)
    assert len(search.propose(waiting)) == len(search.led.propose(after.fit))
    later = search.judge(waiting, Reads()(search.propose(waiting)))
    assert later.rivals in ((), (many,))
    ended = search._settled(replace(after.fit, outcome=Outcome.CONVERGED), (many,))
    assert not ended.rivals
    assert ended.outcome is Outcome.CONVERGED
    assert ended.fit.accepted is run.accepted


def test_the_fit_goes_on_from_the_rival_when_it_expects_less() -> None:
    events: list[object] = []
    search = searching(events=events)
    after, ahead = compared(search, with_rival(), expected_gain=1e-6, outcome=None)
    assert not after.rivals
    assert after.fit.accepted is not None
    assert after.fit.bounds[-1] == after.fit.accepted.point.value
    (event,) = events
    assert isinstance(event, RareComponentsFound)
    assert event.gain == ahead
    # Isolated rows are in no sample: what the fit expects is worth nothing then.
    waiting, _ = compared(search, with_rival(), patient=True, expected_gain=1e-6, outcome=None)
    assert waiting.rivals


@pytest.mark.parametrize("why", [Outcome.MAX_PASSES, Outcome.MAX_ITER])
def test_a_budget_that_is_spent_leaves_the_higher_one(why: Outcome) -> None:
    search = searching()
    both, ahead = compared(search, with_rival(), expected_gain=np.inf, outcome=None)
    assert both.rivals
    end = search.stop(both, why)
    result = search.finish(end)
    assert result.outcome is why
    assert result.lower_bound == pytest.approx(both.fit.bounds[-1] + ahead)
    assert result.n_iter == len(result.lower_bounds) == len(both.fit.bounds)
    assert len(result.judgements) == len(both.judgements)
    low = search.stop(_asked_for_more(both), why)
    assert low.fit.accepted is both.fit.accepted


@pytest.mark.parametrize("promised", [True, False])
def test_who_has_converged_goes_on_for_a_rival_that_is_worth_it(promised: bool) -> None:
    """One read more, in which the rival is alone; a fit that ends has nothing to propose."""
    tol = 3e-2 if promised else 10.0
    search, reads = searching(tol), Reads()
    begun = search.begin((start(),))
    state = search.judge(begun, reads(search.propose(begun)))
    assert state.fit.outcome is Outcome.CONVERGED
    assert (state.outcome is None) is promised
    if promised:
        assert len(search.propose(state)) == 1
        tall = _asked_for_more(state)
        lost = search.judge(tall, reads(search.propose(tall)))
        assert lost.outcome is Outcome.CONVERGED
        assert [j.kind for j in lost.judgements] == [StepKind.START, StepKind.REJECTED]
        assert search.finish(lost).parameters == search.finish(state).parameters
        won = search.judge(state, reads(search.propose(state)))
        assert search.accepted(state, won) == 0
        assert search.stop(state, Outcome.MAX_PASSES).outcome is Outcome.CONVERGED


def test_what_fails_a_fit_fails_a_rival_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    search, reads = searching(on_collapse="raise"), Reads()
    begun = search.begin((start(),))
    state = search.judge(begun, reads(search.propose(begun)))
    (rival,), plain = state.rivals, search.led.judge

    def judge(self: Any, fit: Any, statistics: Any) -> Any:
        if fit is rival.run:
            raise CollapsedComponentError("a component has collapsed")
        return plain(fit, statistics)

    monkeypatch.setattr(VarianceReducedEM, "judge", judge)
    after = search.judge(state, reads(search.propose(state)))
    assert not after.rivals
    assert after.outcome is not Outcome.COLLAPSED


def test_a_limit_of_iterations_ends_whoever_goes_on() -> None:
    search, reads = searching(max_iter=2), Reads()
    (end,) = run([search], [search.begin((start(),))], reads)
    assert end.outcome is Outcome.MAX_ITER
    assert len(reads.candidates) == 2
    assert isinstance(end, RivalsState)


def test_without_components_to_spare_it_is_the_strategy_alone() -> None:
    search, reads = searching(), Reads()
    (end,) = run([search], [search.begin((start("no spare"),))], reads)
    (alone,) = run([search.led], [search.led.begin((start("no spare"),))], Reads())
    assert set(reads.candidates) <= {1, 2}
    assert search.finish(end).parameters == search.led.finish(alone).parameters


@cache
def contestants() -> tuple[Any, Any]:
    """Two starts: one that stands at its end, and one below it that climbs above it."""
    poor = np.vstack([CENTRES[:2], CENTRES[3] - 0.5, CENTRES[3] + 0.5])
    values = np.ascontiguousarray(rows()[::EVERY])
    low = optimum(sample_of(values), around(poor, "full"))[1]
    away = around(CENTRES[:4] + 0.7, "full")
    return low, replace(away, precisions_cholesky=away.precisions_cholesky / 1.5)


def first_read(search: FitWithRivals, *starts: Any) -> RivalsState:
    begun = replace(search.begin(starts), sieve=None)
    return search.judge(begun, Reads()(search.propose(begun)))


def test_a_runner_up_of_the_first_read_ends_above_who_began_higher() -> None:
    events: list[object] = []
    search, (low, climber) = searching(events=events), contestants()
    (alone,) = run([search.led], [search.led.begin((climber,))], Reads())
    state = first_read(search, climber, low)
    assert state.fit.starts == (low,)
    (rival,) = state.rivals
    assert _ahead_of(state.fit, rival) < -0.05
    (end,) = run([search], [state], Reads())
    result = search.finish(end)
    assert result.parameters == search.led.finish(alone).parameters
    assert list(result.lower_bounds) == sorted(result.lower_bounds)
    assert not any(isinstance(event, RareComponentsFound) for event in events)


def _ahead_of(fit: Any, rival: Rival) -> float:
    return float(rival.run.bounds[-1] - fit.bounds[-1])


def test_who_cannot_come_ahead_by_tol_takes_no_part() -> None:
    """The same bits as without it, as soon as it expects too little."""
    search, (low, climber) = searching(), contestants()
    (better,) = run([search.led], [search.led.begin((climber,))], Reads())
    high = search.led.finish(better).parameters
    state = first_read(search, low, high)
    assert state.fit.starts == (high,)
    assert not state.rivals
    easy = first_read(searching(tol=10.0), climber, low)
    assert not easy.rivals


@pytest.mark.parametrize("fit_expects", [None, 0.0, 0.01, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("rival_expects", [None, 0.0, 0.01, 0.02, 0.1, 1.0])
def test_a_runner_up_stays_while_it_may_come_ahead(
    fit_expects: float | None, rival_expects: float | None
) -> None:
    search, (low, climber) = searching(), contestants()
    state = first_read(search, climber, low)
    (rival,) = state.rivals
    behind = -_ahead_of(state.fit, rival)
    fit = replace(state.fit, expected_gain=fit_expects, outcome=None)
    # As if it were a hundredth behind.
    assert fit.accepted is not None
    assert rival.run.accepted is not None
    point = replace(rival.run.accepted.point, value=fit.accepted.point.value - 0.01)
    run_ = replace(
        rival.run,
        accepted=replace(rival.run.accepted, point=point),
        expected_gain=rival_expects,
        outcome=None,
    )
    assert behind > 0.05
    after = search._settled(fit, (replace(rival, run=run_),))
    if rival_expects is None:
        stays = True
    else:
        much, other = rival_expects, fit_expects or 0.0
        stays = min(much, much - other + 0.5 * max(much, other)) > 0.01 + search.led.tol
    assert bool(after.rivals) is stays
    # Who is behind where the fit cannot go on is behind for good.
    spent = search._settled(replace(fit, outcome=Outcome.MAX_ITER), (replace(rival, run=run_),))
    assert not spent.rivals


def test_states_travel_while_there_are_runners_up() -> None:
    search, (low, climber) = searching(), contestants()
    state = first_read(search, climber, low)
    again = from_bytes(to_bytes((state,)))
    assert has_rivals(again)
    ends = [search.finish(run([search], [s], Reads())[0]).parameters for s in (state, again[0])]
    assert ends[0] == ends[1]
