"""What a pass costs beside reading and computing, and what pinned blocks spare.

Run from the repository's root:

    python -m tests.benchmarks.bench_overhead            # tables
    python -m tests.benchmarks.bench_overhead --json     # the same as JSON, for records
    python -m tests.benchmarks.bench_overhead --full     # 20,000 small blocks, 1,000 passes
    python -m tests.benchmarks.bench_overhead --only empty cache

Sections:

empty   A pass that reads and computes nothing, in 1 to 1,024 units: on two threads of this process,
        and on a local cluster of two single-threaded processes.
small   A pass over blocks of 64 KB, uncompressed, one thread: what of its time is neither reading
        nor computing. Reading alone, and the kernel on the same rows in one call, are timed beside
        it; "kernel calls" is the kernel on one block at a time, so its cost per call shows. Then
        with weights: in memory, and in Zarr in the chunks of the rows and in far larger ones.
cache   Passes 2.. of a fit over a zstd store with room for 0 to 100 % of the decoded blocks: on two
        threads, and on two processes with and without affinity.
memory  Objects that the scheduler remembers, and the size of its process, after many passes. The
        scheduler of a local cluster lives in the driver's process, so the size is of both.

Contestants take turns; shown are the median of the rounds, the least, and their spread (half the
distance between the quartiles).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import psutil
import zarr
from distributed import Client, LocalCluster

from dask_gmm import GaussianMixture
from dask_gmm.data.source import NumpySource, open_source, with_weights
from dask_gmm.execution import LocalBackend, plan_pass, single_threaded_blas
from dask_gmm.execution.cluster import ClusterBackend
from dask_gmm.execution.cluster.affinity import Affinity
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.benchmarks.turns import Spread, timed
from tests.execution.fakes import SumJob, even_fake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask_gmm.execution import Plan

UNITS = (1, 64, 256, 1024)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
FEATURES, COMPONENTS = 4, 4
BLOCK_ROWS = 2048
"""64 KB of four float64 features."""


@dataclass(frozen=True)
class Result:
    """Seconds of one case; what else is known about it in `more`."""

    section: str
    place: str
    case: str
    median: float
    least: float
    spread: float
    more: dict[str, float] = field(default_factory=dict)


def summary(section: str, place: str, case: str, taken: list[float], **more: float) -> Result:
    """Reduce the rounds to a result."""
    return Result(section, place, case, *Spread.of(taken), more)


@contextmanager
def two_processes(memory: str = "auto") -> Iterator[Client]:
    """A local cluster of two processes of one thread."""
    with (
        warnings.catch_warnings(),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            memory_limit=memory,
        ) as cluster,
    ):
        warnings.simplefilter("ignore")
        with Client(cluster) as client:
            yield client


# -- empty passes ------------------------------------------------------------------------------


def empty_passes(backend: Any, place: str, rounds: int) -> Iterator[Result]:
    """Passes over blocks of one row, one block a unit."""
    job = SumJob()
    plans = {n: plan_pass(even_fake(n, plain=True), n_threads=2, unit_level=0) for n in UNITS}
    backend.run(plans[64], job)  # workers import what they need
    backend.run(plans[64], job)

    def turn(plan: Plan) -> float:
        seconds: float = backend.run(plan, job).seconds
        return seconds

    seconds = timed({str(n): partial(turn, plans[n]) for n in UNITS}, rounds)
    for n in UNITS:
        taken = seconds[str(n)]
        yield summary("empty", place, f"{n:,} units", taken, ms_per_unit=1e3 * min(taken) / n)


def empty(rounds: int) -> Iterator[Result]:
    """Both places."""
    yield from empty_passes(LocalBackend(2), "2 threads", 3 * rounds)
    with two_processes() as client:
        yield from empty_passes(ClusterBackend(client), "2 processes", rounds)


# -- small blocks ------------------------------------------------------------------------------


def mixture(features: int = FEATURES, components: int = COMPONENTS) -> MixtureParameters:
    """Components along a line."""
    means = np.linspace(-6.0, 6.0, components)[:, None] * np.ones(features)
    return MixtureParameters.create(
        "full",
        np.full(components, 1 / components),
        means,
        np.stack([np.eye(features)] * components),
    )


def small(folder: Path, n_blocks: int, rounds: int) -> Iterator[Result]:
    """A pass over many blocks of 64 KB, and its parts."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_blocks * BLOCK_ROWS, FEATURES))
    path = str(folder / "small.zarr")
    array = zarr.create_array(
        path, shape=rows.shape, chunks=(BLOCK_ROWS, FEATURES), dtype="f8", compressors=None
    )
    array[:] = rows
    stored, here = open_source(path), NumpySource.of(rows, block_rows=BLOCK_ROWS)
    weights = rng.exponential(size=len(rows)) + 0.1
    for name, chunk in (("tiled", BLOCK_ROWS), ("shared", 256 * BLOCK_ROWS + 1)):
        beside = str(folder / name)
        zarr.create_array(beside, data=weights, chunks=(chunk,), compressors=None)
    some = np.where(rng.random(len(rows)) < 0.1, 0.0, weights)
    candidate = Candidate(mixture())
    job, kernel, backend = StatisticsJob((candidate,)), get_kernel(), LocalBackend(1)

    def read() -> None:
        for i in range(n_blocks):
            stored.read(stored.block(i))

    def calls() -> None:
        e_step = kernel.e_step([candidate])
        for i in range(n_blocks):
            e_step.statistics(Rows(rows[i * BLOCK_ROWS : (i + 1) * BLOCK_ROWS]))

    def run(source: Any, work: Any) -> Callable[[], None]:
        plan = plan_pass(source, n_threads=1)
        return lambda: (backend.run(plan, work), None)[1]

    turns: dict[str, Callable[[], float | None]] = {
        "reading alone": read,
        "kernel, all rows in one call": lambda: (kernel.statistics(Rows(rows), [candidate]), None)[
            1
        ],
        "kernel calls, one a block": calls,
        "pass over NumPy, sums": run(here, SumJob()),
        "pass over NumPy": run(here, job),
        "pass over NumPy, weights": run(with_weights(here, weights), job),
        "pass over NumPy, a tenth of them 0": run(with_weights(here, some), job),
        "pass over Zarr": run(stored, job),
        "pass over Zarr, weights in memory": run(with_weights(stored, weights), job),
        "pass over Zarr, weights in its chunks": run(with_weights(stored, "tiled"), job),
        "pass over Zarr, weights in large chunks": run(with_weights(stored, "shared"), job),
    }
    kernel.statistics(Rows(rows[:BLOCK_ROWS]), [candidate])
    with single_threaded_blas():
        seconds = timed(turns, rounds)
    least = {name: min(taken) for name, taken in seconds.items()}
    work = least["kernel, all rows in one call"]
    own = {
        "pass over NumPy": least["pass over NumPy"] - work,
        "pass over Zarr": least["pass over Zarr"] - work - least["reading alone"],
    }
    for name, taken in seconds.items():
        more = {"us_per_block": 1e6 * min(taken) / n_blocks}
        if name in own:
            more["overhead_s_of_100000"] = own[name] / n_blocks * 100_000
        yield summary("small", "1 thread", f"{n_blocks:,} blocks: {name}", taken, **more)


# -- pinned blocks -----------------------------------------------------------------------------


def zstd_store(folder: Path, n_blocks: int, rows: int, features: int) -> str:
    """Rows of two decimals around four centres, as measurements are; zstd is Zarr's default."""
    path = str(folder / "zstd.zarr")
    array = zarr.create_array(
        path, shape=(n_blocks * rows, features), chunks=(rows, features), dtype="f8"
    )
    for i in range(n_blocks):
        rng = np.random.default_rng(i)
        centres = 4.0 * rng.integers(-2, 2, size=(rows, 1))
        array.blocks[i] = np.round(centres + rng.normal(size=(rows, features)), 2)
    return path


def cached_fit(
    path: str, share: float, processes: int, passes: int, client: Client | None
) -> tuple[float, float, float]:
    """Return means over passes 2.. of a fit: seconds, CPU seconds, part of the blocks it had."""

    def cpu_seconds() -> float:
        return (
            time.process_time() if client is None else sum(client.run(time.process_time).values())
        )

    cpu: list[float] = []

    def watch(event: Any) -> None:
        if type(event).__name__ == "PassFinished" and event.number in (1, passes):
            cpu.append(cpu_seconds())

    source = open_source(path)
    size = source.n_blocks * source.block_bytes
    p = mixture(source.n_features)
    gm = GaussianMixture(
        COMPONENTS,
        max_iter=passes,
        tol=0.0,
        acceleration=None,
        cache=int(share * size / processes),
        weights_init=p.weights,
        means_init=p.means,
        precisions_init=p.covariances,
        callbacks=[watch],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        later = gm.fit(path).history_[1:]
    hits = sum(record.blocks_from_cache for record in later)
    return (
        sum(record.seconds for record in later) / len(later),
        (cpu[1] - cpu[0]) / len(later),
        hits / len(later) / source.n_blocks,
    )


def cache(folder: Path, rounds: int, n_blocks: int = 48, rows: int = 65_536) -> Iterator[Result]:
    """Shares of the data in memory, in process and on two processes."""
    path = zstd_store(folder, n_blocks, rows, 16)
    gigabytes = n_blocks * rows * 16 * 8 / 1e9

    def measure(place: str, client: Client | None = None) -> Iterator[Result]:
        found: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}

        def turn(share: float) -> float:
            seconds, *rest = cached_fit(path, share, 1 if client is None else 2, 5, client)
            found[share].append((rest[0], rest[1]))
            return seconds

        seconds = timed({str(share): partial(turn, share) for share in SHARES}, rounds)
        for share in SHARES:
            taken = seconds[str(share)]
            yield summary(
                "cache",
                place,
                f"room for {share:.0%}",
                taken,
                gb_per_s=gigabytes / float(np.median(taken)),
                cpu_s=float(np.median([cpu for cpu, _ in found[share]])),
                hits=float(np.mean([hits for _, hits in found[share]])),
            )

    yield from measure("2 threads")
    with two_processes("4 GB") as client:
        yield from measure("2 processes", client)
        with patch.object(Affinity, "preferred", lambda *_: {}):
            yield from measure("2 processes, no affinity", client)


# -- the scheduler's memory --------------------------------------------------------------------


def remembered(client: Client) -> dict[str, float]:
    """Count what the scheduler knows, and the bytes of its process."""

    def count(dask_scheduler: Any) -> dict[str, float]:
        spans = dask_scheduler.extensions["spans"].spans.values()
        return {
            "tasks": len(dask_scheduler.tasks),
            "groups": len(dask_scheduler.task_groups),
            "prefixes": len(dask_scheduler.task_prefixes),
            "spans": len(spans),
            "groups_of_spans": sum(len(span.groups) for span in spans),
            "transitions_logged": len(dask_scheduler.transition_log),
            "computations": len(dask_scheduler.computations),
            "rss_mb": psutil.Process().memory_info().rss / 1e6,
        }

    found: dict[str, float] = client.run_on_scheduler(count)
    return found


def memory(passes: int) -> Iterator[Result]:
    """Passes of eight tiny units."""
    with two_processes() as client:
        backend, plan = ClusterBackend(client), plan_pass(even_fake(8, plain=True), n_threads=2)
        taken: list[float] = []
        for number in range(1, passes + 1):
            taken.append(backend.run(plan, SumJob()).seconds)
            if number in (10, passes // 4, passes // 2, passes):
                time.sleep(0.5)
                case = f"after {number:,} passes"
                yield summary("memory", "2 processes", case, taken, **remembered(client))


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--full", action="store_true", help="20,000 small blocks, 1,000 passes")
    parser.add_argument("--rounds", type=int, default=5)
    sections = ["empty", "small", "cache", "memory"]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    arguments = parser.parse_args()
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, rounds = Path(name), arguments.rounds
        runs: dict[str, Callable[[], Iterator[Result]]] = {
            "empty": lambda: empty(rounds),
            "small": lambda: small(folder, 20_000 if arguments.full else 4_000, min(rounds, 3)),
            "cache": lambda: cache(folder, min(rounds, 3)),
            "memory": lambda: memory(1000 if arguments.full else 200),
        }
        for section in arguments.only:
            for r in runs[section]():
                records.append(asdict(r))
                if not arguments.json:
                    more = "  ".join(f"{key} {value:,.4g}" for key, value in r.more.items())
                    print(
                        f"{r.section:7} {r.place:25} {r.case:45} {r.median:8.4f} s "
                        f"± {r.spread:.4f} (least {r.least:.4f})  {more}",
                        flush=True,
                    )
    if arguments.json:
        record = {"cores": os.cpu_count(), "load": os.getloadavg(), "results": records}
        json.dump(record, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
