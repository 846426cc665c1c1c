"""Random schedules of kills, stops and joins over small fits: are the bits always the same?

``python -m tests.faults.soak --schedules 100`` says of how many, and what that cost. The same
seeds make the same schedules; what is under way when something happens is another matter.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.cluster import MortalCluster
from tests.faults.fits import KINDS, bits, make_data, undisturbed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Outcome", "Schedule", "run_schedules"]

N_WORKERS = 3
#: Seconds in which a fit of these takes place if nothing happens.
SECONDS = 2.0


@dataclass(frozen=True)
class Schedule:
    """What happens to a cluster, and when.

    Attributes
    ----------
    kind : str
        Of the fit.
    events : tuple of (float, str, int)
        Seconds after the fit has begun, "kill", "stop", "continue" or "join", and of which worker.
    """

    kind: str
    events: tuple[tuple[float, str, int], ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Draw one: two to four troubles; who dies has a successor, who stops goes on."""
        rng = random.Random(seed)
        events: list[tuple[float, str, int]] = []
        for _ in range(rng.randint(2, 4)):
            at, worker = rng.uniform(0.0, SECONDS), rng.randrange(N_WORKERS)
            what = rng.choice(["kill", "kill", "stop", "stop", "join"])
            events.append((at, what, worker))
            if what == "kill":
                events.append((at + rng.uniform(0.0, 1.0), "join", worker))
            elif what == "stop":
                events.append((at + rng.uniform(0.2, 8.0), "continue", worker))
        return cls(KINDS[seed % len(KINDS)], tuple(sorted(events)))


@dataclass(frozen=True)
class Outcome:
    """What came of a schedule: equal bits or not, and the seconds it took."""

    seed: int
    equal: bool
    seconds: float
    error: str = ""


class _Trouble(threading.Thread):
    """Makes a schedule come true, until the fit has ended."""

    def __init__(self, cluster: MortalCluster, schedule: Schedule) -> None:
        super().__init__()
        self._cluster = cluster
        self._events = schedule.events
        self._workers = list(cluster.workers)
        self.over = threading.Event()

    def run(self) -> None:
        begun = time.monotonic()
        for at, what, number in self._events:
            if self.over.wait(max(0.0, begun + at - time.monotonic())):
                return
            worker = self._workers[number]
            if what == "join":
                self._cluster.add()
            elif what == "kill":
                if worker in self._cluster.workers:
                    self._cluster.kill(worker)
            else:
                kind = signal.SIGSTOP if what == "stop" else signal.SIGCONT
                with suppress(ProcessLookupError):
                    os.killpg(worker.pid, kind)


def _fit(cluster: MortalCluster, schedule: Schedule, x: str) -> tuple[Any, float]:
    cluster.heal(N_WORKERS)
    with cluster.client() as client, client.as_current():
        trouble = _Trouble(cluster, schedule)
        trouble.start()
        begun = time.monotonic()
        try:
            return bits(schedule.kind, x), time.monotonic() - begun
        finally:
            trouble.over.set()
            trouble.join()


def run_schedules(
    seeds: Sequence[int], folder: Path, say: Any = lambda _: None
) -> tuple[list[Outcome], dict[str, float]]:
    """Run schedules one after the other on a cluster; return what came of them.

    Returns
    -------
    outcomes : list of Outcome
    calm : dict of str to float
        Seconds that each kind of fit takes if nothing happens.
    """
    x, outcomes = make_data(folder), []
    with MortalCluster(folder / "cluster", N_WORKERS, seconds=0.03) as cluster:
        for kind in KINDS:  # processes import what they need
            _fit(cluster, Schedule(kind, ()), x)
        calm = {kind: _fit(cluster, Schedule(kind, ()), x)[1] for kind in KINDS}
        for seed in seeds:
            schedule = Schedule.of(seed)
            begun = time.monotonic()
            try:
                found, seconds = _fit(cluster, schedule, x)
                equal = found == undisturbed(schedule.kind, x)
                outcome = Outcome(seed, equal, seconds - calm[schedule.kind])
            except Exception as error:
                outcome = Outcome(seed, False, time.monotonic() - begun, repr(error))
            outcomes.append(outcome)
            say(f"{outcome} {schedule}")
    return outcomes, calm


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    asked = parser.parse_args()
    seeds = range(asked.first_seed, asked.first_seed + asked.schedules)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, calm = run_schedules(seeds, Path(folder), lambda line: print(line, flush=True))
    equal = sum(outcome.equal for outcome in outcomes)
    cost = sorted(outcome.seconds for outcome in outcomes)
    calmly = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in calm.items())
    print(f"{equal} of {len(outcomes)} schedules ended with the same bits as a calm fit.")
    print(
        f"What happened cost {statistics.median(cost):.1f} s in the median and {cost[-1]:.1f} s at "
        f"most, over fits of {calmly}."
    )
    return 0 if equal == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
