"""One whole fit for `bench_whole_fit`, alone in its process, so that its memory can be told.

One JSON message on standard input says what to do, one on standard output what came of it:

    {"what": "fit" | "read" | "scikit-learn", "data": PATH, "components": K, "threads": T,
     "passes": N, "seed": S}
    {"seconds": S, "passes": [S, ...], "bytes": B, "sample": S, "start": S, "peak": B, "idle": B,
     "lower_bound": L}

"read" fetches and decodes all blocks as a fit does and computes nothing. A path ending in .npy is
loaded into memory before the clock starts. `idle` is the resident memory before the fit, data in
memory included, `peak` the largest during it; both null where Linux does not say.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dask
import numpy as np
from serving import peak_memory
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitLearn

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.execution import choose_backend, plan_pass
from dask_gmm.fitting.events import PassFinished, SampleDrawn, StartsFound

if TYPE_CHECKING:
    from dask_gmm.rows import Rows


@dataclass(frozen=True)
class CountRows:
    """A job that looks at no row."""

    value_bytes: int = 8
    workspace_bytes: int = 0

    def open(self) -> Self:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Rows, block: Any) -> int:
        return len(rows)


def read(data: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Passes that fetch the blocks and compute nothing."""
    source = open_source(data)
    backend = choose_backend(source)
    plan = plan_pass(source, n_threads=backend.n_threads)
    results = [backend.run(plan, CountRows()) for _ in range(task["passes"])]
    return {"passes": [r.seconds for r in results], "bytes": results[0].bytes_read}


def fit(data: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Our fit, from a start that it finds by itself."""
    found: dict[str, Any] = {"passes": [], "sample": 0.0, "start": 0.0}

    def observe(event: object) -> None:
        if isinstance(event, SampleDrawn):
            found["sample"] = event.seconds
        elif isinstance(event, StartsFound):
            found["start"] = event.seconds
        elif isinstance(event, PassFinished):
            found["passes"].append(event.seconds)
            found["bytes"] = event.bytes_read

    gm = GaussianMixture(
        task["components"],
        acceleration=None,
        tol=0.0,
        max_iter=task["passes"],
        random_state=task["seed"],
        callbacks=[observe],
    ).fit(data)
    return found | {"lower_bound": gm.lower_bound_}


def scikit_learn(data: Any, task: dict[str, Any]) -> dict[str, Any]:
    """scikit-learn's fit; seconds of an iteration by the difference from a fit of one fewer."""

    def seconds(iterations: int) -> tuple[float, float]:
        gm = ScikitLearn(task["components"], tol=0.0, max_iter=iterations, random_state=0)
        begun = time.perf_counter()
        gm.fit(data)
        return time.perf_counter() - begun, gm.lower_bound_

    most, lower_bound = seconds(task["passes"])
    one, _ = seconds(1)
    each = (most - one) / (task["passes"] - 1)
    return {
        "passes": [each] * task["passes"],
        "bytes": data.nbytes,
        "seconds": most,
        "lower_bound": lower_bound,
    }


def resident() -> int | None:
    """Bytes of this process that are in memory now, of which the peak then starts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is resident now
    except OSError:
        return None
    return peak_memory()


def main() -> None:
    """Do the one task."""
    task = json.loads(sys.stdin.readline())
    data = np.load(task["data"]) if task["data"].endswith(".npy") else task["data"]
    if task["components"]:  # compile or load the kernel for this shape outside the clock
        width = data.shape[1] if isinstance(data, np.ndarray) else open_source(data).n_features
        few = np.random.default_rng(0).normal(size=(100 * task["components"], width))
        GaussianMixture(task["components"], max_iter=1).fit(few)
    work = {"fit": fit, "read": read, "scikit-learn": scikit_learn}[task["what"]]
    idle = resident()
    begun = time.perf_counter()
    found = {"seconds": 0.0, "sample": None, "start": None, "lower_bound": None}
    found |= work(data, task)
    found["seconds"] = found["seconds"] or time.perf_counter() - begun
    print(json.dumps(found | {"idle": idle, "peak": peak_memory() if idle else None}))


warnings.simplefilter("ignore", ConvergenceWarning)
with dask.config.set(num_workers=int(sys.argv[1])):
    main()
