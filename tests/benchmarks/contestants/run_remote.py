"""A contestant of `bench_latency`: passes of a checkout of dask_gmm over a store or over memory.

It imports nothing but dask_gmm and NumPy, so that any checkout can be run. One JSON message a line
from its standard input, one answer each:

    {"open": URL, "kernel": [FAMILY, K] | SECONDS, "cache": BYTES}     -> {"blocks": N, "bytes": N}
    {"pass": 1}                                                       -> {"wall": S, "cpu": S}
    {"close": 1}                                                      -> {}

A kernel that is a number of seconds is one that sleeps so long for each byte, and takes no
processor. A URL of null is memory, of `rows` blocks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_gmm.data.source import open_source
from dask_gmm.execution.local import LocalBackend
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.kernels import Candidate
from dask_gmm.mixture.parameters import MixtureParameters


@dataclass(frozen=True)
class Sleeping:
    """A kernel that takes time and no processor."""

    seconds: float
    value_bytes: int = 8
    workspace_bytes: int = 0

    def open(self) -> Sleeping:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Any, block: Any) -> float:
        """Take as long as so many rows do, and look at one element."""
        time.sleep(self.seconds * rows.values.nbytes)
        return float(rows.values[0, 0])


def kernel(asked: Any, features: int) -> Any:
    """Return the job that a message asks for."""
    if isinstance(asked, float):
        return Sleeping(asked)
    family, k = asked
    means = np.random.default_rng(0).normal(size=(k, features))
    shapes = {"full": np.stack([np.eye(features)] * k), "diag": np.ones((k, features))}
    p = MixtureParameters.create(family, np.full(k, 1 / k), means, shapes[family])
    return StatisticsJob((Candidate(p),))


def main() -> None:
    """Answer until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    backend, cleaning = LocalBackend(int(sys.argv[1])), ExitStack()

    def answer(message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer({"versions": {}})
    for line in sys.stdin:
        asked = json.loads(line)
        if "close" in asked:
            cleaning.close()
            answer({})
        elif "open" in asked:
            X = asked["open"]
            if X is None:
                X = np.random.default_rng(0).normal(size=(asked["rows"], asked["features"]))
            source: Any = open_source(X, block_rows=asked.get("block_rows"))
            job = kernel(asked["kernel"], source.n_features)
            passes = cleaning.enter_context(backend.open(source, cache=asked["cache"]))
            answer({"blocks": source.n_blocks})
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            passes.run(job)
            answer({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu})


if __name__ == "__main__":
    main()
