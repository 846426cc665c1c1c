"""Without `reg_covar` a likelihood has no bound: no sample's singularity may lead a fit."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.fitting.acceleration.climbing import SampleObjective, climb
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome, StepKind
from dask_gmm.fitting.loop import PlainEM
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.acceleration.problems import Passes, overlapping, sample_of
from tests.fitting.runs import fit
from tests.mixture.problems import likelihood

COPIES = 12
MODEL = likelihood("full")


def doomed(start: MixtureParameters, place: np.ndarray) -> MixtureParameters:
    """The same mixture, its first component so narrow about a place that it closes in on it."""
    means, covariances = np.array(start.means), np.array(start.covariances)
    means[0], covariances[0] = place, 0.05 * np.eye(len(place))
    return MixtureParameters.create("full", start.weights, means, covariances)


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, SampleRows, MixtureParameters]:
    """All rows, a sample that has one of them many times, and a start."""
    rows, start = overlapping(41)
    sample = np.vstack([rows[::8], np.tile(rows[0], (COPIES, 1))])
    return rows, SampleRows(Rows(sample)), start


def test_an_end_without_bound_is_no_candidate(
    problem: tuple[np.ndarray, SampleRows, MixtureParameters],
) -> None:
    rows, sample, start = problem
    narrow = doomed(start, rows[0])
    objective = SampleObjective(sample, MODEL)
    beyond, sound = climb(objective, objective(narrow), 1e-7, 200)
    assert not sound
    (best,) = fit_sample(sample, [narrow, start], MODEL)
    assert sample.evaluate(best)[0] < beyond.value, "the end that is left out is the higher one"
    assert best == fit_sample(sample, [start], MODEL)[0]
    both = fit_sample(sample, [narrow, start], MODEL, keep=2)
    assert both == (best, narrow), "as it was given, and after the sound one"


def test_where_no_climb_has_a_bound_the_start_is_left_to_all_rows(
    problem: tuple[np.ndarray, SampleRows, MixtureParameters],
) -> None:
    """Where the copies are in all rows too, both ways end at the same component's collapse."""
    rows, sample, start = problem
    narrow = doomed(start, rows[0])
    assert fit_sample(sample, [narrow], MODEL) == (narrow,)
    rows = np.vstack([rows, np.tile(rows[0], (8 * COPIES, 1))])
    fitting = VarianceReducedEM(1e-6, 200, MStep(MODEL), sample=sample)
    result = fit(fitting, Passes(rows), narrow)
    slow = fit(PlainEM(1e-6, 200, MStep(MODEL)), Passes(rows), narrow)
    assert result.outcome is slow.outcome is Outcome.COLLAPSED
    assert len(result.judgements) <= len(slow.judgements) + 2
    assert "component 0" in str(result.error)


@pytest.mark.slow
def test_a_singularity_of_the_sample_alone_ends_no_fit(
    problem: tuple[np.ndarray, SampleRows, MixtureParameters],
) -> None:
    """All rows have that row once: they converge, no matter where the sample would go."""
    rows, sample, start = problem
    near = MixtureParameters.create(
        "full", start.weights, [rows[0], *start.means[1:]], start.covariances
    )
    fitting = VarianceReducedEM(1e-8, 200, MStep(MODEL), sample=sample)
    result = fit(fitting, Passes(rows), near)
    assert result.outcome is Outcome.CONVERGED
    assert np.all(np.diff(result.lower_bounds) >= -1e-12)
    assert StepKind.ACCEPTED in [j.kind for j in result.judgements]
    honest = VarianceReducedEM(1e-10, 200, MStep(MODEL), sample=sample_of(rows))
    end = fit(honest, Passes(rows), result.parameters)
    assert end.lower_bound - result.lower_bound < 1e-7
