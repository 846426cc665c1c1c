"""Progress of a pass on a cluster, as the driver knows it."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

from dask_gmm.execution.cluster.stragglers import Running

if TYPE_CHECKING:
    from dask_gmm.execution.unit import UnitResult

__all__ = ["Message", "ProgressFeed", "ProgressTotals", "added"]

Counts = tuple[int, int, int]


class Message(NamedTuple):
    """What a running unit says of itself.

    Attributes
    ----------
    submission : str
        Which of the pass's submissions its task belongs to.
    unit : int
    worker : str
        Address of the one that runs it.
    seconds : float
        How long it has been running.
    counts : (int, int, int)
        Blocks, rows and bytes so far.
    """

    submission: str
    unit: int
    worker: str
    seconds: float
    counts: Counts


# `distributed` is annotated in places only, and differently from release to release.
Client = Any

_FEEDS: WeakKeyDictionary[Client, ProgressFeed] = WeakKeyDictionary()


class ProgressFeed:
    """Receives the units' messages for all passes of one client.

    There is one topic per client, not per pass: a scheduler remembers its topics for ever.
    """

    def __init__(self, client: Client) -> None:
        self.topic = f"dask-gmm-{client.id}"
        self._passes: dict[str, deque[Message]] = {}
        #: Units that run on though nobody wants them any more: nothing stops a thread from outside,
        #: and to the scheduler it is free.
        self.leftovers: dict[tuple[str, int], Running] = {}

    @classmethod
    def of(cls, client: Client) -> ProgressFeed:
        """Return the client's feed, subscribed on the scheduler it is connected to now."""
        feed = _FEEDS.get(client)
        if feed is None:
            feed = _FEEDS.setdefault(client, cls(client))
        # A scheduler that was restarted at the same address has forgotten the subscription.
        client.subscribe_topic(feed.topic, feed._receive)
        return feed

    def open(self, token: str) -> deque[Message]:
        """Return the queue in which a pass's messages will arrive."""
        return self._passes.setdefault(token, deque())

    def close(self, token: str) -> None:
        """Drop a pass's queue; what its units still say tells that they run on."""
        self._passes.pop(token, None)

    def _receive(self, event: tuple[float, Any]) -> None:
        token, submission, unit, worker, seconds, *counts = event[1]
        blocks, rows, bytes_read = counts
        message = Message(submission, unit, worker, seconds, (blocks, rows, bytes_read))
        queue = self._passes.get(token)
        if queue is not None:
            queue.append(message)
        else:
            self.leftovers[submission, unit] = Running.now(message.worker, message.seconds)

    @classmethod
    def occupied(cls, client: Client) -> Counter[str]:
        """Return how many threads of each worker are busy with what nobody wants any more."""
        feed = _FEEDS.get(client)
        if feed is None or not feed.leftovers:
            return Counter()
        feed.leftovers = {unit: at for unit, at in list(feed.leftovers.items()) if at.still}
        return Counter(at.worker for at in feed.leftovers.values())


class ProgressTotals:
    """Adds up results and messages so that no number ever goes down.

    A unit that starts again on another worker reports small numbers again: only its largest count.
    What a team says is of all its node's units, and does not add to what these say one by one.

    Parameters
    ----------
    shift : int
        Levels between a unit and the node it is gathered in.
    """

    def __init__(self, shift: int) -> None:
        self._shift = shift
        self._done: Counts = (0, 0, 0)
        self._closed: set[int] = set()
        self._running: dict[int, dict[int, Counts]] = {}
        self._whole: dict[int, Counts] = {}

    def message(self, unit: int, counts: Counts, *, whole: bool = False) -> None:
        """Take a unit's message, or a team's in the name of its first unit."""
        node = unit >> self._shift
        if node in self._closed:
            return
        if whole:
            self._whole[node] = max(counts, self._whole.get(node, (0, 0, 0)))
        else:
            units = self._running.setdefault(node, {})
            units[unit] = max(counts, units.get(unit, (0, 0, 0)))

    def result(self, node: int, result: UnitResult[Any]) -> None:
        """Take a gathered node; it replaces its units' messages."""
        self._running.pop(node, None)
        self._whole.pop(node, None)
        self._closed.add(node)
        self._done = added(self._done, (result.blocks, result.rows, result.bytes_read))

    def counts(self) -> Counts:
        """Return blocks, rows and bytes so far."""
        total = self._done
        for node in self._running.keys() | self._whole.keys():
            some = (0, 0, 0)
            for counts in self._running.get(node, {}).values():
                some = added(some, counts)
            total = added(total, max(some, self._whole.get(node, some)))
        return total


def added(a: Counts, b: Counts) -> Counts:
    """Return blocks, rows and bytes of two together."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
