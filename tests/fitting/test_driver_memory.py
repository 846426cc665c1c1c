"""What is refused covers what is held: sets of K·D² numbers, measured while strategies run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dask_gmm.data.source import NumpySource
from dask_gmm.errors import MemoryPlanError
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting import driver_memory
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.sample_fit import fit_sample
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.driver_memory import check_driver_memory, check_grid_memory
from dask_gmm.fitting.grid_starts import GridPoint
from dask_gmm.fitting.loop import PlainEM
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.fitting.runs import fit
from tests.memory import peak_of
from tests.mixture.problems import by_objective, likelihood

if TYPE_CHECKING:
    from dask_gmm.fitting.loop import FitResult
    from tests.fitting.runs import Evaluate

K, D = 4, 128
FULL = covariance_family("full")
MODEL = likelihood(FULL, 0.1)
SET = 8 * (K * D * D + 2 * K * D)


def fitted(
    kind: str | None, rows: np.ndarray, starts: list[MixtureParameters], passes: Evaluate
) -> FitResult:
    m_step = MStep(MODEL)
    if kind is None:
        return fit(PlainEM(0.0, 8, m_step), passes, starts[0])
    if kind == "squarem":
        return fit(Squarem(0.0, 8, m_step), passes, starts[0])
    sample = SampleRows(Rows(rows[::4].copy()), get_kernel("blas"))
    led = VarianceReducedEM(0.0, 8, m_step, sample=sample)
    return fit(led, passes, *fit_sample(sample, starts, MODEL))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "squarem", "variance-reduced"])
def test_the_count_covers_what_a_fit_holds(kind: str | None) -> None:
    rng = np.random.default_rng(0)
    rows = 0.2 * rng.normal(size=(K, D))[rng.integers(K, size=1600)] + rng.normal(size=(1600, D))
    identity = np.stack([np.eye(D)] * K)
    starts = [
        MixtureParameters.create(
            FULL, np.full(K, 1 / K), rows[rng.integers(1600, size=K)], identity
        )
        for _ in range(5)
    ]
    kernel = get_kernel("blas")
    counted, elsewhere = (
        driver_memory._at_work(kind, plateau=plateau)
        + driver_memory._held(kind, 1, plateau=plateau)
        for plateau in (True, False)
    )
    workspace = kernel.workspace_bytes(D, [K], [FULL.form]) / SET

    def use() -> None:
        fitted(kind, rows, starts, lambda some: kernel.statistics(Rows(rows), some))

    with single_threaded_blas():
        peak = peak_of(use, (counted + workspace) * SET) / SET
    assert peak <= counted + workspace
    assert elsewhere <= 2 * peak  # this fit comes to no plateau


def test_more_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the acceleration that will be chosen holds: five starts are fitted to a sample."""
    source = NumpySource.of(np.zeros((100_000, 8)))
    monkeypatch.setattr(driver_memory, "machine_memory", lambda: 8 * (4 * 64 + 64) * 20)
    check_driver_memory(source, FULL, 4, 1, None, 10_000)
    with pytest.raises(MemoryPlanError, match="covariance_type='diag'"):
        check_driver_memory(source, FULL, 4, 6, None, 10_000)
    check_driver_memory(source, FULL, 4, 1, "auto", 10_000)
    with pytest.raises(MemoryPlanError):
        check_driver_memory(source, FULL, 4, 1, "variance-reduced", 10_000)


def test_a_rival_is_counted_where_one_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only there: not where the fit begins at given values, or nothing is searched."""
    source = NumpySource.of(np.zeros((100_000, 8)))
    kind = "variance-reduced"
    alone = driver_memory._at_work(kind) + driver_memory._held(kind, 1)
    monkeypatch.setattr(driver_memory, "machine_memory", lambda: 8 * (4 * 64 + 64) * alone)
    check = partial(check_driver_memory, source, FULL, 4, 1, kind, 10_000)
    for refused in ({"search": "auto"}, {"search": 5}, {"search": "thorough", "given": True}):
        with pytest.raises(MemoryPlanError):
            check(**refused)
    for allowed in ({}, {"search": "off"}, {"search": 0}, {"search": "auto", "given": True}):
        check(**allowed)
    check_driver_memory(source, FULL, 4, 1, "squarem", 10_000, search=5)


def test_starts_that_climb_a_sample_are_counted_in_a_grid_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five for one point at a time, of a model that has its objective alone."""
    source = NumpySource.of(np.zeros((100_000, 8)))
    points = [GridPoint(k, FULL) for k in (3, 4)]
    kind = dict.fromkeys(points, "squarem")
    held = sum(driver_memory._held("squarem", 1) * k for k in (3, 4))
    alone = (held + 4 * driver_memory._at_work("squarem")) * 8 * (64 + 16)
    monkeypatch.setattr(driver_memory, "machine_memory", lambda: alone)
    check_grid_memory(source, points, 1, kind, likelihood(FULL))
    with pytest.raises(MemoryPlanError, match="2 mixtures of 8 features"):
        check_grid_memory(source, points, 1, kind, by_objective("full", 1e-6))
