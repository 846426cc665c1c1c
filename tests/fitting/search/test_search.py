"""The search: where it comes to, and what has no say in it."""

from __future__ import annotations

import numpy as np
import pytest

from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.events import SearchAdvanced, SearchFinished
from dask_gmm.fitting.search.ends import SampleSearch
from dask_gmm.fitting.search.ground import Ground
from dask_gmm.fitting.search.growing import grown
from dask_gmm.fitting.search.parts import part_of
from dask_gmm.fitting.search.search import SearchBudget
from dask_gmm.mixture.family import covariance_family
from dask_gmm.rows import Rows
from tests import equal_shape
from tests.fitting.search.problems import (
    CENTRES,
    FEW,
    KERNEL,
    POOR,
    around,
    clusters,
    optimum,
    sample_of,
    searched,
)
from tests.mixture.problems import FAMILIES, likelihood

MORE = [pytest.param(name, marks=pytest.mark.slow) for name in ("EII", "VEE")]
EVERY_FAMILY = [*FAMILIES, equal_shape.EQUAL_SHAPE.name, *MORE]


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_poor_optimum_is_left(family: str) -> None:
    sample = sample_of(clusters())
    poor, start = optimum(sample, around(POOR, family))
    best, _ = optimum(sample, around(CENTRES, family))
    ground, end = searched(sample, start)
    assert best > poor + 0.02
    assert end.accepted >= 1
    assert end.gain > 0.02
    assert optimum(sample, end.parameters)[0] > best - 1e-4
    assert ground.judge(end.parameters) > ground.judge(start)
    nearest = end.parameters.family.nearest(end.parameters.weights, end.parameters.covariances, 2)
    assert np.allclose(nearest, end.parameters.covariances)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_rows_of_any_type(dtype: str) -> None:
    values = (100.0 * clusters()).astype(dtype)
    sample = sample_of(values)
    _, start = optimum(sample, around(100.0 * POOR, "diag"))
    _, end = searched(sample, start)
    assert end.accepted >= 1


def test_rows_count_by_their_weights() -> None:
    """Weights of two for some rows are those rows twice."""
    values = clusters()
    twice = np.arange(len(values)) % 2 == 0
    weighted = sample_of(values, 1.0 + twice)
    _, start = optimum(weighted, around(POOR, "full"))
    _, end = searched(weighted, start)
    assert end.accepted >= 1
    best, _ = optimum(weighted, around(CENTRES, "full"))
    assert optimum(weighted, end.parameters)[0] > best - 1e-4


@pytest.mark.parametrize(
    ("seed", "spread"), [(0, 1.0), pytest.param(1, 3.0, marks=pytest.mark.slow)]
)
def test_rows_that_judge_are_never_explained_worse(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(8, 2))
    values = centres[rng.integers(8, size=1500)] + rng.normal(size=(1500, 2))
    sample = sample_of(values)
    _, start = optimum(sample, around(values[rng.choice(1500, 8, replace=False)], "full"))
    ground = Ground.of(sample, 8, start.family)
    assert ground is not None
    _, settled = searched(sample, start, SearchBudget(0, 0))
    _, end = searched(sample, start)
    assert settled.tried == settled.accepted == 0
    assert end.gain >= 0.0
    assert ground.judge(end.parameters) >= ground.judge(settled.parameters)
    assert bool(end.accepted) == (end.gain > 0.0)


def test_threads_change_no_bit() -> None:
    values = clusters(n=30_000)  # several parts
    _, start = optimum(sample_of(values), around(POOR, "full"))
    ends = [searched(sample_of(values, n_threads=n), start)[1] for n in (1, 3)]
    assert ends[0].accepted >= 1
    assert ends[0] == ends[1]


def test_the_order_of_components_does_not_matter() -> None:
    sample = sample_of(clusters())
    _, start = optimum(sample, around(POOR, "full"))
    turned = part_of(start, [3, 0, 4, 2, 1])
    one, other = (searched(sample, p)[1] for p in (start, turned))
    assert (one.tried, one.accepted) == (other.tried, other.accepted)
    assert one.gain == pytest.approx(other.gain, abs=1e-6)
    means = [p.parameters.means[np.argsort(p.parameters.means[:, 0])] for p in (one, other)]
    assert np.allclose(means[0], means[1], atol=1e-3)


def test_a_budget_is_kept() -> None:
    sample = sample_of(clusters())
    _, start = optimum(sample, around(CENTRES, "full"))
    for moves, patience in ((5, 100), (100, 11)):
        _, end = searched(sample, start, SearchBudget(moves, patience))
        assert end.tried <= min(moves, patience)
        assert not end.accepted


def test_nothing_to_move() -> None:
    values = clusters(n=500)
    for sample in (sample_of(values), sample_of(np.repeat(values[:3], 200, axis=0))):
        start = around(values[:1], "full")
        _, end = searched(sample, start)
        assert end.parameters == start
        assert not end.tried


def test_more_components_than_places() -> None:
    """Three places, five components: whatever collapses on the way is left out."""
    values = np.repeat(CENTRES[:3], 300, axis=0)
    _, end = searched(sample_of(values), around(POOR, "full"))
    assert np.isfinite(end.parameters.means).all()


def test_a_small_sample_says_nothing() -> None:
    family = covariance_family("full")
    assert Ground.of(sample_of(clusters(n=760)), 5, family) is None
    assert Ground.of(sample_of(clusters(n=900)), 5, family) is not None
    weights = np.full(2000, 1e-6)
    weights[::50] = 1e6  # forty rows say everything
    assert Ground.of(sample_of(clusters(), weights), 5, family) is None


def test_rows_that_judge_are_not_fitted() -> None:
    values = np.arange(1000.0).reshape(-1, 1)
    ground = Ground.of(sample_of(values), 2, covariance_family("full"))
    assert ground is not None
    fitted, judging = ground.fitted.rows.values, ground.judging.rows.values
    assert not np.intersect1d(fitted, judging).size
    assert len(fitted) + len(judging) == 1000


@pytest.mark.parametrize("period", [2, 3, 4, 8])
def test_rows_that_come_in_periods_judge_as_others(period: int) -> None:
    values = np.arange(6000) % period
    ground = Ground.of(sample_of(values.reshape(-1, 1)), 2, covariance_family("full"))
    assert ground is not None
    for some in (ground.fitted, ground.judging):
        shares = np.bincount(some.rows.values[:, 0].astype(int), minlength=period) / len(some)
        assert np.allclose(shares, 1 / period, atol=0.05)


def test_rows_that_come_later_change_no_judge() -> None:
    family, values = covariance_family("full"), np.arange(9000.0).reshape(-1, 1)
    few, many = (Ground.of(sample_of(values[:n]), 2, family) for n in (4000, 9000))
    assert few is not None
    assert many is not None
    assert set(few.judging.rows.values[:, 0]) <= set(many.judging.rows.values[:, 0])
    assert not set(few.judging.rows.values[:, 0]) & set(many.fitted.rows.values[:, 0])


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_more_components_grow_from_fewer(family: str) -> None:
    sample = sample_of(clusters())
    ground = Ground.of(sample, 5, covariance_family(family))
    assert ground is not None
    _, start = optimum(sample, around(CENTRES[[0, 1, 4]], family))
    larger = grown(ground, start, 5, likelihood(family))
    assert larger is not None
    assert larger.n_components == 5
    best, _ = optimum(sample, around(CENTRES, family))
    assert optimum(sample, larger)[0] > best - 1e-3


def test_what_is_found_is_told_and_fitted_to_all_rows() -> None:
    values = clusters()
    gappy = values.copy()
    gappy[::3, 1] = np.nan
    complete = Rows(values[np.isfinite(gappy).all(axis=1)], complete=True)
    sample = SampleRows(Rows(values), KERNEL)
    _, start = optimum(sample, around(POOR, "full"))
    _, best = optimum(sample, around(CENTRES, "full"))
    events: list[object] = []
    model = likelihood("full")
    (found,) = SampleSearch(complete, FEW, events.append).better_than(sample, [start], model)
    assert optimum(sample, found)[0] == pytest.approx(sample.evaluate(found)[0], abs=1e-5)
    assert isinstance(events[-1], SearchFinished)
    assert any(isinstance(event, SearchAdvanced) for event in events)
    assert events[-1].accepted >= 1
    events.clear()
    search = SampleSearch(complete, SearchBudget(64, 16, turns=2), events.append)
    # Nothing lies higher than the best end, whatever others there are.
    assert search.better_than(sample, [best, start], model) == ()
    assert isinstance(events[-1], SearchFinished)
    assert (events[-1].accepted, events[-1].gain) == (0, 0.0)
