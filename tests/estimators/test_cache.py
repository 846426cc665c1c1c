"""`cache=`: within one fit only, and gone with it, however it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.errors import InputError, MemoryPlanError
from dask_gmm.execution.pinned import pinned_bytes
from dask_gmm.fitting.events import PassFinished, PassStarted
from tests.marks import quick_ones

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS, BLOCKS = 200, 12


def write(path: Path, seed: int) -> str:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(ROWS * BLOCKS, 3)) + rng.integers(3, size=(ROWS * BLOCKS, 1)) * 5.0
    zarr.create_array(str(path), data=rows, chunks=(ROWS, 3), overwrite=True)
    return str(path)


def mixture(**settings: Any) -> GaussianMixture:
    given = {"max_iter": 4, "tol": 0.0, "init_size": 300, "random_state": 0, **settings}
    return GaussianMixture(3, **given)


def hits(gm: GaussianMixture) -> list[int]:
    return [record.blocks_from_cache for record in gm.history_]


@pytest.mark.parametrize("kernel", ["auto", "blas"])
def test_rows_from_the_cache_are_good_for_every_kernel(tmp_path: Path, kernel: str) -> None:
    path = write(tmp_path / "x.zarr", 0)
    cached, plain = (mixture(kernel=kernel, cache=c).fit(path) for c in ("1 MB", 0))
    assert hits(cached) == [0, BLOCKS, BLOCKS, BLOCKS]
    assert hits(plain) == [0, 0, 0, 0]
    assert cached.means_.tobytes() == plain.means_.tobytes()


def test_a_store_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    gm = mixture().fit(write(tmp_path / "x.zarr", 0))
    gm.fit(write(tmp_path / "x.zarr", 1))
    fresh = mixture(cache=0).fit(write(tmp_path / "y.zarr", 1))
    assert gm.means_.tobytes() == fresh.means_.tobytes()


@pytest.mark.parametrize(
    "error", quick_ones([KeyboardInterrupt, ZeroDivisionError], [ZeroDivisionError])
)
def test_a_fit_that_breaks_off_keeps_nothing(
    tmp_path: Path, error: type[BaseException], two_processes: Client
) -> None:
    held: list[int] = []

    def break_off(event: object) -> None:
        if isinstance(event, PassFinished):
            held.append(pinned_bytes())
        if isinstance(event, PassStarted) and event.number == 3:
            raise error

    path = write(tmp_path / "x.zarr", 0)
    with pytest.raises(error):
        mixture(callbacks=[break_off]).fit(path)
    assert held == [ROWS * BLOCKS * 3 * 8] * 2
    assert pinned_bytes() == 0
    with two_processes.as_current(), pytest.raises(error):
        mixture(callbacks=[break_off]).fit(path)
    assert set(two_processes.run(pinned_bytes).values()) == {0}


def test_what_is_in_memory_already_is_not_kept_twice() -> None:
    gm = mixture(cache="1 GB").fit(np.random.default_rng(0).normal(size=(500, 2)))
    assert set(hits(gm)) == {0}


def test_only_passes_that_are_repeated_fill_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", 0)
    held: list[int] = []
    watch = [lambda event: held.append(pinned_bytes())]
    gm = mixture(max_iter=1, callbacks=watch).fit(path)
    gm.score(path)
    gm.predict_to(path, tmp_path / "labels.zarr")
    assert set(held) == {0}


def test_mistakes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zarr", 0)
    with pytest.raises(InputError, match="cache='lots' is no size"):
        mixture(cache="lots").fit(path)
    with pytest.raises(ValueError, match="The 'cache' parameter"):
        mixture(cache=1.5).fit(path)


def test_a_budget_beyond_the_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.zarr", 0)
    monkeypatch.setattr("dask_gmm.execution.local.machine_memory", lambda: 200_000_000)
    monkeypatch.setattr("dask_gmm.execution.plan.PROCESS_BYTES", 199_950_000)
    with pytest.raises(MemoryPlanError, match=r"cache pins 0\.058 MB"):
        mixture(cache="1 GB", kernel="reference").fit(path)
