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
from dask_gmm.fitting.search.rare import RareSearch, RareState, looks_for_rare
from dask_gmm.fitting.search.reservoir import Reservoir, Sieved, SievedStatistics
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
) -> RareSearch:
    values = np.ascontiguousarray(rows()[::EVERY])
    sample = SampleRows(Rows(values, complete=True), KERNEL)
    step = MStep(likelihood("full", 1e-6), settings.pop("on_collapse", "stop"))
    max_iter = settings.pop("max_iter", 50)
    led = VarianceReducedEM(tol, max_iter, step, sample=sample)
    return RareSearch(led, sample, (lambda _: None) if events is None else events.append)


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
        assert looks_for_rare(now)
        kinds.append((state.sieve is not None, state.rival is not None))
        (again,) = run([search], now, Reads())
        assert search.finish(again).parameters == expected
    assert kinds[:2] == [(True, False), (False, True)]
    assert not looks_for_rare([end.fit])


def test_a_rival_that_reads_do_not_confirm_is_given_up() -> None:
    search, reads = searching(), Reads()
    state = search.judge(before := search.begin((start(),)), reads(search.propose(before)))
    assert state.rival is not None
    # All rows are as they were, so that a rival which is asked for more is none.
    tall = replace(state, height=state.height + 1.0)
    after = search.judge(tall, reads(search.propose(tall)))
    assert after.rival is None
    plain = search.led.judge(state.fit, reads(search.led.propose(state.fit)))
    assert to_bytes(after.fit) == to_bytes(plain)


def compared(
    search: RareSearch, state: RareState, *, patient: bool = False, **said: Any
) -> tuple[RareState, float]:
    """What comes of a read where the rival is ahead, if the fit says this of itself; how far."""
    found = Reads()(search.propose(state))
    assert state.rival is not None
    n = len(search.led.propose(state.fit))
    fit, rival = search.led.judge(state.fit, found[:n]), search.led.judge(state.rival, found[n:])
    ahead = rival.bounds[-1] - fit.bounds[-1]
    assert ahead > 1e-3
    return search._compare(replace(state, patient=patient), replace(fit, **said), rival), ahead


@cache
def with_rival() -> RareState:
    search = searching()
    begun = search.begin((start(),))
    state = search.judge(begun, Reads()(search.propose(begun)))
    assert state.rival is not None
    return state


@pytest.mark.parametrize("expected", [None, np.inf, 1.0], ids=str)
def test_both_go_on_while_the_fit_may_end_higher(expected: float | None) -> None:
    search = searching()
    after, _ = compared(search, with_rival(), expected_gain=expected, outcome=None)
    assert after.rival is not None
    assert after.outcome is None
    # However many reads that takes; a rival that has ended waits.
    many = replace(after.rival, judgements=after.rival.judgements * 9, outcome=Outcome.CONVERGED)
    waiting = search._compare(after, after.fit, many)
    assert waiting.rival is many
    assert len(search.propose(waiting)) == len(search.led.propose(after.fit))
    later = search.judge(waiting, Reads()(search.propose(waiting)))
    assert later.rival in (None, many)
    ended = search._compare(waiting, replace(after.fit, outcome=Outcome.CONVERGED), many)
    assert ended.rival is None
    assert ended.outcome is Outcome.CONVERGED
    assert ended.fit.accepted is many.accepted


def test_the_fit_goes_on_from_the_rival_when_it_expects_less() -> None:
    events: list[object] = []
    search = searching(events=events)
    after, ahead = compared(search, with_rival(), expected_gain=1e-6, outcome=None)
    assert after.rival is None
    assert after.fit.accepted is not None
    assert after.fit.bounds[-1] == after.fit.accepted.point.value
    (event,) = events
    assert isinstance(event, RareComponentsFound)
    assert event.gain == ahead
    # Isolated rows are in no sample: what the fit expects is worth nothing then.
    waiting, _ = compared(search, with_rival(), patient=True, expected_gain=1e-6, outcome=None)
    assert waiting.rival is not None


@pytest.mark.parametrize("why", [Outcome.MAX_PASSES, Outcome.MAX_ITER])
def test_a_budget_that_is_spent_leaves_the_higher_one(why: Outcome) -> None:
    search = searching()
    both, ahead = compared(search, with_rival(), expected_gain=np.inf, outcome=None)
    assert both.rival is not None
    end = search.stop(both, why)
    result = search.finish(end)
    assert result.outcome is why
    assert result.lower_bound == pytest.approx(both.fit.bounds[-1] + ahead)
    assert result.n_iter == len(result.lower_bounds) == len(both.fit.bounds)
    assert len(result.judgements) == len(both.judgements)
    low = search.stop(replace(both, height=np.inf), why)
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
        tall = replace(state, height=np.inf)
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
    plain = search.led.judge

    def judge(self: Any, fit: Any, statistics: Any) -> Any:
        if fit is state.rival:
            raise CollapsedComponentError("a component has collapsed")
        return plain(fit, statistics)

    monkeypatch.setattr(VarianceReducedEM, "judge", judge)
    after = search.judge(state, reads(search.propose(state)))
    assert after.rival is None
    assert after.outcome is not Outcome.COLLAPSED


def test_a_limit_of_iterations_ends_whoever_goes_on() -> None:
    search, reads = searching(max_iter=2), Reads()
    (end,) = run([search], [search.begin((start(),))], reads)
    assert end.outcome is Outcome.MAX_ITER
    assert len(reads.candidates) == 2
    assert isinstance(end, RareState)


def test_without_components_to_spare_it_is_the_strategy_alone() -> None:
    search, reads = searching(), Reads()
    (end,) = run([search], [search.begin((start("no spare"),))], reads)
    (alone,) = run([search.led], [search.led.begin((start("no spare"),))], Reads())
    assert set(reads.candidates) <= {1, 2}
    assert search.finish(end).parameters == search.led.finish(alone).parameters
