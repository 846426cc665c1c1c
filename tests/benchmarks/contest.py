"""Contestants that take turns, each in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.problems import Case, log_likelihood, write
from tests.benchmarks.turns import Spread

if TYPE_CHECKING:
    from contextlib import ExitStack

SCRIPTS = Path(__file__).with_name("contestants")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


@dataclass(frozen=True)
class Entry:
    """A contestant on the list: what runs it, and which cases it can take."""

    name: str
    interpreter: str
    script: str
    options: tuple[str, ...] = ()
    families: tuple[str, ...] = ("full", "diag")
    dtypes: tuple[str, ...] = ("float64", "float32")
    kinds: tuple[str, ...] = ("separated", "overlapping")
    most_features: int = 1_000_000
    path: str | None = None
    """A checkout whose packages it imports, before all others."""

    def takes(self, case: Case) -> bool:
        """Whether it takes part in a case."""
        return (
            case.family in self.families
            and case.dtype in self.dtypes
            and case.kind in self.kinds
            and case.features <= self.most_features
        )


def one_answer(script: str, threads: int, **task: Any) -> dict[str, Any]:
    """Give a task to a script of `contestants/`, in a process that ends with its answer."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), str(threads)],
        input=json.dumps(task) + "\n",
        stdout=subprocess.PIPE,
        env=os.environ | {name: str(threads) for name in THREAD_VARIABLES},
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Contestant:
    """A running contestant; see `contestants/serving.py` for what is said over the pipes."""

    def __init__(self, entry: Entry, threads: int, cleaning: ExitStack) -> None:
        self.entry = entry
        self._log = cleaning.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 - it is one
        environment = os.environ | {name: str(threads) for name in THREAD_VARIABLES}
        environment["PYTHONWARNINGS"] = "ignore"
        if entry.path is not None:
            environment["PYTHONPATH"] = str(Path(entry.path).resolve())
        script = str(SCRIPTS / f"run_{entry.script}.py")
        self._process = cleaning.enter_context(
            subprocess.Popen(
                [entry.interpreter, script, str(threads), *entry.options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                env=environment,
            )
        )
        cleaning.callback(self._process.stdin.close)
        self.versions: dict[str, str] = self._read()["versions"]

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message and wait for the answer."""
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.entry.name} ended:\n{self._log.read()[-3000:]}")
        return json.loads(line)


@dataclass
class Result:
    """What came of a case for one contestant.

    Attributes
    ----------
    seconds : list of float
        Of an iteration, one a turn: the difference between two fits by its iterations.
    setup : list of float
        Seconds of a fit beside its iterations, one a turn.
    ratios : dict of str to float
        Of this contestant's seconds to another's: the median over their common rounds, or of their
        medians where those are fewer than three.
    log_likelihood : float
        Mean per row after the same iterations, by one judge, in nats.
    off : float
        Relative difference of that to scikit-learn's.
    """

    case: Case
    contestant: str
    log_likelihood: float
    iterations: int
    peak: int | None = None
    off: float = 0.0
    rounds: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    setup: list[float] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds of an iteration."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles of the seconds."""
        return Spread.of(self.seconds).spread


#: Rounds of which the median would still be a single turn's noise.
FEW = 3


@dataclass(frozen=True)
class Rules:
    """How a case is run.

    Attributes
    ----------
    iterations : int
        A turn is a fit of one iteration and one of so many more.
    rounds : int
        Turns of a fast contestant.
    budget : float
        Seconds a contestant may take in a case; slow ones sit out rounds, but for the first.
    clock : {'wall', 'cpu'}
        What the seconds are of.
    """

    iterations: int
    rounds: int
    budget: float
    clock: str


def compete(case: Case, contestants: list[Contestant], rules: Rules) -> list[Result]:
    """Let the contestants that take a case have their turns at it."""
    playing = {c.entry.name: c for c in contestants if c.entry.takes(case)}
    results, strides = {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write(case, folder)
        for contestant in playing.values():
            contestant.ask(load=name, family=case.family)
        # Once to warm up, to see what a turn takes, and for the parameters.
        for name, contestant in playing.items():
            found = folder / f"{len(results)}.npz"
            answer = contestant.ask(iterations=1 + rules.iterations, keep=str(found))
            with np.load(found) as parameters:
                iterations = int(parameters["iterations"])
            score = log_likelihood(case, rows, found)
            results[name] = Result(case, name, score, iterations)
            strides[name] = max(1, ceil(rules.rounds * 1.5 * answer["wall"] / rules.budget))
    for number in range(rules.rounds):
        for name, contestant in playing.items():
            if number % strides[name] == 0:
                _turn(contestant, rules, number, results[name])
    conclude(list(results.values()))
    return list(results.values())


def _turn(contestant: Contestant, rules: Rules, number: int, result: Result) -> None:
    short = contestant.ask(iterations=1, keep=None)
    long = contestant.ask(iterations=1 + rules.iterations, keep=None)
    seconds = (long[rules.clock] - short[rules.clock]) / rules.iterations
    result.rounds.append(number)
    result.seconds.append(seconds)
    result.setup.append(short[rules.clock] - seconds)
    result.peak = long["peak"]


def conclude(results: list[Result]) -> None:
    """Fill in the ratios between contestants and how far their likelihoods are apart."""
    by_name = {r.contestant: r for r in results}
    judge = by_name.get("scikit-learn", results[0]).log_likelihood
    taken = {r.contestant: dict(zip(r.rounds, r.seconds, strict=True)) for r in results}
    for result in results:
        result.off = abs(result.log_likelihood - judge) / abs(judge)
        mine = taken[result.contestant]
        for other, theirs in taken.items():
            common = mine.keys() & theirs.keys()
            by_round = [mine[n] / theirs[n] for n in common]
            few = len(common) < FEW
            medians = np.median([*mine.values()]) / np.median([*theirs.values()])
            result.ratios[other] = float(medians if few else np.median(by_round))
