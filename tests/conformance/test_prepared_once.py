"""Each thread of a pass prepares its kernel once, whoever runs the pass, and lets go of it after.

Shown by a kernel that exists only in the tests and counts: see `tests.execution.device`.
"""

from __future__ import annotations

import gc
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import zarr

import dask_gmm
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.source import open_source
from dask_gmm.execution import LocalBackend
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.opened import Opened
from dask_gmm.fitting.fit import fit_mixture
from dask_gmm.fitting.holdout import HoldOut, HoldOutJob
from dask_gmm.fitting.passes import LogLikelihoodJob, StatisticsJob
from dask_gmm.fitting.prediction import Labels, SharedRowFunction
from dask_gmm.fitting.settings import FitSettings
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.kernels import Candidate, get_kernel
from tests.execution.device import OPEN, DeviceKernel
from tests.execution.fakes import traces
from tests.mixture.problems import draw, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.mixture.kernels import Kernel

N_BLOCKS = 40
P = random_mixture(0, "full", 3, 4)
X = draw(1, P, 50 * N_BLOCKS)


def fit(source: Any, backend: Backend, kernel: Kernel) -> FitReport:
    """Plain EM of two starts, which share the reads."""
    settings = FitSettings(
        3, likelihood(P.family, 1e-6), 0.0, 4, 2, "random_from_data", 500, kernel, GivenParameters()
    )
    return fit_mixture(source, backend, settings, random_state=np.random.RandomState(0))


def open_here() -> int:
    gc.collect()
    return len(OPEN)


@contextmanager
def no_dropped_replicas(client: Client) -> Iterator[None]:
    """Keep Dask's memory manager from dropping a job from a worker that is idle for a moment."""
    client.amm.stop()
    try:
        yield
    finally:
        client.amm.start()


def check(trail: Path, passes: int, threads: int) -> None:
    """One move for each block of a pass, and no thread has prepared twice for it."""
    found = traces(str(trail))
    assert found["moved"] == passes * N_BLOCKS
    assert passes <= found["prepared"] <= passes * threads


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("threads", "zarr"),
        ("threads", "dask"),
        pytest.param("processes", "zarr", marks=pytest.mark.slow),
        pytest.param("processes", "dask", marks=pytest.mark.slow),
    ],
)
def test_a_fit(kind: str, place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    data: Any = str(tmp_path / "x.zarr")
    zarr.create_array(data, data=X, chunks=(50, 4))
    if kind == "dask":
        data = da.from_array(X, chunks=(50, 4))
    source = open_source(data)
    expected = fit(source, LocalBackend(1), get_kernel("blas"))
    kernel = DeviceKernel(str(tmp_path))
    if place == "threads":
        found = fit(source, LocalBackend(2), kernel)
    else:
        client: Client = request.getfixturevalue("two_processes")
        with no_dropped_replicas(client):
            found = fit(source, ClusterBackend(client), kernel)
    assert found.best.parameters == expected.best.parameters
    passes = len(found.history)
    assert passes > 2
    assert all(record.tasks > 4 for record in found.history)  # many units, few preparations
    check(tmp_path, passes, 2)
    if place == "threads":
        assert open_here() == 0
        return
    until = time.monotonic() + 20.0
    while any(client.run(open_here).values()):  # the scheduler tells the workers that it is over
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_scores_and_rows_held_out(n_threads: int, tmp_path: Path) -> None:
    kernel, (a, b) = DeviceKernel(str(tmp_path)), (Candidate(P), Candidate(P, P.means + 1.0))
    source = open_source(X, block_rows=50)
    with LocalBackend(n_threads).open(source) as passes:
        assert passes.n_threads == n_threads
        for _ in range(3):
            passes.run(LogLikelihoodJob(P, kernel))
        check(tmp_path, 3, n_threads)
        before = traces(str(tmp_path))
        passes.run(HoldOutJob(StatisticsJob((a, b), kernel), HoldOut(0.5, 0), 0))
        after = traces(str(tmp_path))
    # Of each block, the rows trained on once for all, the others for each candidate.
    assert after["moved"] - before["moved"] == 3 * N_BLOCKS
    assert after["prepared"] - before["prepared"] <= 3 * n_threads
    assert open_here() == 0


def test_lazy_predictions_let_go_when_they_are_computed(tmp_path: Path) -> None:
    source, kernel = open_source(X, block_rows=50), DeviceKernel(str(tmp_path))
    lazy = lazy_map(source, SharedRowFunction(Labels(P, kernel)), np.dtype("i8"))
    for times in (1, 2):
        labels = lazy.compute(scheduler="threads", num_workers=2)
        np.testing.assert_array_equal(labels, get_kernel("blas").labels(X, P))
        check(tmp_path, times, 2)
        assert open_here() == 0


def test_what_failed_serves_nobody_else() -> None:
    opened: Opened[list[int]] = Opened(list)
    with opened.one() as first:
        pass
    with opened.one() as again, opened.one() as beside:
        assert again is first
        assert beside is not first
    with pytest.raises(KeyError), opened.one() as failed:
        raise KeyError
    with opened.one() as left, opened.one() as fresh:
        assert failed is not left
        assert failed is not fresh


def test_no_kernel_keeps_anything_for_a_thread() -> None:
    package = Path(dask_gmm.__file__).parent
    kept = [path for path in (package / "mixture").rglob("*.py") if "local" in _names(path)]
    assert kept == []


def _names(path: Path) -> set[str]:
    """What a module takes from `threading`."""
    import ast

    tree = ast.parse(path.read_text())
    of_module = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "threading"
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "threading"
        for alias in node.names
    }
    return of_module | imported
