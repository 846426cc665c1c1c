"""Who drops out of a contest, who comes back, and that no winner is lost where the rule holds.

The strategies here are scripts: what each pass finds and what each estimate says is written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.fitting.contest import GAIN_MARGIN, GAINS_COMPARED, Contest, Contestant, Standing
from dask_gmm.fitting.events import Judgement, Outcome, PointFinished
from dask_gmm.fitting.grid_starts import GridPoint, GridStart
from dask_gmm.fitting.loop import FitResult, Fitting, run
from dask_gmm.fitting.state import saved
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from dask_gmm.fitting.events import Event

ROWS = 1000
DIAGONAL = covariance_family("diag")
INF = float("inf")


def mixture(height: float) -> MixtureParameters:
    """One component; its mean says what a pass will find there, in nats per row."""
    return MixtureParameters.create(DIAGONAL, [1.0], [[height]], [[1.0]])


def evaluate(candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
    return tuple(
        SufficientStatistics.create(
            DIAGONAL.form,
            candidate.parameters.means,
            rows=ROWS,
            weight=ROWS,
            log_likelihood=ROWS * float(candidate.parameters.means[0, 0]),
            counts=[ROWS],
            first=[[0.0]],
            second=[[ROWS]],
        )
        for candidate in candidates
    )


Script = Sequence[tuple[float, float] | None]


@saved
@dataclass(frozen=True, eq=False)
class ScriptState:
    """How many steps of a script have been made, and where the last accepted one has led."""

    steps: int = 0
    outcome: Outcome | None = None
    here: MixtureParameters | None = None
    left: float | None = None
    tried: MixtureParameters = field(default_factory=lambda: mixture(0.0))
    judgements: tuple[Judgement, ...] = ()


@dataclass(frozen=True, eq=False)
class Scripted(Fitting[ScriptState]):
    """Goes from height to height, each with an estimate of what remains; None: it was rejected."""

    script: Script
    ends: Outcome = Outcome.CONVERGED

    def begin(
        self, starts: Sequence[MixtureParameters], previous_bound: float = -INF
    ) -> ScriptState:
        return self.ahead(ScriptState())

    def ahead(self, state: ScriptState) -> ScriptState:
        if state.steps == len(self.script):
            return replace(state, outcome=self.ends)
        step = self.script[state.steps]
        return replace(state, tried=mixture(-1e6 if step is None else step[0]))

    def propose(self, state: ScriptState) -> tuple[Candidate, ...]:
        return (Candidate(state.tried),)

    def judge(self, state: ScriptState, statistics: Sequence[SufficientStatistics]) -> ScriptState:
        step = self.script[state.steps]
        state = replace(state, steps=state.steps + 1)
        if step is not None:
            state = replace(state, here=state.tried, left=step[1])
        return self.ahead(state)

    def stop(self, state: ScriptState, outcome: Outcome) -> ScriptState:
        return replace(state, outcome=outcome)

    def accepted(self, before: ScriptState, after: ScriptState) -> int | None:
        return 0 if after.here is before.tried else None

    def expected_gain(self, state: ScriptState) -> float | None:
        return state.left

    def end(self, state: ScriptState) -> MixtureParameters:
        assert state.here is not None
        return state.here

    def finish(self, state: ScriptState) -> FitResult:
        assert state.outcome is not None
        return FitResult(self.end(state), (0.0,), 0.0, 1, state.outcome)


def contest(*strategies: Scripted) -> tuple[tuple[Standing, ...], list[Event]]:
    events: list[Event] = []
    contestants = [Contestant(GridPoint(k, DIAGONAL), s) for k, s in enumerate(strategies, 1)]
    held = Contest(tuple(contestants), "bic", notify=events.append)
    begun = held.begin([[GridStart(mixture(0.0), 0.0, "kmeans")]] * len(strategies))
    (end,) = run([held], [begun], evaluate)
    return end.standings, events


def test_the_larger_of_the_last_two_estimates_counts() -> None:
    low = [(-2.0, 1e-3), (-1.999, 1e-3), (-1.998, 1e-3), (-1.997, 0.0)]
    leader, loser = contest(Scripted([(-1.0, 0.0)] * 2), Scripted(low))[0]
    assert leader.outcome is Outcome.CONVERGED
    assert loser.outcome is Outcome.DROPPED
    assert loser.passes == 1
    assert loser.judged is not None
    finished = Contestant(GridPoint(2, DIAGONAL), Scripted(low)).finish(loser)
    assert finished.parameters is loser.judged.parameters
    assert finished.outcome is Outcome.DROPPED
    hopeful = [(-2.0, 1e-1), *low[1:]]
    assert contest(Scripted([(-1.0, 0.0)] * 2), Scripted(hopeful))[0][1].passes == 3


def test_without_estimates_three_gains_count_and_rejected_steps_are_none() -> None:
    low = [(-2.0 + 1e-4 * i, INF) for i in range(6)]
    found, _ = contest(Scripted([(-1.0, 0.0)] * 2), Scripted(low))
    assert found[1].outcome is Outcome.DROPPED
    assert found[1].passes == 1 + GAINS_COMPARED
    stuck: list[tuple[float, float] | None] = [(-2.0, INF), None, None, None, None, (-0.5, 0.0)]
    found, _ = contest(Scripted([(-1.0, 0.0)] * 2), Scripted(stuck))
    assert found[1].outcome is Outcome.CONVERGED
    assert found[1].judged is not None
    assert found[1].judged.criteria.log_likelihood == pytest.approx(-0.5 * ROWS)


@pytest.mark.parametrize("fall", ["collapses", "is mended"])
def test_who_dropped_out_comes_back_when_the_leader_falls(fall: str) -> None:
    """A component that closes in on a few rows leads by any margin, and then there is nothing."""
    if fall == "collapses":
        leader = Scripted([(-1.0, 0.0), (0.0, 0.0), (9.0, 0.0)], Outcome.COLLAPSED)
    else:
        leader = Scripted([(-1.0, 0.0), (0.0, 0.0), (9.0, 0.0), (-3.0, 0.0)])
    other = Scripted([(-2.0, 1e-3), (-1.999, 1e-3), (-1.998, 1e-3), (-1.9979, 0.0)])
    (_, found), events = contest(leader, other)
    assert found.outcome is Outcome.CONVERGED
    assert found.passes == 4
    outcomes = [e.outcome for e in events if isinstance(e, PointFinished) and e.n_components == 2]
    assert outcomes == [Outcome.DROPPED, Outcome.CONVERGED]


@st.composite
def climbs(draw: st.DrawFn) -> tuple[float, list[tuple[float, float]]]:
    """An end, and a way to it on which what remains is never a hundred times what it seems."""
    end = draw(st.floats(-2.0, -1.0))
    left = draw(st.floats(1e-6, 1.0))
    honest = draw(st.booleans())
    script = []
    for _ in range(draw(st.integers(2, 12))):
        estimate = left * draw(st.floats(1.01 / GAIN_MARGIN, 2.0)) if honest else INF
        script.append((end - left, estimate))
        left *= draw(st.floats(0.05, 0.989))
    return end, [*script, (end, 0.0)]


@given(ways=st.lists(climbs(), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_winner_never_drops_out(ways: list[tuple[float, list[tuple[float, float]]]]) -> None:
    found, _ = contest(*(Scripted(script) for _, script in ways))
    best = int(np.argmax([end for end, _ in ways]))
    assert found[best].outcome is Outcome.CONVERGED
    assert all(c.outcome in (Outcome.CONVERGED, Outcome.DROPPED) for c in found)
