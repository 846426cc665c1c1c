"""Seconds of an EM iteration through the public `fit`, beside other packages.

Run from the repository's root, at best on a machine that does nothing else:

    python -m tests.benchmarks.bench_fit --threads 1 \\
        --onedal peers/onedal/bin/python --pomegranate peers/pomegranate/bin/python \\
        --spark peers/spark/bin/python --json fit-1.json --markdown fit-1.md

The peers live in environments of their own, as their versions clash (Spark 4 needs Java 17 too):

    python3 -m venv peers/onedal && peers/onedal/bin/pip install scikit-learn-intelex
    python3 -m venv peers/pomegranate && peers/pomegranate/bin/pip install "pomegranate>=1.1"
    python3 -m venv peers/spark && peers/spark/bin/pip install pyspark numpy

(scikit-learn-intelex carries daal4py; the package daal4py ends at 2024.7 and needs
scikit-learn<1.6.) A peer that is not given is left out, and a line says so.

All cases with a fifth of the rows take about a quarter of an hour, `--full` takes all rows,
`--quick` a sample of the cases, `--case "full D=16 float64"` those with these words.

How a change did: `--ours --before CHECKOUT`, a worktree of the commit before it, lets only this
package take part, as it was, as it is, and as it is with weights of rows (`git worktree add`).

What is measured: each contestant is a process, with so many threads (for OpenMP, BLAS, oneDAL,
PyTorch, local cores of Spark). All are given the same rows in memory and the same start: weights,
means and covariances. A turn is a fit of one iteration and a fit of three; half of the difference
is the time of an iteration, what is left of the first is the set-up, shown beside. The contestants
take turns, so that whatever else the machine does meets them all alike; slow ones sit out rounds.
The table has medians and spreads (half the distance between the quartiles) over the turns, and the
median of the ratios within a round. After three iterations one judge computes everybody's
log-likelihood, on the first 20,000 rows; where it is not scikit-learn's, the table says so.

No covariance is regularised. Spark knows full covariances and float64 only, adds 2.2e-16 to each
density, hence cannot do D = 128, and takes part in the overlapping cases alone, as its time does
not depend on the data. Where others use the cores too, `--clock cpu` counts the CPU seconds of the
contestants' processes instead; with one thread that is nearly what the clock on the wall would say
on a quiet machine. Spark, whose work is another process's, then sits out.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contest import Contestant, Entry, Result, Rules, compete
from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.problems import CASES, Case
from tests.benchmarks.records import benchmark_parser, markdown_table, write

if TYPE_CHECKING:
    import argparse

OURS = ("ours (compiled)", "ours (blas)")
WEIGHED = "ours (weights)"
"""All rows have the weight 2: neither 0 nor 1, which programs take a short way for."""

#: Largest relative difference of log-likelihoods that passes for the same.
SAME = {"float64": 1e-8, "float32": 1e-5}


def entries(arguments: argparse.Namespace) -> list[Entry]:
    """Who takes part; scikit-learn and both of our kernels, unless only this package is wanted."""
    here = sys.executable
    found = [
        Entry(OURS[0], here, "ours", ("compiled",)),
        Entry(WEIGHED, here, "ours", ("compiled", "2")),
    ]
    if arguments.before:
        found.append(Entry("before", here, "ours", ("compiled",), path=arguments.before))
    if arguments.ours:
        return found
    found += [
        Entry(OURS[1], here, "ours", ("blas",)),
        Entry("scikit-learn", here, "scikit_learn"),
    ]
    peers = (
        Entry("oneDAL", arguments.onedal, "onedal"),
        Entry("pomegranate", arguments.pomegranate, "pomegranate"),
        Entry(
            "Spark MLlib",
            arguments.spark,
            "spark",
            families=("full",),
            dtypes=("float64",),
            kinds=("overlapping",),
            most_features=32,
        ),
    )
    for peer in peers:
        if not peer.interpreter:
            print(f"{peer.name} is left out: no --{peer.script} PYTHON was given.")
        elif arguments.clock == "cpu" and peer.script == "spark":
            print(f"{peer.name} is left out: its CPU seconds are those of another process.")
        else:
            found.append(peer)
    return found


def chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    """The cases to run, with as many rows as asked for."""
    part = 1 if arguments.full else 20 if arguments.quick else 500 if arguments.tiny else 5
    cases = [case.scaled(part) for case in CASES]
    if arguments.quick:
        cases = [c for c in cases if (c.dtype, c.kind) == ("float64", "overlapping")]
    if arguments.tiny:
        cases = [c for c in cases if c.features < 32 and c.kind == "separated"]
    words = arguments.case.split()
    cases = [c for c in cases if set(words) <= set(c.label.split())]
    if not cases:
        raise SystemExit(f"No case has all the words of --case {arguments.case!r}.")
    return cases


def case_lines(results: list[Result]) -> list[str]:
    """A case as lines of text."""
    case = results[0].case
    lines = [f"\n{case.family} {case.rows:,} x {case.features}, K={case.components}, "]
    lines[0] += f"{case.dtype}, {case.kind}"
    for r in results:
        beside = "".join(
            f"  {r.ratios[name]:6.3f} x {name}"
            for name in (*OURS, "before")
            if name != r.contestant and name in r.ratios
        )
        lines.append(
            f"  {r.contestant:16} {1e3 * r.median:9.2f} ms ± {1e3 * r.spread:6.2f} "
            f"({len(r.rounds)} turns)  set-up {1e3 * max(0.0, median(r.setup)):7.1f} ms{beside}"
            f"  off by {r.off:.0e}{'' if same(r) else '  NOT THE SAME LIKELIHOOD'}"
        )
    return lines


def same(result: Result) -> bool:
    """Whether a contestant arrived where scikit-learn did, in as many iterations as asked for."""
    return result.off <= SAME[result.case.dtype]


def markdown(cases: list[list[Result]], threads: int, machine: dict[str, Any]) -> str:
    """Cases by peers: how many times the compiled kernel's seconds each of them takes."""
    peers = list(dict.fromkeys(r.contestant for results in cases for r in results))
    peers.remove(OURS[0])
    rows = []
    for results in cases:
        by_name = {r.contestant: r for r in results}
        case = results[0].case
        row = [
            f"{case.family}, {case.kind}",
            f"{case.rows:,} × {case.features}, {case.components}",
            case.dtype,
            f"{1e3 * by_name[OURS[0]].median:.2f}",
        ]
        for name in peers:
            r = by_name.get(name)
            row.append("" if r is None else f"{r.ratios[OURS[0]]:.1f}×{'' if same(r) else ' ¹'}")
        rows.append(row)
    lines = [markdown_table(["case", "rows × D, K", "dtype", "ours, ms", *peers], 3, rows), ""]
    lines.append(
        f"Milliseconds of an iteration on {threads} thread{'s' * (threads > 1)}, and how many "
        "times as long the others take."
    )
    if not all(same(r) for results in cases for r in results):
        lines += ["", "¹ does not arrive at the same log-likelihood."]
    return "\n".join([*lines, "", machine_line(machine), ""])


def record(result: Result) -> dict[str, Any]:
    """A result for JSON."""
    return asdict(result) | {"median": result.median, "spread": result.spread}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = benchmark_parser(
        __doc__, "all rows instead of a fifth of them", "six cases, a twentieth of the rows"
    )
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--rounds", type=int, default=7, help="turns of a fast contestant")
    parser.add_argument("--iterations", type=int, default=2, help="by which a turn's fits differ")
    parser.add_argument("--budget", type=float, default=4.0, help="seconds a contestant and case")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--case", metavar="WORDS", default="", help="only cases with these words")
    parser.add_argument("--ours", action="store_true", help="nobody but this package")
    parser.add_argument("--before", metavar="CHECKOUT", help="this package at another commit")
    parser.add_argument("--onedal", metavar="PYTHON", help="an interpreter with daal4py")
    parser.add_argument("--pomegranate", metavar="PYTHON", help="an interpreter with pomegranate")
    parser.add_argument("--spark", metavar="PYTHON", help="an interpreter with pyspark")
    return parser.parse_args()


def main() -> None:
    """Measure and show."""
    arguments = parse()
    begun = time.perf_counter()
    cases = chosen_cases(arguments)
    machine = describe_machine()
    print(machine_line(machine))
    rules = Rules(arguments.iterations, arguments.rounds, arguments.budget, arguments.clock)
    found: list[list[Result]] = []
    with ExitStack() as cleaning:
        contestants = [Contestant(e, arguments.threads, cleaning) for e in entries(arguments)]
        versions = {c.entry.name: c.versions for c in contestants}
        print(
            "; ".join(f"{n}: " + ", ".join(map(" ".join, v.items())) for n, v in versions.items())
        )
        print(f"Each with {arguments.threads} thread(s); milliseconds of an EM iteration.")
        for case in cases:
            found.append(compete(case, contestants, rules))
            print("\n".join(case_lines(found[-1])), flush=True)
    print(f"\nTook {time.perf_counter() - begun:.0f} s.")
    about = {"machine": machine, "versions": versions, "threads": arguments.threads}
    about |= {"clock": arguments.clock, "results": [record(r) for rs in found for r in rs]}
    write(arguments, about, markdown(found, arguments.threads, machine))


if __name__ == "__main__":
    main()
