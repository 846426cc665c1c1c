"""What a slow, throttling, lying network does to fits, checkpoints and models.

Run from the repository's root:

    python -m tests.benchmarks.bench_faults [--only NAME ...] [--json]

Each row is a fault that a proxy puts between this process and moto's S3 server on this machine:
what it does to which requests, what came out, how many requests there were of that kind, how many
met the fault, and the seconds that the work took, with and without it. "The same bits" are those of
the same work without it. The cases are those of `tests/faults/network.py`, which the tests
hold to what is printed here.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tests.benchmarks.machine import describe_machine, machine_line
from tests.benchmarks.records import markdown_table
from tests.faults.network import LASTING, PASSING, Stage, stage_at
from tests.object_store import serve_objects

HEADINGS = [
    "what is injected",
    "work",
    "what came out",
    "requests",
    "of them hit",
    "s",
    "s without",
]


def measured(stage: Stage, name: str) -> list[dict[str, Any]]:
    """Run the cases of a name, of faults that pass and of those that last."""
    found = []
    for cases in (PASSING, LASTING):
        if name in cases:
            case = cases[name]
            outcome = stage.run(case)
            found.append(
                {
                    "case": case.what,
                    "work": case.work,
                    "requests": outcome.asked,
                    "injected": outcome.injected,
                    "outcome": str(outcome),
                    "seconds": outcome.seconds,
                    "without": stage.seconds(case),
                }
            )
    return found


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args()
    names = arguments.only or [*PASSING, *(name for name in LASTING if name not in PASSING)]
    machine = describe_machine()
    with serve_objects() as server, stage_at(server) as stage:
        results = [row for name in names for row in measured(stage, name)]
    if arguments.json:
        json.dump({"machine": machine, "results": results}, sys.stdout, indent=1)
        return
    print(machine_line(machine), end="\n\n")
    rows = [
        [
            row["case"],
            row["work"],
            row["outcome"],
            str(row["requests"]),
            str(row["injected"]),
            f"{row['seconds']:.2f}",
            f"{row['without']:.2f}",
        ]
        for row in results
    ]
    print(markdown_table(HEADINGS, 3, rows))


if __name__ == "__main__":
    main()
