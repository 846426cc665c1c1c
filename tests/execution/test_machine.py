from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil
import pytest
import scipy.linalg  # noqa: F401 - a second BLAS library
import sklearn.cluster  # noqa: F401 - OpenMP
from threadpoolctl import ThreadpoolController, threadpool_limits

from dask_gmm.execution import machine
from dask_gmm.execution.machine import (
    _BlasGuard,
    machine_fingerprint,
    machine_memory,
    single_threaded_blas,
)
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu

pytestmark = pytest.mark.usefixtures("two_blas_threads")


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    libraries = ThreadpoolController().info()
    return {lib["num_threads"] for lib in libraries if lib["user_api"] == "blas"}


def test_one_blas_thread_inside_and_the_old_number_outside() -> None:
    before = blas_threads()
    with single_threaded_blas():
        assert blas_threads() == {1}
        with single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == before


def test_the_guard_lasts_until_the_last_thread_leaves() -> None:
    before = blas_threads()
    entered = threading.Barrier(3)
    leave = [threading.Event(), threading.Event()]

    def hold(i: int) -> None:
        with single_threaded_blas():
            entered.wait(10)
            leave[i].wait(10)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(hold, 0), pool.submit(hold, 1)
        entered.wait(10)
        leave[0].set()
        first.result(10)
        assert blas_threads() == {1}, "the first one out must not lift the limit"
        leave[1].set()
        second.result(10)
    assert blas_threads() == before


def openmp_threads() -> set[int]:
    libraries = ThreadpoolController().info()
    return {lib["num_threads"] for lib in libraries if lib["user_api"] == "openmp"}


def test_openmp_has_one_thread_in_each_that_is_inside() -> None:
    """Also in one that comes while another is inside; its limit is the thread's own."""

    def inside_and_after() -> tuple[set[int], set[int]]:
        with threadpool_limits(limits=2, user_api="openmp"):
            with single_threaded_blas():
                inside = openmp_threads()
            return inside, openmp_threads()

    with ThreadPoolExecutor(1) as pool, single_threaded_blas():
        assert openmp_threads() == {1}
        assert pool.submit(inside_and_after).result() == ({1}, {2})


def test_a_library_that_comes_while_somebody_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        user_api, internal_api, filepath = "blas", "some", "/nowhere/libsome.so"
        threads = 7

        def get_num_threads(self) -> int:
            return self.threads

        def set_num_threads(self, n: int) -> None:
            self.threads = n

    late, guard = Library(), _BlasGuard()

    class Controller:
        lib_controllers: ClassVar[list[Library]] = []

    monkeypatch.setattr(machine, "ThreadpoolController", Controller)
    first = guard.enter()
    monkeypatch.setattr(Controller, "lib_controllers", [late])
    monkeypatch.setitem(sys.modules, "a_module_that_brings_it", machine)
    second = guard.enter()
    assert late.threads == 1
    guard.leave(second)
    assert late.threads == 1
    guard.leave(first)
    assert late.threads == 7


def test_many_threads_in_and_out() -> None:
    before = blas_threads()

    def often(_: int) -> None:
        for _ in range(20):
            with single_threaded_blas():
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(often, range(8)))
    assert blas_threads() == before


def test_the_guard_is_lifted_after_an_error() -> None:
    before = blas_threads()
    with pytest.raises(RuntimeError), single_threaded_blas():
        raise RuntimeError
    assert blas_threads() == before


def test_the_machines_memory() -> None:
    assert 0 < machine_memory() <= psutil.virtual_memory().total


def test_a_control_groups_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/self/cgroup": "12:memory:/docker/1\n0::/kubepods/pod7\n",
        "/sys/fs/cgroup/memory.max": "max\n",
        "/sys/fs/cgroup/kubepods/pod7/memory.max": "123456789\n",
        "/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "987654321\n",
    }

    def read_text(self: Path) -> str:
        try:
            return files[str(self)]
        except KeyError:
            raise FileNotFoundError(str(self)) from None

    monkeypatch.setattr(Path, "read_text", read_text)
    assert machine_memory() == 123456789


def test_the_fingerprint_names_cpu_blas_and_packages() -> None:
    line = machine_fingerprint()
    assert f"numpy {np.__version__}" in line
    assert this_cpu().name in line, "clouds call several kinds of CPU alike"
    assert "\n" not in line
    assert line == machine_fingerprint()


def test_a_limit_set_elsewhere_does_not_disarm_the_guard() -> None:
    """Threadpoolctl lets only one thread set OpenBLAS's limit; ours must not be shut out."""
    with threadpool_limits(2), ThreadPoolExecutor(1) as pool:

        def inside() -> set[int]:
            with single_threaded_blas():
                return blas_threads()

        assert pool.submit(inside).result(10) == {1}
        assert blas_threads() == {2}
