"""What this process runs on: its BLAS threads, its memory, its fingerprint."""

from __future__ import annotations

import hashlib
import platform
import sys
import threading
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from threadpoolctl import ThreadpoolController

from dask_gmm.interrupts import held

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "available_memory",
    "compiled_for",
    "cpu_model",
    "machine_fingerprint",
    "machine_memory",
    "package_versions",
    "single_threaded_blas",
]


class _BlasGuard:
    """Process-wide limit of one BLAS thread, held while anybody is inside.

    `threadpoolctl.threadpool_limits` does not do here: it restores what *it* found, so the first
    of two overlapping threads to leave would lift the limit of the other; and from version 3.8 on
    only the first thread that sets an OpenBLAS limit can set one at all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._modules = -1
        self._process_wide: list[Any] = []
        self._per_thread: list[Any] = []
        self._shared: list[tuple[Any, int]] = []

    def enter(self) -> list[tuple[Any, int]]:
        """Limit BLAS, and OpenMP in this thread; return what `leave` wants."""
        with self._lock:
            # A look at all loaded libraries takes a millisecond or more, once per unit on a
            # cluster. New ones come with new modules, also while somebody is inside.
            if self._modules != len(sys.modules):
                self._modules = len(sys.modules)
                libraries = ThreadpoolController().lib_controllers
                self._per_thread = [lib for lib in libraries if _is_per_thread(lib)]
                self._process_wide = [lib for lib in libraries if not _is_per_thread(lib)]
            limited = {lib.filepath for lib, _ in self._shared}
            for library in self._process_wide:
                if library.filepath not in limited:
                    self._shared.append((library, library.get_num_threads()))
                    _set_threads(library, 1)
            self._holders += 1
            mine = [(lib, lib.get_num_threads()) for lib in self._per_thread]
        for library, _ in mine:
            _set_threads(library, 1)
        return mine

    def leave(self, mine: list[tuple[Any, int]]) -> None:
        """Undo what `enter` has done for this thread, and if it is the last, for the process."""
        for library, before in mine:
            _set_threads(library, before)
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                for library, before in self._shared:
                    _set_threads(library, before)
                self._shared = []


def _is_per_thread(library: Any) -> bool:
    """Whether the library keeps one limit per calling thread, as OpenMP runtimes do."""
    return library.user_api == "openmp" or getattr(library, "threading_layer", "") == "openmp"


def _set_threads(library: Any, n_threads: int | None) -> None:
    if n_threads is None:  # the library cannot say how many it uses
        return
    # Take the right to set OpenBLAS's process-wide limit from whichever thread has it: the guard's
    # own lock says whose turn it is.
    release = getattr(library, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    library.set_num_threads(n_threads)
    if release is not None:
        release(force=True)


_GUARD = _BlasGuard()


class single_threaded_blas:  # noqa: N801 - reads as the words of a `with`
    """Keep BLAS at one thread in the whole process while any caller is inside, and OpenMP in this.

    A threaded BLAS splits its sums by the number of threads, which changes their last bits, and
    fights the backend's own threads for the cores. So does scikit-learn's k-means, which adds
    float32 rows up by thread of OpenMP; its limit is the calling thread's own. Many threads may
    enter and leave in any order; the last one out restores what the first one found.
    """

    __slots__ = ("_mine",)

    def __init__(self) -> None:
        self._mine: list[tuple[Any, int]] | None = None

    def __enter__(self) -> None:
        try:
            with held():
                self._mine = _GUARD.enter()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._end()
        except KeyboardInterrupt:  # it may have come before they were held
            self._end()
            raise

    def _end(self) -> None:
        with held():
            mine, self._mine = self._mine, None
            if mine is not None:
                _GUARD.leave(mine)


def _cgroup_limits() -> Iterator[int]:
    """Yield the memory limits of this process's control group (v2, then v1), if there are any."""
    candidates = [
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            candidates.append(Path("/sys/fs/cgroup" + path) / "memory.max")
        elif "memory" in controllers.split(","):
            candidates.append(Path("/sys/fs/cgroup/memory" + path) / "memory.limit_in_bytes")
    for file in candidates:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # "max" means that there is no limit
            yield int(text)


def machine_memory() -> int:
    """Return the bytes of memory this process may use: the machine's, or its control group's."""
    return min([int(psutil.virtual_memory().total), *(n for n in _cgroup_limits() if n > 0)])


def available_memory() -> int:
    """Return the bytes of memory that this process may still take without swapping."""
    mine = int(psutil.Process().memory_info().rss)
    return max(0, min(int(psutil.virtual_memory().available), machine_memory() - mine))


def cpu_model() -> str:
    """Return what the system calls this CPU; "" where it has no name for it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()


@cache
def compiled_for() -> str | None:
    """Return what the compiled kernel is compiled for in this process; None without a compiler.

    Clouds call several kinds of CPU by one name, and hide instructions of some. So this is what
    LLVM takes the CPU for, the width of its vectors, and a digest of all that it can do.
    """
    if find_spec("llvmlite") is None:
        return None
    from dask_gmm.mixture.kernels.compiled.compiler import this_cpu

    cpu = this_cpu()
    features = hashlib.blake2b(cpu.features.encode(), digest_size=3).hexdigest()
    return f"{cpu.name}, vectors of {cpu.widths[0]} bits, features {features}"


@cache
def machine_fingerprint() -> str:
    """Return a line naming what the last bits of a result depend on here.

    CPU and the instructions it is compiled for, BLAS libraries with the kernels they chose for
    this CPU, Python and numeric packages. Two processes with the same line compute the same bits
    from the same blocks.
    """
    import numpy as np  # noqa: F401 - loaded first, so that their BLAS libraries are found
    import scipy.linalg  # noqa: F401

    packages = []
    for name in ("dask-gmm", "numpy", "scipy", "llvmlite"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"{name} not installed")
    libraries = sorted(
        f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}".strip()
        for lib in ThreadpoolController().info()
        if lib["user_api"] == "blas"
    )
    return "; ".join(
        [
            f"{platform.machine()} {cpu_model()}",
            *filter(None, [compiled_for()]),
            *libraries,
            f"Python {platform.python_version()}",
            *packages,
        ]
    )


@cache
def package_versions() -> dict[str, str]:
    """Return the versions here of what decides a result's bits and what travels, by name.

    Python's without the last number. A package that is no installed distribution (a checkout on
    the path) does not know its version, and is left out.
    """
    import numpy as np

    found = {"Python": ".".join(platform.python_version_tuple()[:2]), "numpy": np.__version__}
    with suppress(PackageNotFoundError):
        found["dask-gmm"] = version("dask-gmm")
    return found
