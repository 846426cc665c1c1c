"""The benchmarks run, agree among themselves and write records that can be read.

Only that: sizes here are tiny, nobody else's packages take part, and no time is judged.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Every benchmark, and how to run it within seconds; it writes JSON with a list `results` into
#: RECORD or, where that is not among its options, to its standard output.
RECORD, TABLE = "record.json", "table.md"
BENCHMARKS = {
    "bench_calibration": (
        "--rows",
        "4000",
        "--sample",
        "1000",
        "--seeds",
        "1",
        "--sets",
        "overlapping",
        "--json",
    ),
    "bench_checkpoint": ("--tiny", "--rounds", "1", "--json"),
    "bench_decoding": ("--mib", "1", "--rounds", "1", "--json"),
    "bench_using": ("--tiny", "--rounds", "1", "--json"),
    "bench_factors": ("--tiny", "--rows", "3000", "--rounds", "1", "--passes", "2", "--json"),
    "bench_kernels": ("--tiny", "--rounds", "1", "--json"),
    "bench_merging": ("--tiny", "--rounds", "1", "--json"),
    "bench_optimum": (
        "--rows",
        "4000",
        "--seeds",
        "1",
        "--sets",
        "2-10",
        "--contestants",
        "search",
        "before",
        "--json",
    ),
    "bench_rare": (
        "--rows",
        "4000",
        "--part",
        "0.01",
        "--seeds",
        "1",
        "--sets",
        "2-4",
        "--contestants",
        "search",
        "before",
        "--json",
    ),
    "bench_models": ("--tiny", "--rounds", "1", "--json"),
    "bench_missing": ("--tiny", "--rounds", "1", "--json"),
    "bench_families": ("--tiny", "--rounds", "1", "--json"),
    "bench_faults": ("--only", "commits, unheard", "gone", "--json"),
    "bench_fit": ("--tiny", "--rounds", "1", "--json", RECORD, "--markdown", TABLE),
    "bench_passes": ("--rows", "4000", "--seeds", "1", "--sets", "overlapping", "--json"),
    "bench_joined": ("--tiny", "--rounds", "1", "--codec", "zstd", "--json"),
    "bench_prior": ("--tiny", "--rounds", "1", "--json"),
    "bench_reader": ("--tiny", "--rounds", "1", "--codec", "zstd", "--json"),
    "bench_latency": ("--tiny", "--rounds", "1", "--only", "1MB-400", "32MB-400", "--json"),
    "bench_out_of_core": ("--tiny", "--rounds", "1", "--json"),
    "bench_overhead": ("--only", "empty", "small", "--rounds", "1", "--json"),
    "bench_roads": ("--tiny", "--rounds", "1", "--json"),
    "bench_scaling": ("--tiny", "--rounds", "1", "--json"),
    "bench_scale": ("--workers", "2", "--rounds", "1", "--blocks", "8", "--json"),
    "bench_selection": ("--rows", "4000", "--seeds", "1", "--contestants", "grid", "--json"),
    "bench_streams": ("--tiny", "--json"),
    "bench_tables": ("--tiny", "--rounds", "1", "--json"),
    "bench_time_to_fit": ("--tiny", "--rounds", "1", "--json", RECORD),
    "bench_whole_fit": ("--tiny", "--passes", "2", "--json", RECORD),
}


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run a benchmark from the root, as its docstring says, and read its record."""
    record = folder / RECORD
    options = [str(folder / o) if o in (RECORD, TABLE) else o for o in BENCHMARKS[name]]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(record.read_text() if record.exists() else done.stdout)
    return found


def numbers(value: Any) -> list[float]:
    """All numbers in a record."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [n for item in inside for n in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


def test_every_benchmark_is_on_the_list() -> None:
    assert {path.stem for path in HERE.glob("bench_*.py")} == set(BENCHMARKS)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a dozen processes, which a busy machine starts slowly
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_writes_a_record(name: str, tmp_path: Path) -> None:
    record = run(name, tmp_path)
    assert record["results"]
    assert all(map(math.isfinite, numbers(record)))
    if name == "bench_fit":
        check_contestants(record["results"], (tmp_path / TABLE).read_text())


def check_contestants(results: list[dict[str, Any]], table: str) -> None:
    """All arrived at the same log-likelihood, and the table has a row for each case."""
    assert {r["contestant"] for r in results} == {
        "ours (compiled)",
        "ours (weights)",
        "ours (blas)",
        "scikit-learn",
    }
    for r in results:
        assert r["off"] < {"float64": 1e-10, "float32": 1e-5}[r["case"]["dtype"]], r
        assert r["iterations"] == 3, r
    rows = [line for line in table.splitlines() if line.startswith(("| full,", "| diag,"))]
    assert len(rows) == len({json.dumps(r["case"]) for r in results})
    assert not any("¹" in row for row in rows)
