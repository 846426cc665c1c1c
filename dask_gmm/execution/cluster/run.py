"""One pass on a cluster: submit its units, gather them as they finish, redo what is lost.

Values are folded in the shape of the fixed tree, whatever their order of arrival. Gathering at
once is what makes a loss cheap: results that have reached the driver are safe, from the death of
workers and from that of the scheduler. A node is folded once, whichever attempt at it comes first.
"""

from __future__ import annotations

import asyncio
import time
import uuid
import warnings
from collections import deque
from concurrent.futures import CancelledError
from concurrent.futures import Future as Answer
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dask_gmm.errors import NoWorkersError, SchedulerLostError
from dask_gmm.execution.cluster.attempts import Attempts
from dask_gmm.execution.cluster.connection import (
    CONNECTION_ERRORS,
    gathered,
    scheduler_errors,
)
from dask_gmm.execution.cluster.failures import Failures
from dask_gmm.execution.cluster.graph import (
    FOLD_LEVELS,
    PassGraph,
    make_runner,
    pass_graph,
    team_graph,
    tree_shape,
)
from dask_gmm.execution.cluster.progress import ProgressFeed, ProgressTotals
from dask_gmm.execution.cluster.stragglers import Running, late_ones
from dask_gmm.execution.cluster.teams import enlisted, in_teams
from dask_gmm.execution.cluster.worker import REPORT_INTERVAL
from dask_gmm.execution.cluster.workers import UNDER_WAY
from dask_gmm.execution.persisted import check_persisted
from dask_gmm.execution.tree import Summable, TreeFold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from dask_gmm.execution.backend import ProgressReporter
    from dask_gmm.execution.cluster.affinity import Affinity
    from dask_gmm.execution.cluster.attempts import Attempt
    from dask_gmm.execution.cluster.connection import Connection
    from dask_gmm.execution.cluster.progress import Message
    from dask_gmm.execution.cluster.stragglers import UnitTimes
    from dask_gmm.execution.cluster.workers import WorkerWatch
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan
    from dask_gmm.execution.unit import UnitResult

__all__ = ["ClusterPass"]

#: Seconds between two looks at the progress while nothing finishes.
TICK = 0.2
#: Seconds in which results that finish together are collected into one request.
COLLECT_SECONDS = 0.02
#: Bytes of values fetched in one request.
GATHER_BYTES = 64_000_000
#: Attempts at one node at the same time.
MOST_ATTEMPTS = 4
#: Seconds after which a request for results is made again, where some worker is unfit or has gone.
FETCH_SECONDS = 3.0
#: Seconds of silence of the whole pass, where some worker is unfit or has gone, after which what is
#: under way is taken to wait for what that one holds. Longer where such pauses have been before.
STALL_SECONDS = 3.0
#: Seconds without an event between two looks at the futures themselves: their news come through one
#: thread for all of a process, which somebody else's may keep.
RECOUNT_SECONDS = 2.0
#: Seconds of silence of the whole pass after which the scheduler is asked for the state of tasks,
#: and of how many at once; what nobody works on ends this silence too.
QUIET_SECONDS, MOST_ASKED = 5.0, 1000

T = TypeVar("T", bound=Summable)

# `distributed` is annotated in places only, and differently from release to release.
Future = Any


@dataclass(eq=False)
class _Fetch:
    """Results that are on their way."""

    keys: list[Any]
    answer: Answer[dict[Any, Any]]
    since: float = field(default_factory=time.monotonic)

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.since > FETCH_SECONDS


class ClusterPass(Generic[T]):
    """The live side of one pass: attempts, fold and counters.

    Parameters
    ----------
    connection : Connection
        Where it runs.
    plan, job
        What to read and to compute.
    reporter : ProgressReporter
        Who wants to know how far it is.
    watch : WorkerWatch
        Who is there; it looks on over all passes, and has seen the workers of this one.
    times : UnitTimes
        How long units take, from pass to pass.
    admit : callable
        Waits for workers of a scheduler that is back, and looks at who they are.
    group : str
        Part of the names of all passes' groups of tasks.
    affinity : Affinity, optional
        Who holds which blocks; brought up to date by the pass.
    by_teams : bool
        Whether workers may form teams.

    Attributes
    ----------
    tasks, resubmitted : int
        Tasks, and units or nodes that were begun again.
    has_teams : bool
        Whether there are any.
    """

    def __init__(
        self,
        connection: Connection,
        plan: Plan,
        job: BlockJob[T],
        reporter: ProgressReporter,
        watch: WorkerWatch,
        times: UnitTimes,
        admit: Callable[[], Any],
        *,
        group: str,
        affinity: Affinity | None = None,
        by_teams: bool = True,
    ) -> None:
        self.tasks = 0
        self.resubmitted = 0
        threads = _threads_of(watch)
        teams = in_teams(plan, job, threads, times.block_seconds) if by_teams else None
        self.has_teams = teams is not None
        self._shape = tree_shape(plan, job)
        if teams is not None:
            plan, level = teams
            self._shape = replace(self._shape, base=plan.unit_level, output=level)
        self._connection = connection
        self._plan = plan
        self._job = job
        self._reporter = reporter
        self._watch = watch
        self._times = times
        self._admit = admit
        self._group = group
        self._affinity = affinity
        self._token = uuid.uuid4().hex
        self._batch = max(1, GATHER_BYTES // max(job.value_bytes, 1))
        self._missing = set(range(-(-plan.n_positions >> self._shape.output)))
        self._attempts = Attempts(self._shape)
        self._given_up: list[Future] = []
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._ready: deque[Any] = deque()
        self._lost: list[Any] = []
        self._fetches: dict[Any, _Fetch] = {}
        self._fold: TreeFold[UnitResult[T]] = TreeFold(plan.n_positions)
        self._totals = ProgressTotals(self._shape.output - self._shape.base)
        self._running: dict[tuple[str, int], Running] = {}
        # Units whose workers died. Dask blames all tasks of a dead worker alike; so these wait
        # until nothing else is under way and then go one at a time: that tells victims from
        # culprits.
        self._suspects: deque[int] = deque()
        self._failures = Failures(plan, job, self._shape)
        self._losses = 0
        self._feed: ProgressFeed | None = None
        self._messages: deque[Message] = deque()
        self._runner = b""
        self._life, self._longest_pause = time.monotonic(), 0.0
        self._counted = time.monotonic()
        self._doubtful: set[Any] = set()  # by the scheduler's last word

    def run(self) -> UnitResult[T]:
        """Return the root; see `ClusterBackend.run` for what it raises."""
        self._times.begin()
        begun = False
        try:
            while self._missing:
                try:
                    if begun:
                        self._advance()
                    else:
                        self._begin()
                        begun = True
                except SchedulerLostError as error:
                    self._recover(error)
                    begun = False
                self._check_bounds()
                self._reporter.tick(self._totals.counts())
        except BaseException:
            self._abandon()
            raise
        finally:
            self._close_feed()
            self._release_given_up()
        return self._fold.root()

    def _begin(self) -> None:
        """Submit all that is missing, to a scheduler that knows nothing of it."""
        client = self._connection.client
        self._close_feed()
        with scheduler_errors(client):
            self._feed = ProgressFeed.of(client)
        self._messages = self._feed.open(self._token)
        self._runner = b""
        there = self._watch.now.usable
        preferred = self._affinity.preferred(self._plan, there) if self._affinity else {}
        nodes = sorted(self._missing.difference(self._suspects))
        led = self._submit_teams(nodes, preferred) if self.has_teams else frozenset()
        if len(led) < len(nodes):
            self._submit([node for node in nodes if node not in led], preferred)

    def _submit_teams(self, nodes: list[int], preferred: Mapping[int, str]) -> frozenset[int]:
        """Submit a task for each node that has a team; return these nodes."""
        assert self._feed is not None
        threads = _threads_of(self._watch)
        if not threads or not nodes:
            return frozenset()
        teams = enlisted(self._plan, self._shape.output, nodes, threads, preferred)
        runner = make_runner(self._plan, self._job, self._feed.topic, self._token, fit=self._group)
        only = threads if self._watch.now.shunned else ()
        graph = team_graph(self._plan, self._shape, runner, teams, self._group, only)
        self._send(graph)
        return frozenset(teams)

    def _close_feed(self) -> None:
        if self._feed is not None:
            self._feed.close(self._token)

    def _advance(self) -> None:
        """Take in what happens next, and start what follows from it."""
        if not len(self._attempts):
            self._submit([self._suspects.popleft()])
        events = self._wait()
        self._take([event for event in events if not isinstance(event, Answer)])
        for event in events:
            if isinstance(event, Answer) and event in self._fetches:
                self._receive(self._fetches.pop(event))
        self._start_fetching()
        while self._messages:
            message = self._messages.popleft()
            attempt = self._attempts.running(message.submission, message.unit)
            led = attempt is not None and attempt.led
            self._totals.message(message.unit, message.counts, whole=led)
            self._running[message.submission, message.unit] = Running.now(
                message.worker, message.seconds
            )
            self._note_life()
        if events:
            self._counted = time.monotonic()
        else:
            lost, self._lost = self._lost, []
            self._take([*lost, *self._unnoticed()])
            if self._watch.look(self._connection, self._late_keys(), self._unheard()):
                self._begin_forgotten()
                self._rescue()

    def _submit(
        self,
        nodes: Collection[int],
        preferred: Mapping[int, str] | None = None,
        *,
        workers: Iterable[str] = (),
        anew: bool = False,
    ) -> None:
        """Submit some nodes of the output level with one call."""
        assert self._feed is not None
        now = self._watch.now
        if not self._runner:  # where all is done by teams it is not needed
            self._runner = make_runner(self._plan, self._job, self._feed.topic, self._token)
        graph = pass_graph(
            self._plan,
            self._shape,
            self._runner,
            nodes,
            group=self._group,
            preferred=preferred,
            workers=workers or (now.usable if now.shunned else ()),
            anew=anew,
        )
        self._send(graph)

    def _send(self, graph: PassGraph) -> None:
        """Submit tasks, and expect their results."""
        self.tasks += len(graph.tasks)
        keys = list(graph.outputs)
        client = self._connection.client
        with scheduler_errors(client), warnings.catch_warnings():
            # Parameters travel once, inside the graph, however large they are: that is the plan.
            warnings.filterwarnings("ignore", message="Sending large graph", category=UserWarning)
            futures = client.get(graph.submission(), keys, sync=False)
            self._attempts.add(graph, dict(zip(keys, futures, strict=True)))
            for future in futures:
                future.add_done_callback(self._note)

    def _note(self, future: Future) -> None:
        # Runs in one of distributed's threads: hand over the key only, and never the future, so
        # that releasing a future here releases its result on the cluster.
        self._events.put(future.key)

    def _note_life(self) -> None:
        now = time.monotonic()
        self._longest_pause = max(self._longest_pause, now - self._life)
        self._life = now

    def _wait(self) -> list[Any]:
        """Return keys that came to an end and requests that were answered, or none after a tick."""
        try:
            events = [self._events.get(timeout=TICK)]
        except Empty:
            self._connection.check()
            return []
        until = time.monotonic() + COLLECT_SECONDS
        asked = len(self._ready) + sum(len(fetch.keys) for fetch in self._fetches.values())
        running = len(self._attempts) - asked - (not isinstance(events[0], Answer))
        with suppress(Empty):
            while running > 0:
                events.append(self._events.get(timeout=max(until - time.monotonic(), 0)))
                running -= not isinstance(events[-1], Answer)
        return events

    def _take(self, keys: list[Any]) -> None:
        """Note what can be fetched, raise what failed, submit again what was lost."""
        again: list[int] = []
        for key in keys:
            attempt = self._attempts.get(key)
            if attempt is None:
                continue
            future, node = attempt.future, attempt.node
            if future.status == "finished":
                self._ready.append(key)
            elif future.status in ("error", "cancelled"):
                failure = self._failures.judge(node, future, self._connection)
                self._attempts.pop(key)
                future.release()
                if self._attempts.hopeless(node):
                    (self._suspects if failure == "killed" else again).append(node)
                    self.resubmitted += 1
            elif future.status == "lost":  # with who had it, and will be made again some time
                self._lost.append(key)
            else:
                future.add_done_callback(self._note)
        if again:
            self._submit(again)

    # ------------------------------------------------------------ what nobody has told

    def _unnoticed(self) -> list[Any]:
        """Return what has ended, should nobody have said so: no pass waits for ever for a word."""
        if time.monotonic() - self._counted < RECOUNT_SECONDS:
            return []
        self._counted = time.monotonic()
        known = {key for fetch in self._fetches.values() for key in fetch.keys}
        known.update(self._ready, self._lost)
        ended = (a.future.key for a in self._attempts if a.future.status not in ("pending", "lost"))
        return [key for key in ended if key not in known]

    def _unheard(self) -> list[Any]:
        """Return what the scheduler is to be asked about: tasks of a pass that is silent."""
        if time.monotonic() - self._life < QUIET_SECONDS:
            return []
        waiting = (a.future.key for a in self._attempts if a.future.status == "pending")
        return list(islice(waiting, MOST_ASKED))

    def _begin_forgotten(self) -> None:
        """Begin again what ought to be under way, and is not, by what the scheduler says.

        The news of a task come by another way than its answers, and may be later; so it must have
        said so twice.
        """
        doubtful = {key for key, state in self._watch.now.states.items() if state not in UNDER_WAY}
        twice, self._doubtful = doubtful & self._doubtful, doubtful
        again: list[int] = []
        for key in twice:
            attempt = self._attempts.get(key)
            if attempt is None or attempt.future.status != "pending":
                continue
            self._failures.forgotten(attempt.node)
            self._attempts.pop(key)
            attempt.future.release()
            if self._attempts.hopeless(attempt.node):
                again.append(attempt.node)
        if again:
            self._note_life()
            self.resubmitted += len(again)
            self._submit(sorted(again))

    # -------------------------------------------------------------------------------- results

    def _start_fetching(self) -> None:
        """Ask for the results that are ready; one request at a time, unless it hangs.

        `Client.gather` waits without end for a result whose holder died until somebody has made
        it again, and there may be nobody; or for a holder that does not answer.
        """
        while self._ready and all(fetch.is_late for fetch in self._fetches.values()):
            keys = [self._ready.popleft() for _ in range(min(self._batch, len(self._ready)))]
            futures = {key: attempt.future for key in keys if (attempt := self._attempts.get(key))}
            if not futures:
                continue
            client = self._connection.client
            with scheduler_errors(client):
                answer = asyncio.run_coroutine_threadsafe(
                    gathered(client, futures), client.loop.asyncio_loop
                )
            self._fetches[answer] = _Fetch(list(futures), answer)
            answer.add_done_callback(self._events.put)

    def _receive(self, fetch: _Fetch) -> None:
        """Fold what has arrived."""
        try:
            with scheduler_errors(self._connection.client):
                results = fetch.answer.result()
        except SchedulerLostError as error:
            if not isinstance(error.__cause__, CancelledError):
                raise
            # With a connection that broke, or by another pass of this process: requests that
            # are made at the same time are sent as one. `_take` finds out which.
            self._connection.check()
            results = {}
        for key in fetch.keys:
            attempt = self._attempts.get(key)
            if attempt is None:
                continue
            result = results.get(key)
            if result is None:  # lost between "finished" and now: `_take` looks at it again
                self._events.put(key)
                continue
            self._land(attempt, result)

    def _land(self, winner: Attempt, result: UnitResult[T]) -> None:
        """Fold the value of a node, and let go of all attempts at it."""
        node = winner.node
        for attempt in self._attempts.of(node):
            self._attempts.pop(attempt.future.key)
            if attempt is not winner and self._feed is not None:
                self._feed.leftovers.update(self._running_units(attempt))
            if attempt.stuck:
                # To the scheduler a silent worker without tasks is an idle one, to be given more.
                self._given_up.append(attempt.future)
            else:
                attempt.future.release()
        self._missing.discard(node)
        with suppress(ValueError):
            self._suspects.remove(node)
        self._losses = 0
        self._note_life()
        self._times.add(result.seconds, result.blocks)
        if self._affinity is not None and result.holders:
            self._affinity.record(self._plan, result.holders)
        self._totals.result(node, result)
        self._fold.add(self._shape.output, node, replace(result, holders=()))

    # ------------------------------------------------------------- what does not get on

    def _late_keys(self) -> list[Any]:
        late = [fetch for fetch in self._fetches.values() if fetch.is_late]
        return [key for fetch in late for key in fetch.keys] if self._watch.troubled else []

    def _rescue(self) -> None:
        """Begin elsewhere what does not get on where it is; the first attempt to end counts."""
        now = self._watch.now
        if not now.usable:
            return
        stuck = {
            attempt
            for attempt in self._attempts
            if attempt.workers and not attempt.workers & now.usable
        }
        if self._watch.troubled:
            stuck.update(self._given_to_unfit())
            stuck.update(self._held_by_silent())
            if time.monotonic() - self._life > max(STALL_SECONDS, 3 * self._longest_pause):
                self._life = time.monotonic()
                stuck.update(a for a in self._attempts if a.age > STALL_SECONDS)
        for attempt in stuck:
            attempt.stuck = True
        nodes = {attempt.node for attempt in stuck if self._attempts.hopeless(attempt.node)}
        self._begin_elsewhere(nodes, now.usable)
        self._overtake()

    def _given_to_unfit(self) -> Iterable[Attempt]:
        """What waits for tasks of workers that will not run them, as far as one can tell.

        Of a paused worker those that it has begun go on, and say so once a second.
        """
        now = self._watch.now
        for key, worker in now.given.items():
            for attempt in self._attempts.needing(key):
                unheard = attempt.age > 2 * REPORT_INTERVAL and not self._heard_of(attempt)
                if worker in now.shunned or unheard:
                    yield attempt

    def _heard_of(self, attempt: Attempt) -> bool:
        return any(running.still for _, running in self._running_units(attempt))

    def _running_units(self, attempt: Attempt) -> Iterable[tuple[tuple[str, int], Running]]:
        """Return those units of an attempt that have been heard of."""
        shift = self._shape.output - self._shape.base
        names = ((attempt.name, unit) for unit in range(1 << shift))
        return [
            (which, self._running[which])
            for name, unit in names
            if (which := (name, unit + (attempt.node << shift))) in self._running
        ]

    def _held_by_silent(self) -> Iterable[Attempt]:
        """Return whose results only workers have that do not answer; ask for the others again."""
        holders = self._watch.now.holders
        lost = self._watch.now.stuck_results()
        for fetch in [f for f in self._fetches.values() if f.is_late and f.keys[0] in holders]:
            del self._fetches[fetch.answer]
            fetch.answer.cancel()
            for key in set(fetch.keys) - lost:
                self._events.put(key)
        return [attempt for key in lost if (attempt := self._attempts.get(key))]

    def _overtake(self) -> None:
        """Begin units once more that take much longer than the others do."""
        shift, threads = self._shape.output - self._shape.base, self._watch.now.threads
        # A second attempt would be half a pass; but where teams have failed there is no other way.
        if shift > FOLD_LEVELS and not self.has_teams:
            return
        attempts = {u: a for u in self._running if (a := self._attempts.running(*u)) is not None}
        self._running = {unit: self._running[unit] for unit in attempts}
        limits: dict[tuple[str, int], float] = {}
        for (name, unit), attempt in attempts.items():
            if attempt.led:
                continue  # what is late in a team its captain sees
            limit = self._times.limit(len(self._plan.node(self._shape.base, unit)))
            if limit is not None:
                limits[name, unit] = limit
        usable = self._watch.now.usable
        late = late_ones(self._running, limits, sum(threads[w] for w in usable))
        for which, worker in late.items():
            node = attempts[which].node
            if len(self._attempts.of(node)) == 1:
                self._begin_elsewhere([node], usable - {worker})

    def _begin_elsewhere(self, nodes: Collection[int], workers: Collection[str]) -> None:
        few = [node for node in nodes if len(self._attempts.of(node)) < MOST_ATTEMPTS]
        if few and workers:
            self._submit(sorted(few), workers=workers, anew=True)
            self.resubmitted += len(few)

    def _recover(self, error: SchedulerLostError) -> None:
        """Wait for a scheduler and its workers; nothing is known there of what is missing."""
        self._forget_all()
        timeout = self._watch.timeout
        while True:
            self._losses += 1
            self._connection.recover(error, timeout, self._losses, self._still_waiting)
            try:
                self._admit()
                break
            except SchedulerLostError as again:
                error = again
        check_persisted(self._plan.source, self._connection.client)
        self.resubmitted += len(self._missing)

    def _still_waiting(self) -> None:
        self._reporter.tick(self._totals.counts())

    def _check_bounds(self) -> None:
        """Raise where nobody has been there for too long."""
        where, seconds = self._connection.address, self._watch.timeout
        if self._watch.unanswered():
            raise SchedulerLostError(
                f"The Dask scheduler at {where} has not answered for {seconds:g} s, and "
                f"{self._what_is_missing()}. Is it stopped, or cut off? Begin again once it is not."
            )
        if self._watch.deserted():
            raise NoWorkersError(
                f"For {seconds:g} s nobody has been at work for the Dask scheduler at {where} "
                f"({self._watch.missing()}), and {self._what_is_missing()}. Start workers and "
                f"begin again."
            )

    def _what_is_missing(self) -> str:
        plan = self._plan
        shift = self._shape.output - plan.unit_level
        missing = sum(min(1 << shift, plan.n_units - (node << shift)) for node in self._missing)
        return f"{missing} of {plan.n_units} units of the pass over {plan.source.name} are missing"

    def _release_given_up(self) -> None:
        for future in self._given_up:
            future.release()  # what waits for its end to call back would keep it
        self._given_up.clear()

    def _forget_all(self) -> None:
        for answer in self._fetches:
            answer.cancel()
        self._fetches.clear()
        self._attempts.clear()
        self._release_given_up()
        self._ready.clear()
        self._lost.clear()
        self._running.clear()

    def _abandon(self) -> None:
        """Cancel what is still wanted; running units stop at their next block."""
        futures = [attempt.future for attempt in self._attempts] + self._given_up
        self._forget_all()
        client = self._connection.client
        if futures and client.status == "running":
            with suppress(*CONNECTION_ERRORS):
                client.cancel(futures)


def _threads_of(watch: WorkerWatch) -> dict[str, int]:
    """Return the threads of each worker that is fit for work."""
    return {w: n for w, n in watch.now.threads.items() if w in watch.now.usable}
