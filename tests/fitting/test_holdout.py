"""Rows held out: which they are, and what the same read says about them and about the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm.data.source import NumpySource
from dask_gmm.errors import NonFiniteError
from dask_gmm.execution import LocalBackend
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.grid_sample import draw_grid_sample
from dask_gmm.fitting.grid_starts import GridPoint
from dask_gmm.fitting.holdout import (
    HoldOut,
    HoldOutEvaluator,
    ScoredStatistics,
    TrainingRowsJob,
)
from dask_gmm.fitting.sampling import draw_sample
from dask_gmm.fitting.settings import FitSettings
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.kernels import FASTEST, Candidate, get_kernel
from dask_gmm.rows import Rows
from tests.mixture.problems import draw, likelihood, random_mixture

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = random_mixture(0, "full", 3, 2)
SPLIT = HoldOut(0.2, 7)


def source(rows: NDArray[np.float64]) -> NumpySource:
    return NumpySource.of(rows, block_rows=250)


def masks(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    s = source(rows)
    blocks = [s.block(i) for i in range(s.n_blocks)]
    return np.concatenate([SPLIT.mask(b, b.rows or 0) for b in blocks])


@pytest.mark.parametrize("unit_level", [0, 1, 4])
def test_the_two_parts_are_the_rows(unit_level: int) -> None:
    """Trained on and scored rows are disjoint, and together all: whatever the units."""
    rows = draw(0, P, 2900)
    held = masks(rows)
    assert 0.17 < held.mean() < 0.23
    with LocalBackend(2).open(source(rows)) as passes:
        passes._plan = replace(passes._plan, unit_level=unit_level)
        evaluator = HoldOutEvaluator(passes, held_out=SPLIT)
        (found,) = evaluator.evaluate([Candidate(P)])
    assert isinstance(found, ScoredStatistics)
    assert found.rows == int((~held).sum())
    assert found.held_out.rows == int(held.sum())
    kernel = get_kernel("reference")
    (alone,) = kernel.statistics(Rows(rows[~held]), [Candidate(P)])
    np.testing.assert_allclose(found.second, alone.second, rtol=1e-9, atol=1e-9)
    assert found.log_likelihood == pytest.approx(alone.log_likelihood, rel=1e-10)
    score = float(kernel.log_densities(rows[held], P).sum())
    assert found.held_out.total == pytest.approx(score, rel=1e-10)
    assert evaluator.history[0].rows == len(rows)


@given(seed=st.integers(0, 2**31 - 1), fraction=st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_the_part_is_as_large_as_asked(seed: int, fraction: float) -> None:
    block = source(np.zeros((250, 2))).block(0)
    held = HoldOut(fraction, seed).mask(block, 20_000)
    assert abs(held.mean() - fraction) < 0.02
    np.testing.assert_array_equal(held, HoldOut(fraction, seed).mask(block, 20_000))


@pytest.mark.parametrize("wanted", [True, False])
def test_a_bad_row_is_named_by_its_place_in_the_data(wanted: bool) -> None:
    """Whichever part it falls into."""
    rows = draw(1, P, 500)
    row = int(np.flatnonzero(masks(rows) == wanted)[-1])
    rows[row, 1] = np.nan
    with (
        LocalBackend(1).open(source(rows)) as passes,
        pytest.raises(NonFiniteError, match=rf"row {row} of NumPy array"),
    ):
        HoldOutEvaluator(passes, held_out=SPLIT).evaluate([Candidate(P)])


@pytest.mark.parametrize("init_size", [300, 5000])
def test_what_leads_a_grid_has_seen_no_held_out_row(init_size: int) -> None:
    """Part of the rows or all: the sample of accelerated strategies has only rows trained on."""
    rows = draw(3, P, 2000)
    points = [GridPoint(2, P.family)]
    fit = FitSettings(
        2, likelihood(P.family, 1e-6), 1e-3, 9, 1, "kmeans", init_size, FASTEST, GivenParameters()
    )
    fit = replace(fit, acceleration="variance-reduced")
    random_state, backend = np.random.RandomState(0), LocalBackend(1)
    sample = draw_grid_sample(
        source(rows), backend, points, fit, random_state, SPLIT, lambda event: None
    )
    with backend.open(source(rows)) as passes:
        ((_, strategy, _),) = sample.begin(passes, random_state, lambda event: None)
    assert isinstance(strategy, VarianceReducedEM)
    seen = {row.tobytes() for row in strategy.sample.rows.values}
    held = masks(rows)
    assert seen <= {row.tobytes() for row in rows[~held]}
    assert len(seen) == ((~held).sum() if init_size > 2000 else len(strategy.sample))


def test_a_sample_for_the_start_holds_no_held_out_row() -> None:
    rows = draw(2, P, 1000)
    with LocalBackend(1).open(source(rows)) as passes:
        sample, _ = draw_sample(passes, 10_000, 0, lambda job: TrainingRowsJob(job, SPLIT, 4000))
    np.testing.assert_array_equal(sample.rows.values, rows[~masks(rows)])
