"""What a fitted mixture says of rows, beside the plain pass of a fit over the same store.

Run from the repository's root:

    python -m tests.benchmarks.bench_using            # a table
    python -m tests.benchmarks.bench_using --json     # the same as JSON, for records
    python -m tests.benchmarks.bench_using --full     # five times the rows

One Zarr array of uncompressed float64 rows on this machine's disk (in its cache, after the first
turn), one thread. "pass" is one read with the E-step of a fit. "labels" writes those, "top 3" the
three most probable components with their posteriors, "regression" the mean and the deviation of a
quarter of the features given the others (or the mean alone), and "flags" log-densities and flags;
"distances" computes Mahalanobis distances block by block, and
"threshold" finds one by a read. The contestants take turns; shown are the median of the rounds,
half the distance between their quartiles, and the median of the ratios to the pass of the same
round.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr
from threadpoolctl import threadpool_limits

from dask_gmm import GaussianMixture
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Case:
    """A shape of problem."""

    rows: int
    features: int
    components: int


CASES = (Case(200_000, 8, 8), Case(200_000, 16, 32), Case(50_000, 16, 200))


def turns_of(case: Case, folder: Path) -> dict[str, Callable[[], float | None]]:
    """What is to be timed of a case; the store is made and the mixture fitted."""
    p = random_mixture(1, "full", case.components, case.features, spread=3.0)
    x, out = str(folder / "x.zarr"), folder / "out.zarr"
    rows = draw(2, p, case.rows)
    zarr.create_array(x, data=rows, chunks=(case.rows // 16, case.features), compressors=None)
    start: dict[str, Any] = {
        "weights_init": p.weights,
        "means_init": p.means,
        "precisions_init": p.precisions,
        "acceleration": None,
        "max_iter": 1,
        "cache": 0,
        "tol": 1e9,
    }
    gm = GaussianMixture(case.components, **start).fit(x)
    targets = list(range(case.features // 4))
    given = list(range(len(targets), case.features))
    threshold = gm.anomaly_threshold(rows[:1000], false_alarm_rate=0.01)

    def a_pass() -> float:
        return float(GaussianMixture(case.components, **start).fit(x).history_[0].seconds)

    def written(write: Callable[..., Any]) -> Callable[[], float]:
        def turn() -> float:
            shutil.rmtree(out, ignore_errors=True)
            begun = time.perf_counter()
            write(x, out)
            return time.perf_counter() - begun

        return turn

    def regression(**how: Any) -> Callable[..., Any]:
        return lambda X, to: gm.predict_regression_to(X, to, given=given, targets=targets, **how)

    return {
        "pass": a_pass,
        "labels": written(gm.predict_to),
        "top 3": written(lambda X, to: gm.predict_to(X, to, top_k=3)),
        "regression": written(regression()),
        "regression, mean alone": written(regression(return_std=False)),
        "flags": written(lambda X, to: gm.predict_to(X, to, anomaly_threshold=threshold)),
        "distances": written(lambda X, _: gm.mahalanobis(X).sum().compute()),
        "threshold": written(lambda X, _: gm.anomaly_threshold(X, false_alarm_rate=0.001)),
    }


def main() -> None:
    """Run the cases and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="five times the rows")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = [Case(2_000, 4, 3)] if arguments.tiny else list(CASES)
    if arguments.full:
        cases = [Case(5 * c.rows, c.features, c.components) for c in cases]
    results = []
    with threadpool_limits(1), dask.config.set(num_workers=1):
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                seconds = timed(turns_of(case, Path(folder)), arguments.rounds)
            for name, taken in seconds.items():
                ratios = np.array(taken) / np.array(seconds["pass"])
                spread, ratio = Spread.of(taken), float(np.median(ratios))
                results.append({**asdict(case), "what": name, **spread._asdict(), "ratio": ratio})
    if arguments.json:
        print(json.dumps({"results": results}, indent=2))
        return
    print(f"{'N':>9} {'D':>4} {'K':>5}  {'what':24} {'ms':>9} {'±':>6} {'of a pass':>10}")
    for r in results:
        print(
            f"{r['rows']:>9,} {r['features']:>4} {r['components']:>5}  {r['what']:24} "
            f"{1e3 * r['median']:>9.1f} {1e3 * r['spread']:>6.1f} {r['ratio']:>10.2f}"
        )


if __name__ == "__main__":
    main()
