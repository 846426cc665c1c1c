"""oneDAL's EM for `bench_kernels`, run by an interpreter that has `daal4py`.

It is told a folder with rows.npy and means.npy, a covariance family and a number of components on
the command line. For each line it reads it runs one turn and writes the seconds of an iteration
and the log-likelihood at the start. An iteration is the difference between three and one, halved:
copying the input and making the first covariances is not counted.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import daal4py
import numpy as np

folder, family, k = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
daal4py.daalinit(1)
rows, means = np.load(folder / "rows.npy"), np.load(folder / "means.npy")
d = rows.shape[1]
shape = (d, d) if family == "full" else (1, d)


def run(iterations: int) -> tuple[float, float]:
    covariance = np.eye(d) if family == "full" else np.ones(shape)
    algorithm = daal4py.em_gmm(
        k,
        fptype="double" if rows.dtype == np.float64 else "float",
        maxIterations=iterations,
        accuracyThreshold=0.0,
        covarianceStorage="full" if family == "full" else "diagonal",
    )
    weights = np.full((1, k), 1.0 / k)
    start = time.perf_counter()
    result = algorithm.compute(rows, weights, means, [covariance.copy() for _ in range(k)])
    return time.perf_counter() - start, float(result.goalFunction[0, 0])


for _ in sys.stdin:
    one, log_likelihood = run(1)
    three, _ = run(3)
    print((three - one) / 2.0, log_likelihood, flush=True)
