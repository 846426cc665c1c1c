"""Seconds of CPU time per pass over scaled rows, beside the same rows as they are.

Run from the repository's root:

    python -m tests.benchmarks.bench_scaling            # a table
    python -m tests.benchmarks.bench_scaling --json     # the same as JSON, for records
    python -m tests.benchmarks.bench_scaling --full     # five times the rows

One thread, one BLAS thread; a pass reads each block and takes its statistics. "memory" are rows of
an array, of which plain passes take views and scaled ones make a copy in a buffer; "zarr" are rows
of an uncompressed store in the page cache, which are scaled where they were read to. "arcsinh" has
a cofactor; "all" is arcsinh, then standardised, then as many principal components as features. All
evaluate the same mixture, which is one of the rows as they are: a kernel that leaves negligible
responsibilities out may have a little less or more to do with scaled ones. The contestants take
turns; what is shown is the median of the rounds, half the distance between their quartiles, and the
median of the ratios to the plain turn of the same round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from threadpoolctl import threadpool_limits

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.source import open_source
from dask_gmm.mixture.kernels import Candidate, get_kernel
from dask_gmm.rows import Rows
from dask_gmm.scaling import ScalingRequest
from dask_gmm.scaling.estimate import estimated_from_rows
from tests.benchmarks.turns import Spread, timed
from tests.mixture.problems import draw, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source
    from dask_gmm.mixture.parameters import MixtureParameters

_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Case:
    """A shape of problem."""

    family: str
    dtype: str
    place: str
    rows: int
    features: int
    components: int


CASES = tuple(
    Case(family, dtype, place, 4_000_000 // d, d, 8)
    for family in ("full", "diag")
    for dtype in ("f8", "f4")
    for place in ("memory", "zarr")
    for d in (4, 8, 16, 32)
)

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "standardize": {"standardize": True},
    "arcsinh": {"feature_transform": ("arcsinh", 5.0)},
    "log1p": {"feature_transform": "log1p"},
    "pca": {"n_pca": 0},
    "all": {"feature_transform": ("arcsinh", 5.0), "standardize": True, "n_pca": 0},
}


def source_of(asked: dict[str, Any], raw: Source, rows: NDArray[Any]) -> Source:
    """The source of rows that are scaled as asked for."""
    if "n_pca" in asked:
        asked = {**asked, "n_pca": rows.shape[1]}
    request = ScalingRequest.of(**asked)
    if request is None:
        return raw
    scaling = request.begin(rows.shape[1])
    if request.estimates:
        some = rows[:10_000] if scaling.elementwise is None else scaling.apply(rows[:10_000])
        scaling = estimated_from_rows(scaling, request, Rows(some), rows.dtype)
    return scaled(raw, scaling)


def a_pass(source: Source, p: MixtureParameters) -> Callable[[], float]:
    """One pass over a source, prepared once; its seconds."""
    kernel, buffers = get_kernel(), ReadBuffers()

    def turn() -> float:
        begun = time.thread_time()
        e_step = kernel.e_step([Candidate(p)])
        for i in range(source.n_blocks):
            e_step.statistics(source.read_into(source.block(i), buffers))
        return time.thread_time() - begun

    return turn


def results_of(case: Case, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Run a case."""
    p = random_mixture(1, case.family, case.components, case.features)
    rows = np.abs(draw(2, p, case.rows)).astype(case.dtype)
    chunk = max(1, _BLOCK_BYTES // (rows.itemsize * case.features))
    raw = open_source(rows, block_rows=chunk)
    if case.place == "zarr":
        path = str(folder / f"{case.dtype}-{case.features}.zarr")
        zarr.create_array(
            path, data=rows, chunks=(chunk, case.features), compressors=None, overwrite=True
        )
        raw = open_source(path)
    turns = {kind: a_pass(source_of(asked, raw, rows), p) for kind, asked in KINDS.items()}
    timed(turns, 1)  # compiles programs, which each process does once
    seconds = timed(turns, rounds)
    return [
        {
            "case": asdict(case),
            "scaling": kind,
            **Spread.of(taken)._asdict(),
            "ratio": float(np.median(np.divide(taken, seconds["plain"]))),
        }
        for kind, taken in seconds.items()
    ]


def main() -> None:
    """Run the cases and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="five times the rows")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        for case in CASES[:1] if arguments.tiny else CASES:
            n = 2000 if arguments.tiny else case.rows * (5 if arguments.full else 1)
            case = Case(**{**asdict(case), "rows": n})
            found = results_of(case, Path(folder), arguments.rounds)
            results += found
            if not arguments.json:
                head = f"{case.family:5}{case.dtype:3}{case.place:7}{n:9,} × {case.features:<3}"
                ratios = "  ".join(f"{r['scaling']} × {r['ratio']:.2f}" for r in found[1:])
                plain = found[0]
                print(
                    f"{head} K={case.components:<3} plain {plain['median']:.4f} s "
                    f"± {plain['spread']:.4f}   {ratios}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"results": results}))


if __name__ == "__main__":
    main()
