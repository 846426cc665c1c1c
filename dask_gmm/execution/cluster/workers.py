"""Who of a cluster's workers is fit to work, as the driver knows it.

A worker is *unfit* while it does not answer (its process is stopped, its machine is cut off) or
takes no new tasks (it is paused for its memory, or retires). Dask waits for it: for five minutes
until it takes a silent worker for dead, for ever where one is paused. So whatever such a worker has
been given and has not begun is to be done elsewhere meanwhile.

A worker may answer and yet do nothing: all its threads are busy with units that were done elsewhere
meanwhile, because they took too long (a read that hangs, say). The scheduler has forgotten them and
takes the worker for an idle one.

A scheduler writes down when it heard of each worker last, by its own clock. Who has been silent for
long is seen against the one who was heard of last; where all are silent alike it may be the
scheduler that had no time to listen.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dask_gmm.execution.cluster.connection import scheduler_errors
from dask_gmm.execution.cluster.progress import ProgressFeed

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from concurrent.futures import Future as Answer

    from dask_gmm.execution.cluster.connection import Connection

__all__ = ["UNDER_WAY", "Snapshot", "WorkerWatch"]

#: States in which a scheduler has a task that is yet to end.
UNDER_WAY = frozenset({"waiting", "no-worker", "queued", "processing"})
#: Seconds after which a worker has to be heard of again. Workers of small clusters send something
#: every half second, those of larger ones less often.
SILENT_SECONDS = 3.0
#: Seconds between two looks at the workers, while somebody waits; fewer while one is unfit.
LOOK_SECONDS = 1.0
LOOK_SECONDS_UNFIT = 0.2
#: The part of the workers that stays through a pass, where they are not taken away on purpose.
MOST_STAY = 0.75
#: Workers that a scheduler describes in a second without anybody noticing.
WORKERS_PER_SECOND = 200


@dataclass(frozen=True)
class Snapshot:
    """What the scheduler has said.

    Attributes
    ----------
    threads : mapping of str to int
        Of each worker that is there.
    unfit : mapping of str to str
        Why some of them will not do what they were given.
    silent : frozenset of str
        Those of them that do not answer.
    shunned : frozenset of str
        Those of them that the scheduler takes for idle ones; the silent ones among them.
    given : mapping of key to str
        Tasks that unfit workers have been given and have not ended, and who.
    holders : mapping of key to addresses
        Who has the results that were asked for.
    states : mapping of key to str or None
        Of the tasks that were asked for; None where it knows of none.
    """

    threads: Mapping[str, int]
    unfit: Mapping[str, str]
    silent: frozenset[str]
    shunned: frozenset[str]
    given: Mapping[Any, str] = field(default_factory=dict)
    holders: Mapping[Any, Collection[str]] = field(default_factory=dict)
    states: Mapping[Any, str | None] = field(default_factory=dict)

    @property
    def usable(self) -> frozenset[str]:
        """Those that will."""
        return frozenset(self.threads) - frozenset(self.unfit)

    def stuck_results(self) -> frozenset[Any]:
        """Return those results that only silent workers have."""
        held = self.holders.items()
        return frozenset(key for key, there in held if there and self.silent.issuperset(there))


class WorkerWatch:
    """Looks at the workers now and then, over all passes of a fit.

    Parameters
    ----------
    timeout : float
        Seconds that there may be nobody who works.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.now = Snapshot({}, {}, frozenset(), frozenset())
        self._seen: set[str] = set()
        self._in_pass: set[str] = set()
        self._at_first = 0
        self._asking: tuple[Answer[Snapshot], float] | None = None
        self._looked = self._asked = time.monotonic()
        self._without_since: float | None = None
        self._newest = -1.0, time.monotonic()

    def begin(self, client: Any, described: Mapping[str, Any]) -> None:
        """Take in the workers at the begin of a pass."""
        self._at_first = len(described)
        self._drop()
        self._looked = time.monotonic()
        self._without_since = None
        self._in_pass.clear()
        self._take(self._snapshot(client, described))

    @property
    def troubled(self) -> bool:
        """Whether some worker is unfit, or has gone since the pass began.

        Who had just asked a worker for something when it died may ask for thirty seconds more.
        """
        return bool(self.now.unfit) or not self._in_pass.issubset(self.now.threads)

    @property
    def dwindled(self) -> bool:
        """Whether there are much fewer workers than when the pass began."""
        return len(self.now.threads) < MOST_STAY * self._at_first

    def look(
        self,
        connection: Connection,
        results: Collection[Any] = (),
        tasks: Collection[Any] = (),
    ) -> bool:
        """Ask the scheduler, if it is time to; return whether there is news.

        Parameters
        ----------
        connection : Connection
        results : collection of keys
            Results of which somebody wants to know who has them.
        tasks : collection of keys
            Tasks of which somebody wants to know what has become of them.
        """
        now = time.monotonic()
        if self._asking is None:
            if now - self._looked >= self._interval():
                self._looked = now
                with scheduler_errors(connection.client):
                    answer = asyncio.run_coroutine_threadsafe(
                        self._ask(connection.client, list(results), list(tasks)),
                        connection.client.loop.asyncio_loop,
                    )
                self._asking = answer, now
            return False
        answer, _ = self._asking
        if not answer.done():
            return False
        self._asking = None
        with scheduler_errors(connection.client):
            self._take(answer.result())
        return True

    def unanswered(self) -> bool:
        """Whether the scheduler has not answered for too long."""
        return self._asking is not None and time.monotonic() - self._asking[1] >= self.timeout

    def deserted(self) -> bool:
        """Whether there has been no fit worker for too long."""
        since = self._without_since
        return since is not None and time.monotonic() - since >= self.timeout

    def missing(self) -> str:
        """Say what has become of the workers, in a sentence without its full stop."""
        lost = sorted(self._seen - set(self.now.threads))
        reasons = Counter(self.now.unfit.values())
        parts = [f"{count} {why}" for why, count in sorted(reasons.items())]
        if lost:
            names = ", ".join(lost[:3]) + (" and others" if len(lost) > 3 else "")
            parts.insert(0, f"{len(lost)} {'are' if len(lost) > 1 else 'is'} gone ({names})")
        return "; ".join(parts) or "none was ever there"

    def close(self) -> None:
        """Ask no more."""
        self._drop()

    def _interval(self) -> float:
        shortest = LOOK_SECONDS_UNFIT if self.now.unfit else LOOK_SECONDS
        longest = self.timeout / 2  # nobody is to wait for longer than the timeout says
        return min(max(shortest, len(self.now.threads) / WORKERS_PER_SECOND), longest)

    async def _ask(self, client: Any, results: list[Any], tasks: list[Any]) -> Snapshot:
        scheduler = client.scheduler
        found = self._snapshot(client, (await scheduler.identity())["workers"])
        if found.unfit:
            try:
                theirs = await scheduler.processing(workers=list(found.unfit))
            except KeyError:  # one has just gone
                theirs = {}
            given = {key: worker for worker, keys in theirs.items() for key in keys}
            found = replace(found, given=given)
        if results:
            found = replace(found, holders=await scheduler.who_has(keys=results))
        if tasks:
            found = replace(found, states=await scheduler.get_task_status(keys=tasks))
        return found

    def _snapshot(self, client: Any, described: Mapping[str, Any]) -> Snapshot:
        """Judge who is fit."""
        threads = {w: int(worker["nthreads"]) for w, worker in described.items()}
        heard = {w: float(worker["last_seen"]) for w, worker in described.items()}
        newest, now = max(heard.values(), default=0.0), time.monotonic()
        if newest != self._newest[0]:
            self._newest = newest, now
        n = len(threads)
        patience = SILENT_SECONDS if n < 50 else 3 * max(2.0, 1 + n / WORKERS_PER_SECOND)
        all_silent = now - self._newest[1] > patience
        silent = {w for w in threads if all_silent or newest - heard[w] > patience}
        busy = ProgressFeed.occupied(client)
        shunned = silent | {w for w in threads if busy[w] >= threads[w]}
        unfit: dict[str, str] = {}
        for w, worker in described.items():
            if w in silent:
                unfit[w] = "does not answer"
            elif w in shunned:
                unfit[w] = "is busy with what it does in vain"
            elif worker["status"] != "running":
                unfit[w] = f"is {worker['status']}"
        return Snapshot(threads, unfit, frozenset(silent), frozenset(shunned))

    def _take(self, found: Snapshot) -> None:
        self.now = found
        self._seen.update(found.threads)
        self._in_pass.update(found.threads)
        if found.usable or found.shunned - found.silent:  # what one does in vain ends some time
            self._without_since = None
        elif self._without_since is None:
            self._without_since = time.monotonic()

    def _drop(self) -> None:
        if self._asking is not None:
            self._asking[0].cancel()
            self._asking = None
