"""Seconds and memory of a pass for factor analysers, beside diagonal and full covariances.

Run from the repository's root:

    python -m tests.benchmarks.bench_factors               # 2,000 features, 200,000 rows, from Zarr
    python -m tests.benchmarks.bench_factors --rows 20000  # fewer rows
    python -m tests.benchmarks.bench_factors --json        # the same as JSON, for records

Rows of ten components, of five factors each, float32, in uncompressed chunks of 4,096 rows. Each
contestant is a fit of plain EM in a process of its own with nothing pinned, so that its largest
memory is its own; contestants take turns, and what is shown is the median of the rounds. Seconds
are of the processor, over all threads, as those of the clock depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr

from dask_gmm import GaussianMixture

K, Q = 10, 5
CONTESTANTS = {
    2000: ("factors:5", "factors:10", "ppca:5", "diag"),
    200: ("factors:5", "factors:10", "ppca:5", "diag", "full"),
}


def write(path: Path, n_rows: int, n_features: int) -> None:
    """Rows of a mixture of factor analysers, a block at a time."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(K, n_features, Q)).astype(np.float32)
    deviations = rng.uniform(0.7, 1.4, size=(K, n_features)).astype(np.float32)
    means = 0.3 * rng.normal(size=(K, n_features)).astype(np.float32)
    shape, chunks = (n_rows, n_features), (4096, n_features)
    store = zarr.create_array(path, shape=shape, chunks=chunks, dtype="f4", compressors=None)
    for start in range(0, n_rows, 4096):
        n = min(4096, n_rows - start)
        k = rng.integers(K, size=n)
        noise = rng.standard_normal((n, n_features), dtype=np.float32)
        block = means[k] + deviations[k] * noise
        factors = rng.standard_normal((n, Q), dtype=np.float32)
        for j in range(K):
            block[k == j] += factors[k == j] @ loadings[j].T
        store[start : start + n] = block


def one(path: str, kind: str, passes: int) -> dict[str, Any]:
    """Fit once, in this process; seconds of the processor a pass, and memory."""
    moments: list[float] = []

    def watch(event: object) -> None:
        if type(event).__name__ in ("StartsFound", "PassFinished"):
            moments.append(time.process_time())

    gm = GaussianMixture(
        K,
        covariance_type=kind,
        acceleration=None,
        max_iter=passes,
        tol=0.0,
        cache=0,
        random_state=0,
        callbacks=[watch],
    )
    gm.fit(path)
    return {
        "seconds": median(np.diff(moments)),
        "clock": median(record.seconds for record in gm.history_),
        "start": moments[0],
        "memory": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def in_turns(
    path: Path, n_features: int, kinds: tuple[str, ...], rounds: int, passes: int
) -> list[dict[str, Any]]:
    """Medians of each contestant over the rounds."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            words = ["--one", str(path), kind, "--passes", str(passes)]
            run = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", __spec__.name, *words],
                capture_output=True,
                text=True,
                check=True,
            )
            found[kind].append(json.loads(run.stdout))
    return [
        {
            "covariance": kind,
            "features": n_features,
            **{key: median(r[key] for r in results) for key in results[0]},
        }
        for kind, results in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="30 features, for a test")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, metavar=("PATH", "KIND"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one, given.passes)))
        return
    contestants = {30: ("factors:5", "diag")} if given.tiny else CONTESTANTS
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for n_features, kinds in contestants.items():
            path = Path(folder) / f"{n_features}.zarr"
            write(path, given.rows, n_features)
            results += in_turns(path, n_features, kinds, given.rounds, given.passes)
    if given.json:
        print(json.dumps({"rows": given.rows, "components": K, "results": results}, indent=2))
        return
    print(f"{given.rows:,} rows, float32, {K} components; medians of {given.rounds} round(s)")
    plain = {r["features"]: r["seconds"] for r in results if r["covariance"] == "diag"}
    for r in results:
        print(
            f"D = {r['features']:5,}  {r['covariance']:<10}  {r['seconds']:7.2f} s a pass "
            f"({r['seconds'] / plain[r['features']]:5.1f} times diag)  start {r['start']:5.1f} s  "
            f"{r['memory'] / 1e6:6,.0f} MB"
        )


if __name__ == "__main__":
    main()
