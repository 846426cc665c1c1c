"""Spark MLlib, by pyspark with as many local cores as threads, for `bench_fit`.

The RDD-based API, because it alone takes a start (`initialModel`); the DataFrame-based one runs
the same arithmetic on a start that it draws itself. Rows reach the JVM in every fit, before the
first iteration, and stay cached there as float64. Both add 2.2e-16 to each component's density, so
where densities are small (many features, far rows) Spark's iterations are not those of EM.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
from pyspark.mllib.clustering import GaussianMixture
from pyspark.mllib.linalg import DenseMatrix, DenseVector
from pyspark.sql import SparkSession
from serving import Fit, Fitted, Problem, serve

THREADS = int(sys.argv[1])


def prepare(problem: Problem) -> Fit:
    k, d = problem.means.shape
    start = SimpleNamespace(
        k=k,
        weights=problem.weights.tolist(),
        gaussians=[
            SimpleNamespace(mu=DenseVector(mean), sigma=DenseMatrix(d, d, covariance.ravel()))
            for mean, covariance in zip(problem.means, problem.covariances, strict=True)
        ],
    )
    rows = context.parallelize(problem.rows, THREADS)

    def fit(iterations: int) -> Fitted:
        model = GaussianMixture.train(rows, k, 0.0, iterations, 0, start)
        return lambda: {
            "weights": np.asarray(model.weights),
            "means": np.stack([g.mu.toArray() for g in model.gaussians]),
            "covariances": np.stack([g.sigma.toArray() for g in model.gaussians]),
            "iterations": iterations,
        }

    return fit


with (
    SparkSession.builder.master(f"local[{THREADS}]")
    .config("spark.driver.memory", "6g")
    .config("spark.driver.host", "localhost")
    .config("spark.ui.enabled", "false")
    .config("spark.ui.showConsoleProgress", "false")
    .getOrCreate()
) as spark:
    context = spark.sparkContext
    context.setLogLevel("ERROR")
    serve({name: version(name) for name in ("pyspark", "numpy")}, prepare, cpu=False)
