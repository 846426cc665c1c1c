"""What runs in each process that takes part: it says what it is, and reads one block.

Coroutines, which a worker runs beside its tasks: what takes time does so in a thread of its own, so
that a worker that is busy or paused answers too, and goes on answering its scheduler.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import socket
import time
from concurrent.futures import wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from dask.system import CPU_COUNT

import dask_gmm
from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.stored_parts import stored_parts
from dask_gmm.data.stores import read_counter
from dask_gmm.data.urls import scheme_of
from dask_gmm.errors import StoreNotFoundError
from dask_gmm.execution.machine import (
    compiled_for,
    cpu_model,
    machine_fingerprint,
    machine_memory,
    single_threaded_blas,
)
from dask_gmm.mixture.kernels import get_kernel

if TYPE_CHECKING:
    from dask_gmm.data.base import Source

__all__ = [
    "BlasLibrary",
    "BlockRead",
    "ProcessReport",
    "process_report",
    "read_one_block",
    "reading",
    "report",
    "wall_clock",
]

_LOOKS = 3  # at something that takes one request


class BlasLibrary(NamedTuple):
    """A BLAS library of a process: how many threads it uses, and how many during a pass."""

    name: str
    threads: int | None
    in_a_pass: int | None


@dataclass(frozen=True)
class ProcessReport:
    """What a process is.

    Attributes
    ----------
    host : str
        Name of its machine.
    cpu : str
        What the compiled kernel and BLAS choose their instructions by.
    fingerprint : str
        What the last bits of a result depend on there; see `machine_fingerprint`.
    kernel : str
        The fastest that is installed.
    code : str
        Digest of the package's own files, as two checkouts may be of one version.
    cores : int
        That it may use.
    blas : tuple of BlasLibrary
    memory : int
        Bytes that it may use: the machine's, or its control group's.
    resident : int
        Bytes that it holds.
    """

    host: str
    cpu: str
    fingerprint: str
    kernel: str
    code: str
    cores: int
    blas: tuple[BlasLibrary, ...]
    memory: int
    resident: int


@dataclass(frozen=True)
class BlockRead:
    """How one block was read.

    Attributes
    ----------
    block : int
    opening : float
        Seconds until the first answer: connections, credentials, and codecs that are imported.
    latency : float
        Seconds of a small request after that, the quickest of some.
    seconds : float
        Of reading the block, decoding included.
    decoding : float or None
        Seconds of these that decoding took, where they can be told apart.
    requests : int
    stored_bytes, decoded_bytes : int
    """

    block: int
    opening: float
    latency: float
    seconds: float
    decoding: float | None
    requests: int
    stored_bytes: int
    decoded_bytes: int

    @property
    def fetching(self) -> float:
        """Seconds that the stored bytes took to come."""
        return max(self.seconds - (self.decoding or 0.0), 1e-9)


async def process_report() -> ProcessReport:
    """Return what this process is, without holding up its event loop."""
    return await asyncio.to_thread(report)


async def reading(source: Source, block: int) -> BlockRead:
    """Read a block, without holding up this process's event loop."""
    return await asyncio.to_thread(read_one_block, source, block)


def wall_clock() -> float:
    """Return the seconds since 1970 by this machine's clock."""
    return time.time()


def report() -> ProcessReport:
    """Return what this process is."""
    return ProcessReport(
        host=socket.gethostname(),
        cpu=_cpu(),
        fingerprint=machine_fingerprint(),
        kernel=get_kernel("auto").name,
        code=_code_digest(),
        cores=CPU_COUNT,
        blas=_blas(),
        memory=machine_memory(),
        resident=int(psutil.Process().memory_info().rss),
    )


def _cpu() -> str:
    """Name the CPU, and what the compiler takes it for."""
    return f"{cpu_model()} ({compiled_for() or platform.machine()})"


def _blas() -> tuple[BlasLibrary, ...]:
    from threadpoolctl import ThreadpoolController

    def threads() -> dict[str, tuple[str, int | None]]:
        return {
            lib["filepath"]: (f"{lib['internal_api']} {lib['version']}", lib["num_threads"])
            for lib in ThreadpoolController().info()
            if lib["user_api"] == "blas"
        }

    before = threads()
    with single_threaded_blas():
        limited = threads()
    return tuple(
        BlasLibrary(name, found, limited.get(path, (name, found))[1])
        for path, (name, found) in before.items()
    )


@cache
def _code_digest() -> str:
    folder = Path(dask_gmm.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read_one_block(source: Source, block: int) -> BlockRead:
    """Read a block of a source in this process.

    Raises
    ------
    StoreError
        There is nothing here by the source's paths, or what is there cannot be read.
    """
    _check_paths(source)
    begun = time.perf_counter()
    small = _small_request(source)
    opening = time.perf_counter() - begun
    latency = min(_small_request(source) for _ in range(_LOOKS))
    reference, buffers = source.block(block), ReadBuffers()
    before, begun = read_counter(), time.perf_counter()
    requested = source.request(reference)
    fetched = None
    if requested:
        wait(requested.values())
        fetched = time.perf_counter() - begun
    rows = source.read_into(reference, buffers, requested)
    seconds = time.perf_counter() - begun
    asked, decoded = read_counter() - before, rows.nbytes
    decoding = None if fetched is None else seconds - fetched
    if not requested and _is_local(source):
        # What a disk has just given comes from memory now, and what is left is decoding.
        begun = time.perf_counter()
        source.read_into(reference, buffers.beside())
        decoding = min(time.perf_counter() - begun, seconds)
    return BlockRead(
        block, opening, min(latency, small), seconds, decoding, asked.gets, asked.bytes, decoded
    )


def _small_request(source: Source) -> float:
    """Return the seconds that a look at some metadata takes, for each document."""
    parts = stored_parts(source.unscaled)
    begun = time.perf_counter()
    if parts is None:
        source.stored_metadata()
        return time.perf_counter() - begun
    parts[0].own_metadata()
    documents = 2 if parts[0].open().metadata.zarr_format == 2 else 1
    return (time.perf_counter() - begun) / documents


def _is_local(source: Source) -> bool:
    parts = stored_parts(source.unscaled)
    return parts is not None and all(scheme_of(part.spec.url) == "file" for part in parts)


def _check_paths(source: Source) -> None:
    """Say that a path leads nowhere here: a reader would take each of its chunks for missing.

    Raises
    ------
    StoreNotFoundError
    """
    parts = stored_parts(source.unscaled)
    paths = [] if parts is None else [part.name for part in parts if _is_a_path(part.spec.url)]
    paths += [] if source.weights is None else [p for p in source.weights.stores if _is_a_path(p)]
    for path in paths:
        # A zip file is a path too, and what is inside of it none.
        outer = next((p for p in (Path(path), *Path(path).parents) if p.is_file()), Path(path))
        if not os.access(outer, os.R_OK):
            raise StoreNotFoundError(
                f"There is no {path} on this machine ({socket.gethostname()}), or this process may "
                f"not read it: every worker must see it under the same path. Put it on a file "
                f"system that all share, or into an object store."
            )


def _is_a_path(url: str) -> bool:
    return scheme_of(url) == "file"
