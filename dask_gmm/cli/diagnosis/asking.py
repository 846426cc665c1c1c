"""Questions to every process of a cluster, each of which may fail to answer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import distributed.versions

from dask_gmm.cli.diagnosis.process import wall_clock
from dask_gmm.execution.cluster.connection import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "ASKED_FOR",
    "Versions",
    "ask_clocks",
    "ask_each",
    "ask_function",
    "ask_versions",
    "versions_here",
]

_AT_ONCE = 256  # workers that are asked at a time
_ROUNDS = 3  # of clocks; the quickest answer says most

#: Distributions whose versions are asked for, beside those that Dask compares itself.
ASKED_FOR = (
    "dask-gmm",
    "scipy",
    "llvmlite",
    "scikit-learn",
    "zarr",
    "numcodecs",
    "obstore",
    "zstandard",
    "google-crc32c",
    "threadpoolctl",
    "fsspec",
    "pyarrow",
)


@dataclass(frozen=True)
class Versions:
    """Versions by package, None of one that is not installed; of every process."""

    here: Mapping[str, str | None]
    scheduler: Mapping[str, str | None]
    workers: Mapping[str, Mapping[str, str | None]]


def versions_here() -> dict[str, str | None]:
    """Return the versions in this process."""
    return _packages(distributed.versions.get_versions(packages=ASKED_FOR))


def ask_versions(client: Any, workers: Sequence[str], timeout: float) -> Versions:
    """Ask all processes for their versions, by what Dask has for it: any of its releases answers.

    Workers that do not answer in time are left out.
    """
    packages = list(ASKED_FOR)

    async def of_scheduler() -> Any:
        return await client.scheduler.versions(packages=packages)

    async def of_worker(worker: str) -> Any:
        message = {"op": "versions", "packages": packages}
        answers = await client.scheduler.broadcast(msg=message, workers=[worker])
        return answers[worker]

    answers = ask_each(client, {worker: partial(of_worker, worker) for worker in workers}, timeout)
    return Versions(
        versions_here(),
        _packages(ask(client, of_scheduler, timeout)),
        {w: _packages(found) for w, found in answers.items() if not isinstance(found, Exception)},
    )


def _packages(answer: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = dict(answer["packages"])
    python = (found.get("python") or "").split(".")
    return {**found, "python": ".".join(python[:3])}


def ask_each(
    client: Any,
    questions: Mapping[str, Callable[[], Any]],
    timeout: float,
    told: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Ask questions side by side; return the answers, or the errors that stand in their place.

    Parameters
    ----------
    client : distributed.Client
    questions : mapping of str to callable
        What returns an awaitable, by the worker that it goes to.
    timeout : float
        Seconds that each worker has.
    told : callable, optional
        Called with the number of answers that have come.
    """
    answers: dict[str, Any] = {}

    async def one(worker: str, turn: asyncio.Semaphore) -> None:
        async with turn:
            try:
                async with asyncio.timeout(timeout):
                    answers[worker] = await questions[worker]()
            except TimeoutError:
                answers[worker] = TimeoutError(f"no answer within {timeout:g} s")
            except Exception as error:  # noqa: BLE001  whatever a worker has raised is its answer
                answers[worker] = error
        if told is not None:
            told(len(answers))

    async def all_of_them() -> None:
        turn = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(one(worker, turn) for worker in questions))

    ask(client, all_of_them)
    return answers


def ask_function(client: Any, worker: str, function: Callable[..., Any], *args: Any) -> Any:
    """Return a question: what a function, or a coroutine, returns on a worker."""

    async def question() -> Any:
        answers = await client.run(
            function, *args, workers=[worker], on_error="return", asynchronous=True
        )
        answer = answers[worker]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return question


def ask_clocks(
    client: Any, workers: Sequence[str], timeout: float
) -> dict[str, tuple[float, float]]:
    """Return how far each worker's clock is ahead of this one's, and how well that is known.

    A clock is read in the middle of a question, give or take half of its time (Cristian,
    "Probabilistic clock synchronization", Distributed Computing 3, 1989).

    Returns
    -------
    dict of str to (float, float)
        Seconds ahead, and half the time of the quickest of some questions; workers that do not
        answer are left out.
    """
    found: dict[str, tuple[float, float]] = {}

    def question(worker: str) -> Any:
        inner = ask_function(client, worker, wall_clock)

        async def timed() -> tuple[float, float]:
            begun = time.time()
            there: float = await inner()
            ended = time.time()
            return there - (begun + ended) / 2, (ended - begun) / 2

        return timed

    for _ in range(_ROUNDS):
        answers = ask_each(client, {worker: question(worker) for worker in workers}, timeout)
        for worker, answer in answers.items():
            if isinstance(answer, tuple) and (worker not in found or answer[1] < found[worker][1]):
                found[worker] = answer
        workers = list(found)
    return found
