"""One fit for `bench_time_to_fit`, alone in its process, with the time of each of its passes.

One JSON message on standard input says what to do, one on standard output what came of it:

    {"what": "limit" | "plain" | "accelerated" | "own start" | "scikit-learn", "data": PATH,
     "start": PATH, "tol": T, "passes": N, "cache": BYTES | "auto"}
    {"seconds": S, "passes": [S, ...], "bounds": [L, ...], "end": L}

`passes` are the seconds from the beginning of the fit to the end of each pass, `bounds` the mean
log-likelihoods that these passes found, `end` the last one that was accepted. A path ending in .npy
is loaded into memory before the clock starts.

"limit" is "plain", and then the way from its end to the optimum there, accelerated, whose
log-likelihood is `end`. scikit-learn does not tell the time of its passes: `passes` then has the
seconds of one iteration, the difference between a fit of `passes` iterations and one of a single
iteration, divided by their number.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import dask
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as ScikitLearn

from dask_gmm import GaussianMixture
from dask_gmm.data.source import open_source
from dask_gmm.fitting.events import PassFinished

PLAIN = ("limit", "plain")
# Nats per row: how near the limit is to the optimum, as the fit that finds it estimates.
NEAR = 1e-9


def fit(data: Any, start: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Our fit; plain EM until a pass gains less than `tol`, as scikit-learn does."""
    ends: list[float] = []

    def observe(event: object) -> None:
        if isinstance(event, PassFinished):
            ends.append(time.perf_counter() - begun)

    k = len(start["weights_init"])
    gm = GaussianMixture(
        k,
        acceleration=None if task["what"] in PLAIN else "variance-reduced",
        tol=task["tol"],
        max_iter=task["passes"],
        cache=task["cache"],
        random_state=0,
        callbacks=[observe],
        **({} if task["what"] == "own start" else start),
    )
    begun = time.perf_counter()
    gm.fit(data)
    seconds = time.perf_counter() - begun
    bounds = [record.judgement.objective for record in gm.history_]
    end = gm.lower_bound_
    if task["what"] == "limit":
        gm.set_params(acceleration="variance-reduced", warm_start=True, tol=NEAR).fit(data)
        end = gm.lower_bound_
    return {"seconds": seconds, "passes": ends[: len(bounds)], "bounds": bounds, "end": end}


def scikit_learn(data: Any, start: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of an iteration of scikit-learn's fit."""

    def run(iterations: int) -> tuple[float, float]:
        gm = ScikitLearn(
            len(start["weights_init"]), tol=0.0, max_iter=iterations, random_state=0, **start
        )
        begun = time.perf_counter()
        gm.fit(data)
        return time.perf_counter() - begun, float(gm.lower_bound_)

    one, first = run(1)
    most, last = run(task["passes"])
    each = (most - one) / (task["passes"] - 1)
    return {"seconds": most, "passes": [each], "bounds": [first], "end": last}


def main() -> None:
    """Do the one task."""
    task = json.loads(sys.stdin.readline())
    data = np.load(task["data"]) if task["data"].endswith(".npy") else task["data"]
    with np.load(task["start"]) as arrays:
        start = dict(arrays)
    width = start["means_init"].shape[1]
    few = np.random.default_rng(0).normal(size=(2000, width))
    GaussianMixture(len(start["weights_init"]), max_iter=1).fit(few)  # has the kernel compiled
    if not isinstance(data, np.ndarray):
        open_source(data)  # opens what the reader needs to import
    work = scikit_learn if task["what"] == "scikit-learn" else fit
    print(json.dumps(work(data, start, task)))


warnings.simplefilter("ignore", ConvergenceWarning)
with dask.config.set(num_workers=int(sys.argv[1])):
    main()
