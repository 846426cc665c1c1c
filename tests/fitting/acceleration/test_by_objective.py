"""Models that have only an objective: what accelerates them, what they refuse, where they begin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import dask.array as da
import numpy as np
import pytest

from dask_gmm.data.source import open_source
from dask_gmm.errors import InputError
from dask_gmm.execution import LocalBackend
from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.acceleration.climbing import SampleObjective
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, SampleDrawn, StepKind
from dask_gmm.fitting.fit import FitReport, fit_mixture
from dask_gmm.fitting.grid_starts import GridPoint
from dask_gmm.fitting.loop import PlainEM
from dask_gmm.fitting.selection import SelectionSettings, select_mixture
from dask_gmm.fitting.settings import FitSettings
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.fitting.strategies import choose_acceleration
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.posterior import MaximumAPosteriori
from dask_gmm.mixture.prior import Prior
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import Passes, overlapping
from tests.fitting.runs import fit
from tests.mixture.problems import by_objective, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from dask_gmm.mixture.moments import Moments
    from dask_gmm.mixture.statistics import SufficientStatistics


@dataclass(frozen=True, eq=False)
class Posterior(MaximumAPosteriori):
    """A prior whose fits go by the objective alone; nobody asks for moments."""

    conjugate: ClassVar[bool] = False

    def regulariser(self, statistics: SufficientStatistics) -> Moments:
        raise AssertionError


def posterior(count: float, family: str = "full") -> Posterior:
    prior = Prior(
        concentration=1.0 + count,
        mean=np.zeros(2),
        shrinkage=count,
        degrees_of_freedom=2.0 + count,
        scale=2.0 * count,
    )
    return Posterior(covariance_family(family), 0.0, prior, 3)


def settings_of(model: Any, **given: Any) -> FitSettings:
    asked = {"tol": 1e-6, "max_iter": 400, "init_size": 800, "acceleration": "auto", **given}
    return FitSettings(
        n_components=3,
        model=model,
        n_init=1,
        init_params="kmeans",
        kernel=FASTEST,
        **{"given": GivenParameters(), **asked},
    )


def fitted(model: Any, values: Any, observers: Any = (), **given: Any) -> FitReport:
    return fit_mixture(
        open_source(values),
        LocalBackend(2),
        settings_of(model, **given),
        random_state=np.random.RandomState(0),
        observers=observers,
    )


@pytest.mark.parametrize(
    ("asked", "stored", "in_memory"),
    [("auto", "squarem", None), ("squarem", "squarem", "squarem"), (None, None, None)],
)
def test_what_is_read_is_accelerated(
    asked: str | None, stored: str | None, in_memory: str | None
) -> None:
    rows = np.zeros((1000, 2))
    for values, expected in ((da.from_array(rows, chunks=(100, 2)), stored), (rows, in_memory)):
        source = open_source(values)
        assert choose_acceleration(asked, source, 10, 17, conjugate=False) == expected
    lazy = open_source(da.from_array(rows, chunks=(100, 2)))
    assert choose_acceleration("auto", lazy, 1000, 17, conjugate=False) is None, "few rows"


def test_what_needs_moments_is_refused() -> None:
    values = draw(0, random_mixture(0, "full", 3, 2), 300)
    with pytest.raises(InputError, match="acceleration='variance-reduced' does not go with"):
        fitted(posterior(3.0), values, acceleration="variance-reduced")
    for search in ("thorough", 20):
        with pytest.raises(InputError, match=f"search={search!r} does not go with"):
            fitted(posterior(3.0), values, search=search)
    assert fitted(posterior(3.0), values, search="auto").best.outcome is Outcome.CONVERGED


def test_fits_from_a_store_take_few_reads() -> None:
    """They begin at the best end of five on the sample, and go to the optimum of plain EM."""
    values, model = draw(2, random_mixture(1, "full", 3, 2, spread=1.5), 6000), posterior(40.0)
    lazy, events = da.from_array(values, chunks=(500, 2)), list[Any]()
    report = fitted(model, lazy, [events.append], init_size=2000)
    assert report.acceleration == "squarem"
    assert any(isinstance(event, SampleDrawn) for event in events)
    start = report.best.parameters
    slow = fit(PlainEM(1e-12, 2000, MStep(model)), Passes(values), start)
    assert report.best.lower_bound == pytest.approx(slow.lower_bound, abs=5e-6)
    assert np.all(np.diff(report.best.lower_bounds) >= -1e-13)
    plain = fitted(model, lazy, acceleration=None, init_size=2000)
    assert report.best.lower_bound > plain.best.lower_bound - 1e-4
    assert 3 * len(report.history) < len(plain.history)


def test_a_sample_weighs_as_much_against_a_prior_as_all_rows() -> None:
    values, model = draw(2, random_mixture(1, "full", 3, 2), 8000), posterior(2000.0)
    start = random_mixture(1, "full", 3, 2)
    some = Rows(np.ascontiguousarray(values[::8]))

    def end(rows: Rows) -> Any:
        return fit_sample(SampleRows(rows), [start], model)[0]

    there = fit(PlainEM(1e-10, 2000, MStep(model)), Passes(values), start).parameters
    whole, alone = end(some.weighing(float(len(values)))), end(some)
    assert np.abs(whole.means - there.means).max() < 0.2 * np.abs(alone.means - there.means).max()


@pytest.mark.parametrize("chosen", ["all", "mask", "weights"])
def test_the_sample_stands_for_the_rows_that_take_part(chosen: str) -> None:
    """Against a strong prior: the first read begins where the prior weighs as much as at its end.

    In the sample's own weights, or in those of all rows that the store holds, it does not.
    """
    values, model = draw(2, random_mixture(1, "full", 3, 2), 16_000), posterior(2000.0)
    lazy = da.from_array(values, chunks=(500, 2))
    wanted = np.random.default_rng(0).random(len(values)) < 0.25
    given: dict[str, Any] = {
        "all": {},
        "mask": {"where": da.from_array(wanted, chunks=500)},
        "weights": {"sample_weight": da.from_array(np.full(len(values), 0.5), chunks=500)},
    }[chosen]
    source = open_source(lazy, **given)
    report = fit_mixture(
        source, LocalBackend(2), settings_of(model), random_state=np.random.RandomState(0)
    )
    first, last = report.best.lower_bounds[0], report.best.lower_bound
    assert last - first < 0.01


def test_steps_beside_plain_em() -> None:
    """A fraction of its passes, and never below it at the end."""
    rows, start = overlapping(17, n=3000)
    m_step = MStep(by_objective("full", 1e-6))
    limit = fit(PlainEM(1e-11, 5000, m_step), Passes(rows), start)
    bold = fit(SquaremByObjective(1e-8, 400, m_step), Passes(rows), start)
    assert bold.outcome is Outcome.CONVERGED
    assert bold.lower_bound > limit.lower_bound - 1e-6

    def reads(result: Any) -> int:
        heights = np.array([j.objective for j in result.judgements])
        return int(np.argmax(heights > limit.lower_bound - 1e-6)) + 1

    assert 2 * reads(bold) < reads(limit)


def test_a_failure_costs_one_read_and_then_none() -> None:
    """After it the same read evaluates the M-step too, as long as steps fail."""
    rows, start = overlapping(5, n=1500, spread=1.0)
    fitting = SquaremByObjective(0.0, 60, MStep(by_objective("full", 1e-6)))
    state, evaluate, refused = fitting.begin((start,)), Passes(rows), 0
    while state.outcome is None:
        hedging, candidates = state.memory.hedging, fitting.propose(state)
        bold = state.trial is not None and state.trial.bold
        assert len(candidates) == (2 if bold and hedging else 1)
        after = fitting.judge(state, evaluate(candidates))
        kind = after.judgements[-1].kind
        if bold and kind is not StepKind.ACCEPTED:
            refused += 1
            assert kind is (StepKind.PLAIN if hedging else StepKind.REJECTED)
            assert after.memory.hedging
        state = after
    assert refused > 1, "it has to fail for this test to say anything"


def test_a_sample_whose_component_collapses_gives_its_start() -> None:
    lonely = np.concatenate([np.random.default_rng(0).normal(size=(200, 2)), np.full((9, 2), 7.0)])
    start = random_mixture(1, "full", 2, 2)
    means = np.array([[0.0, 0.0], [7.0, 7.0]])
    broken = type(start).create("full", start.weights, means, start.covariances)
    sample = SampleRows(Rows(lonely))
    assert fit_sample(sample, [broken], by_objective("full")) == (broken,)
    assert SampleObjective(sample, by_objective("full"))(broken).moments is None


@pytest.mark.parametrize("criterion", ["bic", "heldout"])
def test_grids_know_of_the_model(criterion: str) -> None:
    """Samples lead both points, and the winner is the one that plain EM finds."""
    values = draw(2, random_mixture(1, "full", 3, 2, spread=4.0), 3000)
    lazy = open_source(da.from_array(values, chunks=(300, 2)))
    points = tuple(GridPoint(k, covariance_family("full")) for k in (2, 3))
    settings = settings_of(posterior(5.0), tol=1e-5)
    held = 0.2 if criterion == "heldout" else None
    reports = [
        select_mixture(
            lazy,
            LocalBackend(2),
            SelectionSettings(points, criterion, held, replace(settings, acceleration=how)),
            random_state=np.random.RandomState(0),
        )
        for how in ("auto", None)
    ]
    led, plain = reports
    assert {r.acceleration for r in led.results} == {"squarem"}
    for mine, other in zip(led.results, plain.results, strict=True):
        assert mine.best is not None
        assert other.best is not None
        found = mine.best.judged.criteria.log_likelihood / 3000
        assert found > other.best.judged.criteria.log_likelihood / 3000 - 1e-4
    assert led.winner.point == plain.winner.point == points[1]


def test_conjugate_models_keep_what_they_had() -> None:
    rows, start = overlapping(17, n=500)
    (point,) = fit_sample(SampleRows(Rows(rows)), [start], likelihood("full", 1e-6))
    assert SampleObjective(SampleRows(Rows(rows)), likelihood("full", 1e-6))(point).moments
