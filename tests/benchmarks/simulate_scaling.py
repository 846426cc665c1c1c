"""Strong and weak scaling: measured on one and two processes, simulated beyond.

Run from the repository's root:

    python -m tests.benchmarks.simulate_scaling           # tables
    python -m tests.benchmarks.simulate_scaling --json    # the same as JSON, for records
    python -m tests.benchmarks.simulate_scaling --task-ms 0.5 --chunk-seconds 0.1 --spread 0.2

**What lies beyond two processes is a simulation, not a measurement.** It plays one pass event by
event, with overheads that are measured here first (or given):

- a pass costs the driver and the scheduler a fixed time before the first unit starts, and workers
  wait for the candidates' parameters, which spread from worker to worker as a binary tree;
- the scheduler is one server with a queue: each unit occupies it for a fixed time, half when it is
  handed out and half when it comes back. A worker holds two units, one running and one waiting, as
  Dask's default saturation has it;
- a unit takes a log-normal time with the measured mean and spread;
- the driver folds one value at a time, as results arrive, and the pass ends with the last.

From `FEWEST_THREADS` on the pass is played by teams as well:

- a team costs driver and scheduler as much as two units do: it is a larger task, and says that it
  leaves its thread;
- its captain is one server with a queue, whom each call to a member occupies for a fixed time. The
  members join by hops, each gets its share of the units, reports once it is through, and then has
  half of what the one has left that has most;
- the values are folded by the member, the captain and the driver.

It knows nothing of stores that slow down when many ask, of networks that are shared, or of
workers that die. Here driver, scheduler and both workers share this machine's cores, so the
measured time per task is larger than on a scheduler with a core of its own: the second
extrapolation takes `--own-core-ms` for it, from Dask's own documentation of .2 to 1 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import os
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from distributed import Client, LocalCluster, get_worker

from dask_gmm import GaussianMixture
from dask_gmm.execution import plan_pass
from dask_gmm.execution.cluster import ClusterBackend, teams
from dask_gmm.execution.cluster.member import FANOUT, call, give_back
from dask_gmm.execution.cluster.teams import FEWEST_THREADS, in_teams
from dask_gmm.execution.plan import resize_units
from dask_gmm.fitting.passes import Evaluation
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.rows import Rows
from tests.benchmarks.bench_overhead import mixture, zstd_store
from tests.execution.fakes import SumJob, even_fake

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
CHUNKS = 100_000
WEAK_CHUNKS = 100
"""Chunks of each worker where the data grow with the workers."""


@dataclass(frozen=True)
class Costs:
    """What a pass is made of.

    Attributes
    ----------
    fixed : float
        Seconds before the first unit can start, and after the last is folded.
    task : float
        Seconds of the scheduler for each unit.
    call : float
        Seconds of a captain for each call to a member of its team.
    trip : float
        Seconds from a call to its answer, where nobody else calls.
    fold : float
        Seconds to fold one value.
    chunk : float
        Seconds of one thread to read and compute one chunk.
    spread : float
        Standard deviation of a chunk's time as a part of its mean.
    parameter_bytes : float
        What each worker must have before its first unit.
    bandwidth : float
        Bytes per second between two machines.
    """

    fixed: float
    task: float
    call: float
    trip: float
    fold: float
    chunk: float
    spread: float
    parameter_bytes: float
    bandwidth: float = 1e9


def units_for(costs: Costs, n_chunks: int, n_workers: int) -> int:
    """Return how many units the planner would make once it knows how long a chunk takes."""
    plan = plan_pass(even_fake(n_chunks), n_threads=n_workers)
    return resize_units(plan, n_chunks * costs.chunk / n_workers, n_workers).n_units


def simulate_pass(
    costs: Costs, n_chunks: int, n_workers: int, n_units: int, rng: np.random.Generator
) -> float:
    """Play one pass and return its seconds."""
    each = n_chunks / n_units
    # The times of a unit's chunks are independent: their sum is relatively narrower than one.
    sigma = math.sqrt(math.log1p((costs.spread / math.sqrt(each)) ** 2))
    lasting = each * costs.chunk * rng.lognormal(-(sigma**2) / 2, sigma, n_units)
    begin = costs.fixed
    scheduler = driver = begin
    hop = costs.parameter_bytes / costs.bandwidth
    free = [begin + hop * math.ceil(math.log2(worker + 1)) for worker in range(n_workers)]
    given = 0
    events: list[tuple[float, int]] = []
    for _ in range(2):  # each worker gets one unit to run and one to hold
        for worker in range(n_workers):
            if given < n_units:
                scheduler += costs.task / 2
                free[worker] = max(free[worker], scheduler) + lasting[given]
                heapq.heappush(events, (free[worker], worker))
                given += 1
    while events:
        end, worker = heapq.heappop(events)
        scheduler = max(scheduler, end) + costs.task / 2
        driver = max(driver, scheduler) + costs.fold
        if given < n_units:
            scheduler += costs.task / 2
            free[worker] = max(free[worker], scheduler) + lasting[given]
            heapq.heappush(events, (free[worker], worker))
            given += 1
    return driver


class _Queue:
    """One who does one thing at a time."""

    def __init__(self, free: float) -> None:
        self.free = free

    def take(self, at: float, seconds: float) -> float:
        """Return when something that comes at a time is done."""
        self.free = max(self.free, at) + seconds
        return self.free


def simulate_team(costs: Costs, begin: float, units: Sequence[float], n_members: int) -> float:
    """Play the part of one team and return when its value is folded.

    Parameters
    ----------
    costs : Costs
    begin : float
        When its captain begins.
    units : sequence of float
        Seconds of each.
    n_members : int
    """
    captain = _Queue(begin)
    hop = costs.trip / 2 + costs.parameter_bytes / costs.bandwidth
    joined = []
    for first in range(min(FANOUT, n_members)):
        leader = _Queue(captain.take(begin, costs.call) + hop)
        rest = len(range(first, n_members, FANOUT)) - 1
        last = max([leader.free, *(leader.take(0.0, costs.call) + 2 * hop for _ in range(rest))])
        joined.append(last + costs.trip / 2)
    at = max(captain.take(end, costs.call) for end in joined)
    bounds = [round(i * len(units) / n_members) for i in range(n_members + 1)]
    left = [list(units[a:b]) for a, b in pairwise(bounds)]
    # What a member may give back: not what it begins with when its share comes.
    spare = [max(0, len(mine) - 1) for mine in left]
    events: list[tuple[float, int]] = []  # a member is free
    for member in range(n_members):
        start = captain.take(at, costs.call) + costs.trip / 2
        heapq.heappush(events, (start, member))
    end = at
    while events:
        now, member = heapq.heappop(events)
        if left[member]:
            heapq.heappush(events, (now + left[member].pop(0), member))
            spare[member] = len(left[member])
            continue
        end = captain.take(now + costs.trip / 2, costs.call + costs.fold)
        rich = max(range(n_members), key=spare.__getitem__)
        n = -(-spare[rich] // 2)
        if n:
            left[member], left[rich] = left[rich][-n:], left[rich][:-n]
            spare[member], spare[rich] = n - 1, spare[rich] - n
            given = captain.take(end + costs.trip, 2 * costs.call) + costs.trip / 2
            heapq.heappush(events, (given, member))
    return end


def simulate_teams(costs: Costs, n_chunks: int, n_workers: int, rng: np.random.Generator) -> float:
    """Play one pass by teams and return its seconds."""
    plan = plan_pass(even_fake(n_chunks), n_threads=n_workers)
    workers = {str(worker): 1 for worker in range(n_workers)}
    found = in_teams(plan, SumJob(), workers, costs.chunk)
    assert found is not None
    plan, level = found
    each = n_chunks / plan.n_units
    sigma = math.sqrt(math.log1p((costs.spread / math.sqrt(each)) ** 2))
    lasting = each * costs.chunk * rng.lognormal(-(sigma**2) / 2, sigma, plan.n_units)
    shift = level - plan.unit_level
    n_teams = -(-plan.n_units >> shift)
    scheduler = _Queue(costs.fixed)
    hop = costs.trip / 2 + costs.parameter_bytes / costs.bandwidth
    ends, before = [], 0
    for team in range(n_teams):
        units = lasting[team << shift : (team + 1) << shift]
        begin = scheduler.take(0.0, costs.task) + hop * math.ceil(math.log2(team + 2))
        members = round(n_workers * min((team + 1) << shift, plan.n_units) / plan.n_units) - before
        before += members
        ends.append(simulate_team(costs, begin, list(units), max(1, members)))
    driver = _Queue(0.0)
    return max(driver.take(scheduler.take(end, costs.task), costs.fold) for end in sorted(ends))


def simulated(costs: Costs, n_chunks: int, n_workers: int, n_units: int | None = None) -> float:
    """Return the mean over a few passes."""
    rng = np.random.default_rng(0)
    if n_units is None and n_workers >= FEWEST_THREADS:
        return float(np.mean([simulate_teams(costs, n_chunks, n_workers, rng) for _ in range(5)]))
    n_units = units_for(costs, n_chunks, n_workers) if n_units is None else n_units
    runs = [simulate_pass(costs, n_chunks, n_workers, n_units, rng) for _ in range(5)]
    return float(np.mean(runs))


# -- measuring ---------------------------------------------------------------------------------


def empty_costs(client: Client, rounds: int) -> tuple[float, float]:
    """Return the fixed seconds of a pass and the seconds of a task, from empty passes."""
    backend = ClusterBackend(client)
    sizes = (2, 64, 256)
    least = []
    for n in sizes:
        plan = plan_pass(even_fake(n, plain=True), n_threads=2, unit_level=0)
        least.append(min(backend.run(plan, SumJob()).seconds for _ in range(rounds)))
    slope, _ = np.polyfit(sizes, least, 1)
    return max(least[0] - sizes[0] * slope, 1e-4), float(slope)


def _calls(others: Sequence[str]) -> tuple[float, float]:
    """On a worker: return the seconds of a call while many are made, and of one alone."""
    worker: Any = get_worker()

    async def calls(times: int, at_once: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            there = [other for other in others for _ in range(at_once)]
            await asyncio.gather(
                *(call(worker, a, give_back, "", "", "", 0, seconds=60.0) for a in there)
            )
        return (time.perf_counter() - begun) / (times * at_once * len(others))

    def run(times: int, at_once: int) -> float:
        loop = worker.loop.asyncio_loop
        return asyncio.run_coroutine_threadsafe(calls(times, at_once), loop).result()

    run(5, 32)
    return run(30, 32), run(100, 1)


def call_costs(client: Client) -> tuple[float, float]:
    """Return what a captain's call to a member costs, and how long one takes."""
    plan = plan_pass(even_fake(8, plain=True), n_threads=2)
    with patch.object(teams, "FEWEST_THREADS", 2):  # once a team, workers know such calls
        assert ClusterBackend(client).run(plan, SumJob()).tasks == 2
    first, *others = client.scheduler_info(n_workers=-1)["workers"]
    found: tuple[float, float] = client.submit(_calls, others, workers=[first], pure=False).result()
    return found


def fold_cost(components: int = 16, features: int = 16) -> tuple[float, float]:
    """Return the seconds of adding two values of a full mixture, and their parameters' bytes."""
    p = mixture(features, components)
    rows = np.random.default_rng(0).normal(size=(1000, features))
    value = Evaluation(get_kernel().statistics(Rows(rows), [Candidate(p)]))
    begun = time.perf_counter()
    for _ in range(500):
        value + value
    return (time.perf_counter() - begun) / 500, float(p.nbytes)


def measured_passes(client: Client, path: str, passes: int = 6) -> tuple[list[float], int]:
    """Return the seconds of passes 2.. of a fit without a cache, and the units of the last."""
    p = mixture(16)
    with client.as_current(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm = GaussianMixture(
            p.n_components,
            max_iter=passes,
            tol=0.0,
            cache=0,
            acceleration=None,
            weights_init=p.weights,
            means_init=p.means,
            precisions_init=p.covariances,
        ).fit(path)
    return [record.seconds for record in gm.history_[1:]], gm.history_[-1].tasks - 1


def measure(folder: Path, rounds: int, chunks: int) -> tuple[Costs, list[dict[str, Any]]]:
    """Measure the overheads and one process, and check the simulation against two."""
    path = zstd_store(folder, chunks, 32_768, 16)
    (folder / "half").mkdir()
    half = zstd_store(folder / "half", chunks // 2, 32_768, 16)
    fold, parameter_bytes = fold_cost()
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as two,
        Client(two, set_as_default=False) as both,
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as one,
        Client(one, set_as_default=False) as alone,
    ):
        for client in (alone, both):
            measured_passes(client, path, 2)
        fixed, task = empty_costs(both, rounds)
        call_seconds, trip = call_costs(both)
        runs: dict[tuple[str, int], list[float]] = {}
        units: dict[tuple[str, int], int] = {}
        cases = [("strong", 1, alone, path), ("strong", 2, both, path), ("weak", 1, alone, half)]
        for _ in range(rounds):
            for kind, workers, client, where in cases:
                seconds, n_units = measured_passes(client, where)
                runs.setdefault((kind, workers), []).extend(seconds)
                units[kind, workers] = n_units
    runs["weak", 2], units["weak", 2] = runs["strong", 2], units["strong", 2]
    single = np.array(runs["strong", 1])
    chunk = max(float(np.median(single)) - fixed - units["strong", 1] * task, 1e-6) / chunks
    spread = float(np.std(single) / np.mean(single)) * math.sqrt(chunks)
    costs = Costs(fixed, task, call_seconds, trip, fold, chunk, min(spread, 3.0), parameter_bytes)
    table = []
    for (kind, workers), seconds in sorted(runs.items()):
        n_chunks = chunks if kind == "strong" or workers == 2 else chunks // 2
        predicted = simulated(costs, n_chunks, workers, units[kind, workers])
        table.append(
            {
                "kind": kind,
                "workers": workers,
                "chunks": n_chunks,
                "units": units[kind, workers],
                "measured": float(np.median(seconds)),
                "least": min(seconds),
                "simulated": predicted,
            }
        )
    return costs, table


def extrapolate(costs: Costs, workers: Sequence[int] = WORKERS) -> list[dict[str, Any]]:
    """Simulate both kinds of scaling."""
    alone = simulated(costs, CHUNKS, 1)
    small = simulated(costs, WEAK_CHUNKS, 1)
    table = []
    for n in workers:
        strong, weak = simulated(costs, CHUNKS, n), simulated(costs, WEAK_CHUNKS * n, n)
        table.append(
            {
                "workers": n,
                "strong_units": units_for(costs, CHUNKS, n),
                "strong_seconds": strong,
                "strong_efficiency": alone / (n * strong),
                "weak_chunks": WEAK_CHUNKS * n,
                "weak_seconds": weak,
                "weak_efficiency": small / weak,
            }
        )
    return table


def main() -> None:
    """Measure, check, extrapolate and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=48, help="chunks of 4 MB to measure with")
    parser.add_argument("--own-core-ms", type=float, default=0.5, help="see above")
    parser.add_argument("--chunk-seconds", type=float, help="instead of the measured time")
    parser.add_argument("--task-ms", type=float, help="instead of the measured time")
    parser.add_argument("--call-ms", type=float, help="instead of the measured time")
    parser.add_argument("--spread", type=float, help="instead of the measured one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs, checked = measure(Path(folder), arguments.rounds, arguments.chunks)
    given = {
        "chunk": arguments.chunk_seconds,
        "task": arguments.task_ms and arguments.task_ms / 1e3,
        "call": arguments.call_ms and arguments.call_ms / 1e3,
        "spread": arguments.spread,
    }
    costs = replace(costs, **{name: value for name, value in given.items() if value is not None})
    own_core = replace(costs, task=arguments.own_core_ms / 1e3)
    tables = {"measured costs": extrapolate(costs), "scheduler of its own": extrapolate(own_core)}
    if arguments.json:
        record = {"cores": os.cpu_count(), "load": os.getloadavg(), "costs": asdict(costs)}
        json.dump({**record, "checked": checked, "simulated": tables}, sys.stdout, indent=1)
        return
    print("measured:", ", ".join(f"{name} {value:.4g}" for name, value in asdict(costs).items()))
    for row in checked:
        print(
            f"{row['kind']:6} {row['workers']} process(es), {row['chunks']} chunks, "
            f"{row['units']:3} units: measured {row['measured']:7.3f} s "
            f"(least {row['least']:.3f}), simulated {row['simulated']:7.3f} s"
        )
    for name, table in tables.items():
        print(f"SIMULATION, {name}: {CHUNKS:,} chunks shared; {WEAK_CHUNKS} chunks a worker")
        for row in table:
            print(
                f"{row['workers']:5} workers: {row['strong_seconds']:9.2f} s in "
                f"{row['strong_units']:5} units, efficiency {row['strong_efficiency']:4.0%};  "
                f"{row['weak_chunks']:7,} chunks {row['weak_seconds']:8.2f} s, "
                f"efficiency {row['weak_efficiency']:4.0%}"
            )


if __name__ == "__main__":
    main()
