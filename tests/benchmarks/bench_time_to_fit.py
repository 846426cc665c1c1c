"""Seconds until a fit is as good as plain EM left to run: from Zarr, from NumPy, scikit-learn.

Run from the repository's root, at best on a machine that does nothing else:

    python -m tests.benchmarks.bench_time_to_fit --threads 2          # 5M × 8 and 5M × 16
    python -m tests.benchmarks.bench_time_to_fit --features 8 --rows 500000
    python -m tests.benchmarks.bench_time_to_fit --sets pixels        # 547,000 × 3
    python -m tests.benchmarks.bench_time_to_fit --quick              # 200,000 × 8, a minute

Rows of eight overlapping components (`bench_passes`; their means as far apart in any number of
features) lie in an .npy file and in a Zarr array with blocks of 64 MB, zstd, rounded to 1/1024 as
from an instrument. The files were just written, so they come from the operating system's cache if
memory allows; ours keeps no decoded block (`--cache auto` lets it), as if there were more of them
than memory. All contestants have the same threads and one start, k-means on a sample:

- `plain` is our plain EM; it goes on once until a pass gains less than 1e-7 nats per row, and from
  there an accelerated fit finds the optimum it was bound for: the limit for everybody;
- `accelerated` is variance-reduced EM from the same start, the drawing of its sample included;
- `own start` is variance-reduced EM as a fit of a store is by default, the best of five starts on
  the sample: what a user waits for from nothing;
- `scikit-learn` has the array in memory and makes plain EM's iterations, of which one is timed on
  all rows and multiplied by the passes that ours needs: running them all would take an hour. What
  it does before its first iteration is left out.

A turn is a process, and turns alternate. Times run from the beginning of `fit` to the end of the
first pass whose log-likelihood is within 1e-3 (1e-4) nats per row of the limit, medians of the
rounds; `whole` is the fit's own end at `--tol`, or for plain EM the pass that is within 1e-4. Where
a fit goes to another optimum, more than 1e-4 off, its times are to its own end, and `end` says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from dask_gmm.fitting.acceleration.sample_fit import thinned
from dask_gmm.fitting.sampling import automatic_size
from dask_gmm.fitting.starts import GivenParameters, initial_parameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.rows import Rows
from tests.benchmarks.bench_passes import SAME_OPTIMUM, gaussians, pixels, sample_of
from tests.benchmarks.contest import one_answer
from tests.benchmarks.machine import describe_machine, machine_line

COMPONENTS = 8
FULL = covariance_family("full")
BLOCK_BYTES = 64_000_000
LEVELS = (1e-3, 1e-4)
# Nats per row that a pass of plain EM gains when it is left.
CREEPING = 1e-7
# What runs, and from where.
CONTESTANTS = (
    "accelerated/zarr",
    "plain/zarr",
    "own start/zarr",
    "own start/numpy",
    "accelerated/numpy",
    "plain/numpy",
    "scikit-learn/numpy",
)


@dataclass
class Line:
    """A contestant in a case; times in seconds, one a round.

    Attributes
    ----------
    data : str
    rows, features : int
    what, place : str
    passes : dict of str to int
        Passes until within so many nats per row of the limit; of the sample's read none.
    seconds : dict of str to list of float
        To the same levels.
    whole : list of float
    end : float
        Last accepted log-likelihood over the limit.
    """

    data: str
    rows: int
    features: int
    what: str
    place: str
    passes: dict[str, int]
    seconds: dict[str, list[float]]
    whole: list[float] = field(default_factory=list)
    end: float = 0.0


def simulate(name: str, n: int, d: int, seed: int) -> np.ndarray:
    """Rows of a set."""
    if name == "pixels":
        return pixels(seed, n).rows
    # The distances between means grow with √D, the scales do not.
    spread = 4.0 if name == "separated" else 1.5 / np.sqrt(2.0)
    return gaussians(seed, n, COMPONENTS, d, spread * np.sqrt(8.0 / d))[0]


def write(folder: Path, rows: np.ndarray, seed: int) -> dict[str, Path]:
    """Round the rows, put them into both places, and a start beside them."""
    np.round(rows * 1024.0, out=rows)
    rows /= 1024.0
    paths = {"numpy": folder / "rows.npy", "zarr": folder / "rows.zarr"}
    np.save(paths["numpy"], rows)
    chunk = max(1, min(len(rows), BLOCK_BYTES // (8 * rows.shape[1])))
    zarr.create_array(str(paths["zarr"]), data=rows, chunks=(chunk, rows.shape[1]))
    size = automatic_size(FULL.n_parameters(COMPONENTS, rows.shape[1]), rows.shape[1])
    start = initial_parameters(
        thinned(Rows(sample_of(rows, size, seed)), COMPONENTS, FULL),
        n_components=COMPONENTS,
        model=MaximumLikelihood(FULL, 1e-6),
        init_params="kmeans",
        random_state=np.random.RandomState(seed),
        given=GivenParameters(),
    )
    np.savez(
        folder / "start.npz",
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=start.precisions,
    )
    return paths | {"start": folder / "start.npz"}


def passes_to(bounds: list[float], limit: float) -> dict[str, int]:
    """Passes until within each level of a limit; all where none is, which cannot be by much."""
    return {
        f"{level:g}": next((i for i, b in enumerate(bounds, 1) if limit - b <= level), len(bounds))
        for level in LEVELS
    }


def measure(
    name: str, rows: np.ndarray, paths: dict[str, Path], arguments: argparse.Namespace
) -> list[Line]:
    """All contestants on one set of rows."""
    common = {"start": str(paths["start"]), "cache": arguments.cache}
    first = one_answer(
        "run_time_to_fit.py",
        arguments.threads,
        what="limit",
        data=str(paths["numpy"]),
        tol=CREEPING,
        passes=arguments.most_passes,
        **common,
    )
    limit, needed = first["end"], passes_to(first["bounds"], first["end"])
    most = needed[f"{LEVELS[-1]:g}"]
    left = limit - first["bounds"][-1]
    print(f"{name}, {rows.shape}: plain EM's limit {limit:.6f}", end=", ")
    print(f"{left:.0e} above its pass {len(first['bounds'])}")
    lines: dict[tuple[str, str], Line] = {}
    for number in range(arguments.rounds):
        for what, place in (name.split("/") for name in arguments.only):
            scikit_learn = what == "scikit-learn"
            if scikit_learn and number >= arguments.scikit_learn_rounds:
                continue
            print(f"  {number}: {what} {place}", file=sys.stderr, flush=True)
            plain, passes = what in ("plain", "scikit-learn"), 1000
            if plain:
                passes = arguments.iterations if scikit_learn else most
            found = one_answer(
                "run_time_to_fit.py",
                arguments.threads,
                what=what,
                data=str(paths[place]),
                tol=0.0 if plain else arguments.tol,
                passes=passes,
                **common,
            )
            end = 0.0 if plain else found["end"] - limit
            aim = limit if abs(end) <= SAME_OPTIMUM else found["end"]
            counts = needed if plain else passes_to(found["bounds"], aim)
            line = lines.setdefault(
                (what, place),
                Line(name, *rows.shape, what, place, counts, {level: [] for level in counts}),
            )
            line.end = end
            for level, count in counts.items():
                seconds = found["passes"]
                line.seconds[level].append(
                    count * seconds[0] if scikit_learn else seconds[count - 1]
                )
            if not scikit_learn:
                line.whole.append(found["seconds"])
    return list(lines.values())


def show(lines: list[Line]) -> None:
    """The table of one set of rows; "x first" is by the first line's seconds."""
    reference, levels = lines[0], list(lines[0].seconds)
    head = "".join(f"{f'passes to {n}':>17}{'s':>9}{'x first':>8}" for n in levels)
    print(f"{'':13}{'from':6}{head}{'whole, s':>10}{'end':>10}")
    for line in lines:
        text = f"{line.what:13}{line.place:6}"
        for level in levels:
            took = median(line.seconds[level])
            ratio = took / median(reference.seconds[level])
            text += f"{line.passes[level]:17}{took:9.2f}{ratio:8.2f}"
        text += f"{median(line.whole):10.2f}" if line.whole else f"{'':10}"
        print(f"{text}{line.end:10.0e}", flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="200,000 rows of 8 features")
    sizes.add_argument("--tiny", action="store_true", help="sizes of a test; figures mean nothing")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--sets", nargs="+", choices=("overlapping", "separated", "pixels"))
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scikit-learn-rounds", type=int, default=1)
    parser.add_argument(
        "--iterations", type=int, default=3, help="of scikit-learn's longer fit, at least 2"
    )
    parser.add_argument("--most-passes", type=int, default=2000, help="of plain EM to its limit")
    parser.add_argument("--tol", type=float, default=1e-4, help="of the accelerated fits")
    parser.add_argument("--cache", default=0, help="of decoded blocks: bytes or 'auto'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to put the data; else where Python does")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a record there")
    return parser.parse_args()


def main() -> None:
    """Measure and show."""
    arguments = parse()
    begun = time.perf_counter()
    if arguments.quick:
        arguments.rows, arguments.features = 200_000, [8]
    if arguments.tiny:
        arguments.rows, arguments.features, arguments.most_passes = 4000, [2], 50
    machine = describe_machine()
    print(machine_line(machine))
    print(f"{arguments.threads} thread(s), {arguments.rounds} rounds.")
    everything: list[Line] = []
    for name in arguments.sets or ["overlapping"]:
        for d in [3] if name == "pixels" else arguments.features:
            rows = simulate(name, arguments.rows, d, arguments.seed)
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                paths = write(Path(folder), rows, arguments.seed)
                lines = measure(name, rows, paths, arguments)
            show(lines)
            everything += lines
    print(f"\nTook {time.perf_counter() - begun:.0f} s.")
    if arguments.json:
        about = {"machine": machine, "threads": arguments.threads, "tol": arguments.tol}
        record = about | {"results": [asdict(line) for line in everything]}
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
