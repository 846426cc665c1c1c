"""What the contestants of `bench_fit` have in common: the loop that answers the driver.

A contestant is a script that an interpreter of its own environment runs, so nothing is imported
here but NumPy. It is told the number of threads on the command line, says hello with its versions,
then reads one JSON message a line from its standard input and answers each with one:

    {"load": FOLDER, "family": NAME}       take rows.npy and start.npz from there -> {"loaded": N}
    {"iterations": N, "keep": FILE|null}   fit -> {"wall": S, "cpu": S|null, "peak": BYTES|null}

`wall` and `cpu` are the seconds of the fit alone, `peak` the largest resident memory of the
process so far. Into the file `keep` go the weights, means and covariances that the fit ended with;
writing it is not timed. What a package prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Problem:
    """Rows (N, D), and where to start: weights (K,), means (K, D), covariances (K, D, D | D)."""

    family: str
    rows: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @classmethod
    def load(cls, folder: Path, family: str) -> Problem:
        start = np.load(folder / "start.npz")
        rows = np.load(folder / "rows.npy")
        return cls(family, rows, start["weights"], start["means"], start["covariances"])


class Fitted(Protocol):
    """What a fit returns: asked for its parameters once the clock has stopped."""

    def __call__(self) -> Mapping[str, Any]: ...


Fit = Callable[[int], Fitted]
"""Runs that many iterations from the problem's start."""


def serve(versions: Mapping[str, str], prepare: Callable[[Problem], Fit], *, cpu: bool) -> None:
    """Answer the driver until it closes the pipe.

    Parameters
    ----------
    versions : mapping of str to str
        Packages and their versions.
    prepare : callable
        Makes the fit of a problem; what it does is not timed.
    cpu : bool
        Whether the work is done by this process, so that its CPU time says something.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: Mapping[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    answer({"versions": dict(versions)})
    fit: Fit | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            fit = None  # lets go of the last problem before the next one comes
            problem = Problem.load(Path(asked["load"]), asked["family"])
            fit = prepare(problem)
            answer({"loaded": len(problem.rows)})
            continue
        assert fit is not None
        wall, used = time.perf_counter(), time.process_time()
        fitted = fit(asked["iterations"])
        wall, used = time.perf_counter() - wall, time.process_time() - used
        if asked["keep"]:
            np.savez(asked["keep"], **fitted())
        answer({"wall": wall, "cpu": used if cpu else None, "peak": peak_memory() if cpu else None})


def peak_memory() -> int | None:
    """Most bytes that were resident in this process at a time; None where Linux does not say.

    From /proc, not from `getrusage`, whose figure a process inherits from the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith("VmHWM:")), None)
