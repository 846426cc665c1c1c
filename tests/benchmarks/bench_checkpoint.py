"""What a checkpoint costs a fit, on this disk.

Run from the repository's root:

    python -m tests.benchmarks.bench_checkpoint [--folder FOLDER] [--rounds N] [--json]

Fits with and without a checkpoint take turns, with passes of about a second on one thread. Of each
fit the seconds per pass are shown, their ratio, and of its commits the bytes, the time that the fit
waited for them and the time that they took beside a pass. A commit is synced to the disk: what that
costs is the disk's, and the last line says how long it takes to write and sync as much.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import uuid
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm import GaussianMixture
from dask_gmm.fitting.checkpoint import Recorder
from dask_gmm.fitting.events import CheckpointWritten, PassFinished
from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.turns import Spread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask_gmm.fitting.events import Event

PASSES = 6
CASES = {  # K, D, covariance: rows for a pass of about a second on one core
    "8 components of 4 features": (8, 4, "full"),
    "64 components of 32 features": (64, 32, "full"),
    "32 components of 128 features": (32, 128, "full"),
    "64 components of 32 features, diagonal": (64, 32, "diag"),
}


@dataclass
class Costs:
    """What was seen of one fit."""

    passes: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    written: list[CheckpointWritten] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, PassFinished):
            self.passes.append(event.seconds)
        if isinstance(event, CheckpointWritten):
            self.written.append(event)


@contextmanager
def waiting(costs: Costs) -> Iterator[None]:
    """Take the time that the driver spends in `Recorder.save`."""
    save = Recorder.save

    def timed(*arguments: Any) -> None:
        begun = time.perf_counter()
        save(*arguments)
        costs.waited.append(time.perf_counter() - begun)

    Recorder.save = timed  # type: ignore[method-assign]
    try:
        yield
    finally:
        Recorder.save = save  # type: ignore[method-assign]


def fit(rows: np.ndarray, k: int, kind: str, place: Path | None) -> Costs:
    """Fit plain EM, so many passes."""
    costs = Costs()
    gm = GaussianMixture(
        k,
        covariance_type=kind,
        init_params="random_from_data",
        acceleration=None,
        max_iter=PASSES,
        tol=0.0,
        reg_covar=1e-2,
        random_state=0,
        callbacks=[costs],
    )
    with waiting(costs):
        begun = time.perf_counter()
        gm.fit(rows, checkpoint=place)
        costs.seconds = time.perf_counter() - begun
    return costs


def rows_for(k: int, d: int, kind: str, seconds: float) -> np.ndarray:
    """So many rows that a pass over them takes about so long."""
    rng = np.random.default_rng(0)
    n = 4000
    while True:
        rows = rng.normal(size=(n, d)) + 3.0 * rng.integers(0, 3, (n, 1))
        took = float(np.median(fit(rows, k, kind, None).passes))
        if took > 0.5 * seconds:
            return rows
        n = int(n * min(8.0, max(1.5, 0.9 * seconds / took)))


def synced(folder: Path, size: int) -> float:
    """Seconds to write and sync a file of some bytes, and its folder."""
    path, content = folder / uuid.uuid4().hex, os.urandom(size)
    begun = time.perf_counter()
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    folder_id = os.open(folder, os.O_RDONLY)
    os.fsync(folder_id)
    os.close(folder_id)
    took = time.perf_counter() - begun
    path.unlink()
    return took


def measured(name: str, rows: np.ndarray, rounds: int, folder: Path) -> dict[str, Any]:
    """Let fits with and without a checkpoint take turns."""
    k, _, kind = CASES[name]
    with_it, without = [], []
    for _ in range(rounds):
        without.append(fit(rows, k, kind, None))
        with_it.append(fit(rows, k, kind, folder / uuid.uuid4().hex))
    written = [event for costs in with_it for event in costs.written]
    size = max(event.size for event in written)
    figures = {
        "pass": [1e3 * s for costs in without for s in costs.passes],
        "with / without": [a.seconds / b.seconds for a, b in zip(with_it, without, strict=True)],
        "waited": [1e3 * s for costs in with_it for s in costs.waited[1:]],
        "beside": [1e3 * event.seconds for event in written],
        "synced": [1e3 * synced(folder, size) for _ in range(20)],
    }
    return {"case": name, "bytes": size} | {
        key: Spread.of(seconds)._asdict() for key, seconds in figures.items()
    }


LINES = {
    "pass": "a pass, ms",
    "with / without": "whole fit with a checkpoint / without",
    "waited": "the fit waited after each pass, ms",
    "beside": "a commit took beside the next pass, ms",
    "synced": "a file of its size, written and synced, ms",
}


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--folder", type=Path, help="where the checkpoints go")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="sizes of a test; figures mean nothing")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    machine = describe_machine()
    results = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in list(CASES)[: 1 if arguments.tiny else None]:
            rows = rows_for(*CASES[name], 0.01 if arguments.tiny else 1.0)
            results.append(measured(name, rows, arguments.rounds, Path(folder)))
    if arguments.json:
        json.dump({"machine": machine, "results": results}, sys.stdout, indent=1)
        return
    print(machine_line(machine))
    for result in results:
        print(f"\n{result['case']}: a state of {result['bytes']:,} bytes")
        for key, words in LINES.items():
            found = Spread(**result[key])
            print(f"  {words:45} {found.median:10.3f} ± {found.spread:.3f}")


if __name__ == "__main__":
    main()
