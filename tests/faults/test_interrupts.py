"""Ctrl-C at any moment of all that takes long: nothing of it stays, and the next one is as ever."""

from __future__ import annotations

import gc
import random
import shutil
import threading
import time
import warnings
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import psutil
import pytest
import zarr

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.interrupts import held
from tests.faults.pressing import (
    PressAfter,
    Steps,
    default_handler,
    descriptors,
    left_behind,
    wait_until_clean,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from distributed import Client

    Road = Callable[[str, Path], bytes]

# A pass that is interrupted may not leave BLAS at one thread, so there have to be more.
pytestmark = pytest.mark.usefixtures("two_blas_threads")

COMMON: dict[str, Any] = {"random_state": 0, "init_size": 60, "cache": "1 MB", "tol": 0.0}


def _bits(model: Any) -> bytes:
    return b"".join(np.asarray(v).tobytes() for v in (model.means_, model.weights_))


def _fit(x: str, checkpoint: str | None = None, **options: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianMixture(3, **{**COMMON, "max_iter": 4, "acceleration": None, **options})
        return _bits(model.fit(x, checkpoint=checkpoint, resume="never"))


def plain(x: str, _folder: Path) -> bytes:
    return _fit(x)


def committed(x: str, folder: Path) -> bytes:
    return _fit(x, str(folder / "checkpoint"))


def accelerated(x: str, _folder: Path) -> bytes:
    return _fit(x, acceleration="squarem", max_iter=5)


def searched(x: str, _folder: Path) -> bytes:
    return _fit(x, acceleration="variance-reduced", init_size=120, search=8, tol=1e-3)


def parallel_start(x: str, _folder: Path) -> bytes:
    return _fit(x, init_params="k-means||", max_iter=1)


def selection(x: str, folder: Path) -> bytes:
    options = {**COMMON, "acceleration": None, "max_iter": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = select_gaussian_mixture(
            x, [1, 2, 3], checkpoint=str(folder / "checkpoint"), resume="never", **options
        )
    return _bits(found.best_model)


@cache
def _model(x: str) -> GaussianMixture:
    with dask.config.set(scheduler="threads"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: GaussianMixture = GaussianMixture(3, **COMMON, max_iter=2).fit(x)
        return model


def labels(x: str, folder: Path) -> bytes:
    _model(x).predict_to(x, str(folder / "labels.zarr"), overwrite=True)
    with held():  # this one call of Zarr is the test's own
        return np.asarray(zarr.open_array(str(folder / "labels.zarr"))[:]).tobytes()


def score(x: str, _folder: Path) -> bytes:
    return _model(x).criteria(x).bic.hex().encode()


def lazy_labels(x: str, _folder: Path) -> bytes:
    lazy: Any = _model(x).predict(x)
    return np.asarray(lazy.compute()).tobytes()


ROADS: list[Road] = [
    plain,
    committed,
    accelerated,
    parallel_start,
    selection,
    labels,
    score,
]
# What is lazy Dask computes itself: on a cluster its own futures live as long as a traceback.
HERE: list[Road] = [*ROADS, lazy_labels]


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=2.0, size=(3, 2))
    rows = centres[rng.integers(0, 3, 240)] + rng.standard_normal((240, 2))
    path = str(tmp_path_factory.mktemp("data") / "x.zarr")
    zarr.create_array(path, data=rows, chunks=(30, 2))
    return path


def _refresh(folder: Path) -> None:
    """Remove outputs that are whole, and the one that the next run would go on with."""
    begun = list(folder.glob(".labels.zarr.*"))
    assert len(begun) <= 1, begun
    for path in (folder / "checkpoint", folder / "labels.zarr", *begun):
        shutil.rmtree(path, ignore_errors=True)


def press_often(
    road: Road,
    x: str,
    folder: Path,
    presses: Iterable[Callable[[], Any]],
    client: Client | None = None,
) -> int:
    """Interrupt a road again and again, and see each time that nothing stays; count successes."""
    whole = road(x, folder)
    _refresh(folder)
    dirt = left_behind(folder, client)
    interrupted = 0
    for press in presses:
        caught: BaseException | None = None
        pressing = press()
        try:
            with pressing:
                assert road(x, folder) == whole
        except KeyboardInterrupt as error:
            caught = error  # and kept, with all that its traceback holds, as a notebook does
        interrupted += caught is not None
        assert (caught is not None) == pressing.pressed, pressing
        _refresh(folder)
        wait_until_clean(dirt, str(pressing))
    assert road(x, folder) == whole
    return interrupted


def between_steps(
    road: Road, x: str, folder: Path, times: int, client: Client | None = None
) -> None:
    """Press between two steps of Python, which may be any."""
    road(x, folder)  # what is imported and compiled at the first time only
    with Steps() as steps:
        road(x, folder)
    times = min(times, steps.count - 1)
    at = random.Random(1).sample(range(1, steps.count), times)
    presses = [partial(Steps, step) for step in sorted(at)]
    assert press_often(road, x, folder, presses, client) > times // 2


# Of each road some moments in every run, so that what breaks all of them is seen at once.
@pytest.mark.parametrize("road", HERE)
def test_between_two_steps(road: Road, x: str, tmp_path: Path) -> None:
    with default_handler(), dask.config.set(scheduler="threads"):
        between_steps(road, x, tmp_path, 5)


@pytest.mark.slow
@pytest.mark.parametrize("road", HERE)
def test_between_any_two_steps(road: Road, x: str, tmp_path: Path) -> None:
    with default_handler(), dask.config.set(scheduler="threads"):
        between_steps(road, x, tmp_path, 150)


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_between_two_steps_on_a_cluster(
    road: Road, x: str, tmp_path: Path, two_processes: Client
) -> None:
    with default_handler(), two_processes.as_current():
        between_steps(road, x, tmp_path, 15, two_processes)


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_at_any_time_on_a_cluster(
    road: Road, x: str, tmp_path: Path, two_processes: Client
) -> None:
    draw = random.Random(2)
    with default_handler(), two_processes.as_current():
        took = []
        for _ in range(3):  # the first imports, and others are at work on this machine
            begun = time.monotonic()
            road(x, tmp_path)
            took.append(time.monotonic() - begun)
        presses = [partial(PressAfter, draw.uniform(0.0, min(took))) for _ in range(15)]
        assert press_often(road, x, tmp_path, presses, two_processes) > 3


@pytest.mark.slow
def test_at_any_time_of_a_search(x: str, tmp_path: Path) -> None:
    """By the clock: of the steps of Python that a search takes there are too many to count."""
    draw = random.Random(4)
    with default_handler(), dask.config.set(scheduler="threads"):
        searched(x, tmp_path)
        begun = time.monotonic()
        searched(x, tmp_path)
        took = time.monotonic() - begun
        presses = [partial(PressAfter, draw.uniform(0.0, took)) for _ in range(15)]
        assert press_often(searched, x, tmp_path, presses) > 7


def _many(x: str, folder: Path, times: int) -> list[tuple[int, int, int]]:
    """Fit often, some of them to be broken off; threads, descriptors and memory now and then."""
    draw = random.Random(3)
    with Steps() as steps:
        whole = committed(x, folder)
    found = []
    for n in range(times):
        if n % 10 == 5:
            with pytest.raises(KeyboardInterrupt), Steps(draw.randrange(1, steps.count // 2)):
                committed(x, folder)
        elif n % 10 == 7:
            with pytest.raises(ZeroDivisionError):
                _fit(x, callbacks=[lambda event: 1 / (getattr(event, "number", 0) - 2)])
        else:
            assert committed(x, folder) == whole
        if n >= times // 3 and n % 10 == 9:
            gc.collect()
            found.append(
                (threading.active_count(), descriptors(), psutil.Process().memory_info().rss)
            )
    return found


def _flat(found: list[tuple[int, int, int]]) -> None:
    threads, files, memory = (np.array(column) for column in zip(*found, strict=True))
    half = len(found) // 2
    assert np.median(threads[half:]) <= np.median(threads[:half])
    # Connections to workers come and go.
    assert np.median(files[half:]) <= np.median(files[:half]) + 2
    assert np.median(memory[half:]) - np.median(memory[:half]) < 15e6


@pytest.mark.slow
def test_300_fits_in_one_process(x: str, tmp_path: Path) -> None:
    with default_handler(), dask.config.set(scheduler="threads"):
        _flat(_many(x, tmp_path, 300))


@pytest.mark.slow
def test_60_fits_on_one_cluster(x: str, tmp_path: Path, two_processes: Client) -> None:
    there: Any = two_processes
    with default_handler(), two_processes.as_current():
        _many(x, tmp_path, 10)
        before = there.run(lambda: psutil.Process().memory_info().rss)
        _flat(_many(x, tmp_path, 60))
        after = there.run(lambda: psutil.Process().memory_info().rss)
    assert max(after[w] - before[w] for w in before) < 40e6
    assert two_processes.futures == {}
