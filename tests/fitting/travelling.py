"""States that travel: fits to interrupt, and processes that their states are sent to.

``python -m tests.fitting.travelling`` answers each message, a name and a state, by the state made
anew from its bytes; with a fit's name, by the digest of the end to which it has gone on from there.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting.acceleration.by_objective import SquaremByObjective
from dask_gmm.fitting.acceleration.sample import SampleRows
from dask_gmm.fitting.acceleration.squarem import Squarem
from dask_gmm.fitting.acceleration.variance_reduced import VarianceReducedEM
from dask_gmm.fitting.collapse import MStep
from dask_gmm.fitting.contest import Contest, Contestant, ContestState, best_of
from dask_gmm.fitting.grid_starts import GridPoint, GridStart
from dask_gmm.fitting.loop import PlainEM, run
from dask_gmm.fitting.state import from_bytes, to_bytes
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.rows import Rows
from tests.benchmarks.bench_passes import gaussians
from tests.mixture.problems import by_objective, draw, likelihood, random_mixture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.fitting.loop import Fitting, State
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.statistics import SufficientStatistics

KERNEL = get_kernel()


@dataclass(frozen=True)
class Fit:
    """A fit that has not begun: everything here follows from its name."""

    strategies: tuple[Any, ...]
    states: tuple[State, ...]
    rows: NDArray[np.float64]

    def evaluate(self, candidates: Sequence[Candidate]) -> tuple[SufficientStatistics, ...]:
        """A pass."""
        return KERNEL.statistics(Rows(self.rows), candidates)

    def go_on(
        self,
        states: Sequence[State],
        after_turn: Callable[[tuple[State, ...]], None] = lambda _: None,
    ) -> tuple[State, ...]:
        """Run to the end from these states."""
        with single_threaded_blas():
            return run(self.strategies, states, self.evaluate, after_turn=after_turn)

    def digest(self, ends: Sequence[State]) -> bytes:
        """Of every bit of the ends, and of what is made of them."""
        found = hashlib.sha256()
        with single_threaded_blas():
            for strategy, end in zip(self.strategies, ends, strict=True):
                found.update(to_bytes(end))
                fitting, state = strategy, end
                if isinstance(end, ContestState):
                    state = best_of(end.standings)
                    fitting = strategy.contestants[end.standings.index(state)]
                result = fitting.finish(state)
                found.update(result.parameters.fingerprint.encode())
                found.update(repr((*result.lower_bounds, result.remaining_gain)).encode())
        return found.digest()


def rows_of(n: int = 1500) -> NDArray[np.float64]:
    """Rows of three overlapping components, in no order."""
    rows = draw(1, random_mixture(0, "full", 3, 2, spread=1.5), n)
    np.random.default_rng(0).shuffle(rows)
    return rows


def start_of(
    rows: NDArray[np.float64], seed: int = 0, k: int = 3, family: str = "full"
) -> MixtureParameters:
    """Rows for means; the covariances of all."""
    means = rows[np.random.default_rng(seed).choice(len(rows), k, replace=False)]
    covariances = {"full": np.stack([np.cov(rows.T)] * k), "diag": np.tile(rows.var(0), (k, 1))}
    return MixtureParameters.create(family, np.full(k, 1 / k), means, covariances[family])


def sample_of(rows: NDArray[np.float64]) -> SampleRows:
    """Drawn again by whoever goes on."""
    return SampleRows(Rows(np.ascontiguousarray(rows[::5])))


def fitting_of(kind: str, rows: NDArray[np.float64], rule: str = "stop", **given: Any) -> Any:
    """A strategy of a kind."""
    tol, most = given.get("tol", 1e-7), given.get("most", 40)
    likely = by_objective if kind == "by objective" else likelihood
    model = likely(given.get("family", "full"), given.get("reg", 1e-6))
    m_step = MStep(model, rule, Rows(rows[:300].copy()))
    if kind == "plain":
        return PlainEM(tol, most, m_step)
    if kind == "by objective":
        return SquaremByObjective(tol, most, m_step)
    if kind == "squarem":
        return Squarem(tol, most, m_step)
    return VarianceReducedEM(tol, most, m_step, sample=sample_of(rows))


def whole(kind: str) -> Fit:
    """One fit; of several starts where the first read chooses among them."""
    rows = rows_of()
    fitting = fitting_of(kind, rows, most=8 if kind == "variance-reduced" else 25)
    count = 1 if kind == "plain" else 3
    return Fit((fitting,), (fitting.begin([start_of(rows, s) for s in range(count)]),), rows)


def creeping() -> Fit:
    """Seven components for three clusters, led by a sample that knows next to nothing of them."""
    rows = gaussians(2, 1500, 3, 2, 2.0, 3.0)[0]
    np.random.default_rng(0).shuffle(rows)
    fitting = fitting_of("variance-reduced", rows, tol=0.0, most=16)
    return Fit((fitting,), (fitting.begin([start_of(rows, 0, 7)]),), rows)


def restarts(kind: str) -> Fit:
    """Three that end at different turns; one of them from a place so far that it is recentred."""
    rows = rows_of()
    fitting: Fitting[Any] = fitting_of(kind, rows, tol=1e-4)
    far = MixtureParameters.create("full", [1.0], [[1e8, 0.0]], [np.eye(2) * 1e15])
    starts = [start_of(rows, 0), far, start_of(rows, 2)]
    return Fit((fitting,) * 3, tuple(fitting.begin((s,)) for s in starts), rows)


def mended(kind: str, rule: str) -> Fit:
    """A component of one row many times over collapses, and one far away has no rows."""
    rows = np.concatenate([np.full((60, 2), 9.0), rows_of()])
    np.random.default_rng(1).shuffle(rows)
    start = start_of(rows, 0, 5)
    means, covariances = start.means.copy(), start.covariances.copy()
    means[0], means[4], covariances[0] = 9.0, 1e4, 1e-3 * np.eye(2)
    broken = MixtureParameters.create("full", start.weights, means, covariances)
    fitting = fitting_of(kind, rows, rule, reg=0.0, tol=1e-5)
    return Fit((fitting,), (fitting.begin((broken,)),), rows)


def contest(*kinds: str) -> Fit:
    """Numbers of components and families, some of which drop out."""
    rows = rows_of(800)
    contestants, starts = [], []
    for family in ("full", "diag"):
        for k in range(1, 5):
            kind = kinds[k % len(kinds)]
            tol = 1e-3 if kind == "variance-reduced" else 1e-5
            fitting = fitting_of(kind, rows, family=family, tol=tol, most=25)
            contestants.append(Contestant(GridPoint(k, covariance_family(family)), fitting))
            found = [start_of(rows, s, k, family) for s in range(1 if kind == "plain" else 2)]
            starts.append([GridStart(p, 0.0, f"seed {s}") for s, p in enumerate(found)])
    held = Contest(tuple(contestants), "bic")
    return Fit((held,), (held.begin(starts),), rows)


FITS: dict[str, Callable[[], Fit]] = {
    "plain": lambda: whole("plain"),
    "squarem": lambda: whole("squarem"),
    "by objective": lambda: whole("by objective"),
    "variance-reduced": lambda: whole("variance-reduced"),
    "variance-reduced plateau": creeping,
    "plain restarts": lambda: restarts("plain"),
    "squarem restarts": lambda: restarts("squarem"),
    "by objective restarts": lambda: restarts("by objective"),
    "plain merge": lambda: mended("plain", "merge"),
    "plain reseed": lambda: mended("plain", "reseed"),
    "plain stop": lambda: mended("plain", "stop"),
    "squarem merge": lambda: mended("squarem", "merge"),
    "squarem stop": lambda: mended("squarem", "stop"),
    "by objective merge": lambda: mended("by objective", "merge"),
    "by objective reseed": lambda: mended("by objective", "reseed"),
    "by objective stop": lambda: mended("by objective", "stop"),
    "variance-reduced reseed": lambda: mended("variance-reduced", "reseed"),
    "plain selection": lambda: contest("plain"),
    "selection by objective": lambda: contest("by objective", "plain"),
    "accelerated selection": lambda: contest("variance-reduced", "squarem", "plain"),
}


class Elsewhere:
    """Another process that answers messages."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fitting.travelling"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )

    def echo(self, state: Any) -> Any:
        """The state, after it has been a state there."""
        data = to_bytes(state)
        answer = self._ask("", data)
        assert answer == data, "the same bytes each time"
        return from_bytes(answer)

    def end_of(self, fit: str, states: bytes) -> bytes:
        """The digest of the end to which it goes on there."""
        return self._ask(fit, states)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._process.stdout.close()

    def _ask(self, name: str, data: bytes) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _write(self._process.stdin, name.encode())
        _write(self._process.stdin, data)
        answer = _read(self._process.stdout)
        assert answer is not None, "the other process has failed"
        return answer


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(struct.pack(">q", len(data)) + data)
    file.flush()


def _read(file: IO[bytes]) -> bytes | None:
    head = file.read(8)
    return file.read(struct.unpack(">q", head)[0]) if head else None


def main() -> None:
    """Answer until there is nothing more to read."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while (name := _read(asked)) is not None:
        data = _read(asked)
        assert data is not None
        states = from_bytes(data)
        if not name:
            _write(answers, to_bytes(states))
            continue
        fit = FITS[name.decode()]()
        _write(answers, fit.digest(fit.go_on(states)))


if __name__ == "__main__":
    main()
