"""The attempts at a pass's nodes: one for each as a rule, more where one does not get on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask_gmm.execution.cluster.graph import level_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from dask_gmm.execution.cluster.graph import PassGraph, TreeShape

__all__ = ["Attempt", "Attempts"]

# `distributed` is annotated in places only, and differently from release to release.
Future = Any


@dataclass(eq=False)
class Attempt:
    """One task whose result is the value of a node.

    Attributes
    ----------
    node : int
        Index at the output level.
    name : str
        The submission that it is part of.
    future : distributed.Future
    workers : frozenset of str
        Those that alone may run it; empty for any.
    led : bool
        Whether it is the task of a team.
    stuck : bool
        Whether it was given up: nothing is expected of it, and should it end all the same, well.
    """

    node: int
    name: str
    future: Future
    workers: frozenset[str] = frozenset()
    led: bool = False
    stuck: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return time.monotonic() - self.since


class Attempts:
    """Those under way, by key and by node.

    Parameters
    ----------
    shape : TreeShape
        Which levels of the tree are tasks.
    """

    def __init__(self, shape: TreeShape) -> None:
        self._shape = shape
        self._by_key: dict[Any, Attempt] = {}
        self._by_node: dict[int, list[Attempt]] = {}
        self._by_name: dict[str, dict[int, Attempt]] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(list(self._by_key.values()))

    def get(self, key: Any) -> Attempt | None:
        """Return the attempt whose result has a key."""
        return self._by_key.get(key)

    def of(self, node: int) -> list[Attempt]:
        """Return all attempts at a node."""
        return list(self._by_node.get(node, ()))

    def hopeless(self, node: int) -> bool:
        """Whether nothing is expected of any attempt at a node, or there is none."""
        return all(attempt.stuck for attempt in self._by_node.get(node, ()))

    def add(self, graph: PassGraph, futures: Mapping[Any, Future]) -> None:
        """Take in what was submitted."""
        for key, node in graph.outputs.items():
            only = graph.confined_to(key)
            attempt = Attempt(node, graph.name, futures[key], only, graph.led)
            self._by_key[key] = attempt
            self._by_node.setdefault(node, []).append(attempt)
            self._by_name.setdefault(graph.name, {})[node] = attempt

    def pop(self, key: Any) -> Attempt:
        """Forget an attempt."""
        attempt = self._by_key.pop(key)
        siblings, parts = self._by_node[attempt.node], self._by_name[attempt.name]
        siblings.remove(attempt)
        del parts[attempt.node]
        if not siblings:
            del self._by_node[attempt.node]
        if not parts:
            del self._by_name[attempt.name]
        return attempt

    def clear(self) -> None:
        """Forget all."""
        for members in (self._by_key, self._by_node, self._by_name):
            members.clear()

    def running(self, name: str, unit: int) -> Attempt | None:
        """Return the attempt that a unit of a submission is part of."""
        return self._by_name.get(name, {}).get(unit >> (self._shape.output - self._shape.base))

    def needing(self, key: Any) -> Collection[Attempt]:
        """Return the attempts that cannot end before a task, whose key the scheduler has named."""
        if not isinstance(key, tuple) or len(key) != 3 or key[1] not in self._by_name:
            return ()
        there, level = self._by_name[key[1]], level_of(key, self._shape)
        if level is None:
            return list(there.values())
        node = key[2] >> (self._shape.output - level)
        return [there[node]] if node in there else ()
