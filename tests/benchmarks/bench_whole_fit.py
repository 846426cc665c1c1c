"""Whole fits of the same rows from NumPy and from Zarr: seconds a pass, GB/s, memory.

Run from the repository's root, at best on a machine that does nothing else:

    python -m tests.benchmarks.bench_whole_fit --threads 2            # 1 GB, about five minutes
    python -m tests.benchmarks.bench_whole_fit --full --folder DISK   # 6 GB, half an hour
    python -m tests.benchmarks.bench_whole_fit --quick                # 256 MB, two minutes

Rows of 16 float64 features lie in an .npy file and in Zarr arrays with blocks of 64 MB, without a
codec and with zstd; values are rounded to 1/1024, as from an instrument, so that there is something
to compress. The files were just written, so they come from the operating system's cache if memory
allows: this measures decoding and computing, not the disk.

Every line is a process of its own, which ends before the next one starts:

- `read` fetches and decodes the blocks as a pass does, and computes nothing;
- `fit` finds its own start (sample, k-means on it) and makes so many passes, for few components
  (reading dominates) and for many (arithmetic does);
- `scikit-learn` fits the array in memory (not with `--full`, where it would take an hour).

`s/pass` is the median of the passes, GB/s decoded bytes by that; `ideal` is the longer of reading
alone and computing alone (the fit from NumPy): what a pass from Zarr would take were the two
perfectly overlapped. `held` is the largest resident memory during the fit beyond what was there
before it, where rows in memory are there before: to be compared with the size of the data.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from tests.benchmarks.contest import one_answer
from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.records import benchmark_parser, markdown_table, write

if TYPE_CHECKING:
    import argparse

FEATURES = 16
BLOCK_BYTES = 64_000_000
PLACES = ("numpy", "none", "zstd")


@dataclass(frozen=True)
class Line:
    """One process and what it found; sizes in bytes, times in seconds."""

    what: str
    place: str
    components: int
    per_pass: float
    passes: list[float]
    bytes: int
    ideal: float | None
    seconds: float
    sample: float | None
    start: float | None
    idle: int | None
    peak: int | None
    lower_bound: float | None

    @property
    def held(self) -> int | None:
        """Most memory that the fit itself held."""
        return None if self.peak is None or self.idle is None else self.peak - self.idle


def write_data(folder: Path, size: int, block_bytes: int) -> dict[str, Path]:
    """Write the same rows three times, a block at a time."""
    rows = size // (8 * FEATURES)
    block_rows = block_bytes // (8 * FEATURES)
    paths = {"numpy": folder / "rows.npy", "none": folder / "none", "zstd": folder / "zstd"}
    whole = np.lib.format.open_memmap(paths["numpy"], "w+", np.float64, (rows, FEATURES))
    codecs = {"none": None, "zstd": ZstdCodec(level=3)}
    arrays = [
        zarr.create_array(
            str(paths[place]),
            shape=whole.shape,
            chunks=(min(block_rows, rows), FEATURES),
            dtype="f8",
            compressors=codec,
        )
        for place, codec in codecs.items()
    ]
    rng = np.random.default_rng(0)
    means = 2.0 * rng.normal(size=(32, FEATURES))
    for first in range(0, rows, block_rows):
        count = min(block_rows, rows - first)
        block = means[rng.integers(len(means), size=count)] + rng.normal(size=(count, FEATURES))
        block = np.round(block * 1024.0) / 1024.0
        for array in (whole, *arrays):
            array[first : first + count] = block
    whole.flush()
    return paths


def measure(
    paths: dict[str, Path], arguments: argparse.Namespace, components: tuple[int, ...]
) -> list[Line]:
    """All lines, in the order in which their ideals need them."""
    lines: list[Line] = []

    def add(what: str, place: str, k: int, ideal: float | None = None) -> float:
        found = one_answer(
            "run_whole.py",
            arguments.threads,
            what=what,
            data=str(paths[place]),
            components=k,
            passes=arguments.passes,
            seed=0,
        )
        per_pass = median(found["passes"])
        lines.append(Line(what, place, k, per_pass, ideal=ideal, **found))
        print(text_of(lines[-1]), flush=True)
        return per_pass

    reading = {place: add("read", place, 0) for place in PLACES[1:]}
    for k in components:
        computing = add("fit", "numpy", k)
        for place in PLACES[1:]:
            add("fit", place, k, max(reading[place], computing))
        if not arguments.full:
            add("scikit-learn", "numpy", k)
    check(lines, components)
    return lines


def check(lines: list[Line], components: tuple[int, ...]) -> None:
    """Fits of the same blocks arrive at the same bits, whatever the codec.

    NumPy's blocks are others, hence its sample and its start: nothing is to be compared.
    """
    for k in components:
        bounds = {r.place: r.lower_bound for r in lines if r.what == "fit" and r.components == k}
        assert bounds["none"] == bounds["zstd"] is not None, bounds


def text_of(line: Line) -> str:
    """A row of the table."""
    shape = f"K={line.components:<3}" if line.components else "     "
    text = f"{line.what:13} {line.place:6} {shape} {line.per_pass:8.3f} s/pass "
    text += f"{line.bytes / line.per_pass / 1e9:6.2f} GB/s"
    text += f"  {line.per_pass / line.ideal:5.2f} x ideal" if line.ideal else " " * 15
    if line.what != "read":
        text += f"  whole {line.seconds:7.2f} s"
    if line.sample is not None and line.start is not None:
        text += f", sample {line.sample:.2f} s, start {line.start:.2f} s"
    if line.held is not None and line.idle is not None:
        text += f"  held {line.held / 1e6:6.0f} MB beyond {line.idle / 1e6:.0f}"
    return text


def markdown(lines: list[Line], size: int, threads: int, machine: dict[str, Any]) -> str:
    """The same as a table for a page."""
    headings = ["", "from", "K", "s a pass", "GB/s", "× ideal", "whole fit, s", "memory held, MB"]
    rows = [
        [
            line.what,
            line.place,
            str(line.components or ""),
            f"{line.per_pass:.2f}",
            f"{line.bytes / line.per_pass / 1e9:.2f}",
            "" if line.ideal is None else f"{line.per_pass / line.ideal:.2f}",
            "" if line.what == "read" else f"{line.seconds:.1f}",
            "" if line.held is None else f"{line.held / 1e6:.0f}",
        ]
        for line in lines
    ]
    about = f"{size / 1e9:.2f} GB of rows, {threads} thread{'s' * (threads > 1)}."
    return "\n".join([markdown_table(headings, 2, rows), "", about, "", machine_line(machine), ""])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(__doc__, "6 GB, more than enough to see", "256 MB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put the data; else where Python does")
    return parser.parse_args()


def main() -> None:
    """Measure and show."""
    arguments = parse()
    begun = time.perf_counter()
    size = 6_144_000_000 if arguments.full else 1_024_000_000
    block_bytes = BLOCK_BYTES
    components = (4, 32)
    if arguments.quick:
        size = 256_000_000
    if arguments.tiny:
        size, block_bytes, components = 2_048_000, 256_000, (3,)
    machine = describe_machine()
    print(machine_line(machine))
    print(f"{size / 1e9:.3f} GB of rows, {arguments.threads} thread(s), {arguments.passes} passes.")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        paths = write_data(Path(name), size, block_bytes)
        lines = measure(paths, arguments, components)
    print(f"\nTook {time.perf_counter() - begun:.0f} s.")
    record = {"machine": machine, "size": size, "threads": arguments.threads}
    record["results"] = [asdict(line) | {"held": line.held} for line in lines]
    write(arguments, record, markdown(lines, size, arguments.threads, machine))


if __name__ == "__main__":
    main()
