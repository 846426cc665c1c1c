"""What a fit says is left in the end: enough where its guess was not, and it decides nothing.

`python -m tests.benchmarks.bench_calibration` counts how often over many seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.errors import CollapsedComponentError
from dask_gmm.fitting.acceleration.climbing import Point
from dask_gmm.fitting.acceleration.one_sided import rise_of_halves
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.loop import FitResult, PlainEM, run
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.moments import per_row
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.benchmarks.bench_passes import gaussians
from tests.fitting.acceleration.problems import KERNEL, Passes, overlapping, sample_of
from tests.fitting.runs import fit
from tests.mixture.problems import likelihood

if TYPE_CHECKING:
    from dask_gmm.mixture.statistics import SufficientStatistics

MODEL = likelihood("full", 1e-6)
M_STEP = MStep(MODEL)
TOL, K = 1e-3, 6


def crowded(seed: int, tail: float | None) -> tuple[np.ndarray, MixtureParameters]:
    """Six components for three clusters, Gaussian or with the tails of Student's t; mixed rows."""
    rows = gaussians(seed, 8000, 3, 2, 2.0, tail)[0]
    rows = np.random.default_rng(seed).permutation(rows)
    chosen = rows[np.random.default_rng(seed).choice(len(rows), K, replace=False)]
    spread = np.stack([np.cov(rows.T)] * K)
    return rows, MixtureParameters.create("full", np.full(K, 1 / K), chosen, spread)


def led(start: MixtureParameters, rows: np.ndarray) -> tuple[FitResult, float | None]:
    """Where a fit that a sample leads ends, and what it then guesses is left."""
    sample = SampleRows(Rows(rows[:1600].copy()))
    way = VarianceReducedEM(TOL, 100, M_STEP, sample=sample)
    begun = way.begin(fit_sample(sample, [start], MODEL))
    (end,) = run([way], [begun], Passes(rows))
    return way.finish(end), way.expected_gain(end)


def left(result: FitResult, rows: np.ndarray) -> float:
    """What 100 plain passes gain from the end of a fit on: not all, on a plateau."""
    end = fit(PlainEM(0.0, 100, M_STEP), Passes(rows), result.parameters)
    return end.lower_bound - result.lower_bound


# Of these the guesses were .3 to .7 of the tolerance, or none, and EM gained 1.2 to 3.4 times the
# tolerance more.
@pytest.mark.parametrize(
    ("seed", "tail"),
    [
        pytest.param(
            2, 3.0, id="a plateau that the sample's curvature hides", marks=pytest.mark.slow
        ),
        pytest.param(0, None, id="a sample without a maximum", marks=pytest.mark.slow),
        pytest.param(3, None, id="a refuted sample on a plateau", marks=pytest.mark.slow),
        pytest.param(
            0, 3.0, id="gains that decline by a power of the pass", marks=pytest.mark.slow
        ),
    ],
)
def test_enough_is_said_where_the_guess_is_too_small(seed: int, tail: float | None) -> None:
    rows, start = crowded(seed, tail)
    result, guess = led(start, rows)
    assert result.outcome is Outcome.CONVERGED
    assert guess is None or guess < TOL, "by this it stopped"
    assert result.remaining_gain is not None
    assert left(result, rows) <= 2.0 * result.remaining_gain
    assert result.remaining_gain < 0.3, "no more than such a fit gains in all"
    assert result.judgements[-1].remaining_gain == result.remaining_gain


@pytest.mark.parametrize("kind", ["squarem", "plain"])
def test_enough_is_said_by_gains_alone(kind: str) -> None:
    rows, start = crowded(0, 3.0)
    way = Squarem if kind == "squarem" else PlainEM
    result = fit(way(TOL, 500, M_STEP), Passes(rows), start)
    assert result.remaining_gain is not None
    assert TOL < left(result, rows) <= 2.0 * result.remaining_gain
    assert result.judgements[-1].remaining_gain == result.remaining_gain


def test_not_much_more_is_said_where_the_sample_is_right() -> None:
    rows, start = overlapping(17, n=10_000, spread=2.0)
    way = VarianceReducedEM(TOL, 100, M_STEP, sample=sample_of(rows, 2500))
    result = fit(way, Passes(rows), start)
    truth = left(result, rows)
    assert result.remaining_gain is not None
    assert result.remaining_gain < TOL
    assert 0.5 * truth <= result.remaining_gain <= 3.0 * truth


def test_what_is_said_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same passes, judged alike, whatever is said in the end."""
    rows, start = overlapping(17, n=4000)

    def fitted() -> FitResult:
        way = VarianceReducedEM(1e-5, 100, M_STEP, sample=sample_of(rows, 1000))
        return fit(way, Passes(rows), start)

    as_it_is = fitted()
    monkeypatch.setattr(VarianceReducedEM, "at_most", lambda *_: 1e9)
    other = fitted()
    assert other.lower_bounds == as_it_is.lower_bounds
    assert other.outcome is as_it_is.outcome
    assert other.judgements[:-1] == as_it_is.judgements[:-1]
    assert np.array_equal(other.parameters.means, as_it_is.parameters.means)
    assert other.remaining_gain == 1e9


def test_it_is_found_once_and_not_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(
        VarianceReducedEM, "at_most", lambda _self, _at, heights: calls.append(len(heights))
    )
    rows, start = overlapping(17, n=4000)
    way = VarianceReducedEM(1e-5, 100, M_STEP, sample=sample_of(rows, 1000))
    result = fit(way, Passes(rows), start)
    assert calls == [result.n_iter]


class _MendsOnce(MStep):
    """As if the first pass had left a component without rows."""

    def __call__(
        self,
        statistics: SufficientStatistics,
        at: MixtureParameters | None = None,
        mended: tuple[str, ...] = (),
    ) -> tuple[MixtureParameters, tuple[str, ...]]:
        """Do the M-step, and note a mend."""
        found, notes = super().__call__(statistics, at, mended)
        return found, notes or ("a component was mended",)


def test_gains_before_a_mend_tell_nothing() -> None:
    """What a component taken out or put elsewhere has changed was no gain of EM."""
    rows, start = overlapping(17, n=1000)

    def said(passes: int) -> float | None:
        way = PlainEM(0.0, passes, _MendsOnce(MODEL))
        return fit(way, Passes(rows), start).remaining_gain

    assert said(2) is None
    assert said(3) is not None


def test_a_collapsed_fit_says_nothing() -> None:
    """The likelihood has no bound there."""
    rows = np.concatenate([np.zeros((50, 3)), overlapping(22)[0][:500]])
    narrow = MixtureParameters.create(
        "full", [0.1, 0.9], [[0.0] * 3, [0.1] * 3], [np.eye(3) * 1e-12, np.eye(3) * 9.0]
    )
    m_step, sample = MStep(likelihood("full")), SampleRows(Rows(rows[::2].copy()))
    for way in (
        PlainEM(0.0, 50, m_step),
        Squarem(0.0, 50, m_step),
        VarianceReducedEM(0.0, 50, m_step, sample=sample),
    ):
        result = fit(way, Passes(rows), narrow)
        assert isinstance(result.error, CollapsedComponentError)
        assert result.remaining_gain is None


def test_of_the_optimum_of_all_rows_next_to_nothing_is_said() -> None:
    """Whatever the sample's own optimum is: its gradient is that of all rows."""
    rows, start = overlapping(18, n=4000)
    there = fit(PlainEM(0.0, 600, M_STEP), Passes(rows), start)
    (found,) = KERNEL.statistics(Rows(rows), (Candidate(there.parameters),))
    moments = per_row(found)
    regular = moments + MODEL.regulariser(found)
    at = Point.of(there.parameters, found.mean_log_likelihood, regular)
    assert rise_of_halves(sample_of(rows, 1000), at, there.n_iter) < 1e-8
