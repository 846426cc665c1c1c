"""The tasks of a pass.

- One tiny task holds the job (the candidates' parameters) and the source. Its result spreads from
  worker to worker, and is made again from the graph if its holders die; scattered data would be
  lost with them.
- One task per unit, without restrictions: the scheduler keeps such tasks in its own queue, so a
  worker that dies takes only the units it was running with it. Units whose blocks a worker has
  pinned prefer that worker; they wait there, and not in the queue.
- Only where values are large, tasks that fold them before the driver sees them.
- Where there are many threads, one task per team of workers in place of its units
  (`dask_gmm.execution.cluster.captain`).

While some worker does not answer, all tasks that are submitted are restricted to those that do: the
scheduler takes a silent worker for an idle one, and gives it more.

A scheduler remembers every *group* of tasks (keys with the same first element) for ever, in the
span it was part of. All passes of a backend therefore name their groups alike; an anchor, a task
that is kept from pass to pass, keeps a group from ending and beginning anew. Such a group says
nothing about the number of tasks of one pass any more, which is what the scheduler judges by
whether they are to be queued; so units are marked as those that are (`_data_producer`).

Tasks call builtins on pickled bytes and on each other's results; the scheduler never unpickles an
object of ours and needs none of our packages.
"""

from __future__ import annotations

import operator
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask._task_spec import GraphNode, Task, TaskRef, convert_legacy_graph
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.optimization import cull
from distributed.protocol import pickle

from dask_gmm.execution.cluster.captain import TeamRunner
from dask_gmm.execution.cluster.member import Orders
from dask_gmm.execution.cluster.worker import BlockRunner, UnitRunner, fold_results
from dask_gmm.execution.opened import Opened
from dask_gmm.execution.plan import task_memory
from dask_gmm.execution.tree import node_count, root_level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dask_gmm.execution.cluster.captain import Enlisted
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

Key = tuple[str, str, int]

_cull: Callable[..., Any] = cull  # untyped in Dask
_convert: Callable[..., Any] = convert_legacy_graph

__all__ = [
    "KINDS",
    "PassGraph",
    "TreeShape",
    "anchors",
    "level_of",
    "make_runner",
    "pass_graph",
    "team_graph",
    "tree_shape",
]

#: The groups of tasks that passes over stores have as a rule.
KINDS = ("run", "unit", "team", "lead")
#: Bytes of values that the driver gathers and folds itself; beyond, workers fold first.
DRIVER_BYTES = 200_000_000
#: Tasks fold at most 16 siblings, and fewer where 16 values would not fit beside each other.
FOLD_LEVELS = 4
FOLD_BYTES = 512_000_000


@dataclass(frozen=True)
class TreeShape:
    """Which levels of the tree are tasks.

    Attributes
    ----------
    base : int
        Level of the tasks that meet the data: units, or single blocks of a Dask collection.
    output : int
        Level of the nodes that the driver gathers.
    step : int
        Levels that one fold task spans.
    """

    base: int
    output: int
    step: int


def tree_shape(plan: Plan, job: BlockJob[Any]) -> TreeShape:
    """Decide what workers fold: nothing beyond a unit, unless values are large."""
    step = FOLD_LEVELS
    while step > 1 and job.value_bytes << step > FOLD_BYTES:
        step -= 1
    output = plan.unit_level
    top = root_level(plan.n_positions)
    while output < top and node_count(plan.n_positions, output) * job.value_bytes > DRIVER_BYTES:
        output = min(output + step, top)
    base = plan.unit_level if plan.source.graph_blocks is None else 0
    return TreeShape(base, output, step)


def make_runner(
    plan: Plan, job: BlockJob[Any], topic: str, token: str, *, fit: str | None = None
) -> bytes:
    """Return the pickled callable that the pass's base tasks call; with `fit`, that of its teams.

    Parameters
    ----------
    plan, job
        The pass.
    topic, token : str
        Where to send progress, and whose progress it is.
    fit : str, optional
        What the passes of one fit have in common.
    """
    source = plan.source
    if source.graph_blocks is not None:
        # Not the source itself, which would carry the collection's whole graph along.
        of_blocks: Any = BlockRunner(source.graph_blocks.row_maker(), source.name, Opened(job.open))
        return _dumps(of_blocks)
    size = task_memory(plan, job)
    opened, level = Opened(job.open), plan.unit_level
    runner: Any = UnitRunner(source, opened, topic, token, plan.cache, size, level)
    if fit is not None:
        # Time tells a pass from the one before it, whatever process drives the fit.
        runner = TeamRunner(Orders(runner, plan.blocks, plan.unit_level), fit, time.time_ns())
    return _dumps(runner)


def _dumps(thing: Any) -> bytes:
    dumps: Callable[[Any], bytes] = pickle.dumps
    return dumps(thing)


@dataclass(frozen=True)
class PassGraph:
    """Tasks, and the keys of the nodes to gather with their index at the output level.

    Attributes
    ----------
    name : str
        Part of the keys of its tasks, and of no other's.
    tasks : dict
    outputs : dict of key to int
    preferred_workers : dict of key to str
        Tasks that had better run on one worker, and its address.
    workers : tuple of str
        The only ones that may run tasks; empty for all there are.
    led : bool
        Whether each output is the one task of a team.
    """

    name: str
    tasks: dict[Any, Any]
    outputs: dict[Any, int]
    preferred_workers: dict[Any, str]
    workers: tuple[str, ...] = ()
    led: bool = False

    def submission(self) -> Any:
        """Return what `Client.get` takes: one layer for each worker that tasks prefer."""
        if not self.preferred_workers and not self.workers:
            return self.tasks
        layers: dict[str, Any] = {}
        for key, task in self.tasks.items():
            layers.setdefault(self.preferred_workers.get(key, ""), {})[key] = task
        rest = {w: {""} if w and "" in layers else set() for w in layers}
        make: Callable[..., Any] = MaterializedLayer
        return HighLevelGraph(
            {w: make(tasks, annotations=self._annotations(w)) for w, tasks in layers.items()}, rest
        )

    def _annotations(self, preferred: str) -> dict[str, Any] | None:
        if self.workers:
            return {"workers": [preferred] if preferred else list(self.workers)}
        return {"workers": [preferred], "allow_other_workers": True} if preferred else None

    def confined_to(self, key: Any) -> frozenset[str]:
        """Return the workers that alone may make the value of an output; none if any may."""
        if self.workers and key in self.preferred_workers:
            return frozenset([self.preferred_workers[key]])
        return frozenset(self.workers)


def anchors(groups: Iterable[str]) -> dict[Any, Any]:
    """Return a task for each group that costs nothing and, while it is wanted, keeps the group."""
    keys = [(group, "anchor") for group in groups]
    return {key: Task(key, operator.truth, True) for key in keys}


def pass_graph(
    plan: Plan,
    shape: TreeShape,
    runner: bytes,
    nodes: Iterable[int],
    *,
    group: str | None = None,
    preferred: Mapping[int, str] | None = None,
    workers: Iterable[str] = (),
    anew: bool = False,
) -> PassGraph:
    """Build the tasks for some nodes of the output level.

    All keys are new: what was lost or cancelled under an earlier key cannot meet them.

    Parameters
    ----------
    plan, shape, runner
        The pass.
    nodes : iterable of int
    group : str, optional
        Part of the names of the tasks' groups; a new one by default.
    preferred : mapping of int to str, optional
        Units and the addresses of the workers that have pinned their blocks.
    workers : iterable of str, optional
        Addresses of the only workers that may run the tasks.
    anew : bool
        Whether the tasks of a Dask collection get new keys as well. Under their own a scheduler
        waits for whoever has begun them.
    """
    builder = _Builder(plan, shape, group or uuid.uuid4().hex, preferred or {})
    outputs = {builder.node(shape.output, index): index for index in nodes}
    builder.ship("run", runner)
    if shape.output > shape.base:
        builder.ship("fold", _dumps(fold_results))
    if plan.source.graph_blocks is not None:
        graph = plan.source.graph_blocks.graph()
        needed = set(builder.block_keys)
        if len(needed) < plan.source.n_blocks:
            # A selection of blocks, or what a lost worker takes with it: not the whole collection.
            graph = _cull(graph, needed.intersection(graph))[0]
        builder.tasks.update(graph)
        if anew:
            builder.tasks = _renamed(builder.tasks, needed.union(graph), builder.token)
    chosen = tuple(sorted(workers))
    return PassGraph(builder.token, builder.tasks, outputs, builder.preferred_workers, chosen)


def _renamed(tasks: Mapping[Any, Any], names: Iterable[Any], token: str) -> dict[Any, Any]:
    """Give tasks new names, wherever they stand; the futures of persisted blocks keep theirs."""
    is_future = {
        k for k, v in tasks.items() if isinstance(v, TaskRef) and not isinstance(v, GraphNode)
    }
    new = {name: _with(name, token) for name in names if name not in is_future and name in tasks}
    kept = {key: tasks[key] for key in is_future}
    rest = _convert({k: v for k, v in tasks.items() if k not in is_future}, set(tasks))
    moved = {new.get(k, k): task.substitute(new, key=new.get(k, k)) for k, task in rest.items()}
    return kept | moved


def _with(name: Any, token: str) -> Any:
    """Return a key with a token in its first word, which is that of its group."""
    if isinstance(name, tuple):
        return (f"{name[0]}-{token}", *name[1:])
    return f"{name}-{token}"


def team_graph(
    plan: Plan,
    shape: TreeShape,
    runner: bytes,
    teams: Mapping[int, Sequence[Enlisted]],
    group: str,
    workers: Iterable[str] = (),
) -> PassGraph:
    """Build one task for each node of the output level that has a team.

    Parameters
    ----------
    plan, shape, runner
        The pass; `runner` is the one of teams.
    teams : mapping of int to sequence of Enlisted
        Nodes and their members, of whom the first is to lead.
    group : str
        Part of the names of the tasks' groups.
    workers : iterable of str, optional
        Addresses of the only workers that may run the tasks.
    """
    builder = _Builder(plan, shape, group, {})
    builder.ship("team", runner)
    outputs = {builder.led(index, members): index for index, members in teams.items()}
    # Else all would go to the worker that has the orders, for they leave their threads at once.
    captains = {key: teams[index][0].address for key, index in outputs.items()}
    chosen = tuple(sorted(workers))
    return PassGraph(builder.token, builder.tasks, outputs, captains, chosen, led=True)


def level_of(key: Any, shape: TreeShape) -> int | None:
    """Return the level of the node that a task of a pass makes; None for what all nodes need."""
    kind = key[0].split("-")[1]
    if kind in ("unit", "block"):
        return shape.base
    if kind == "lead":
        return shape.output
    return int(kind[4:]) if kind[4:] else None  # "fold12"; "fold", "run" and "team"


class _Builder:
    def __init__(
        self, plan: Plan, shape: TreeShape, group: str, preferred: Mapping[int, str]
    ) -> None:
        self.plan = plan
        self.shape = shape
        self.group = group
        self.token = uuid.uuid4().hex
        self.preferred = preferred
        self.tasks: dict[Any, Any] = {}
        self.preferred_workers: dict[Any, str] = {}
        self.block_keys: list[Any] = []

    def key(self, kind: str, index: int = 0) -> Key:
        return (f"gmm-{kind}-{self.group}", self.token, index)

    def ship(self, kind: str, pickled: bytes) -> None:
        key = self.key(kind)
        self.tasks[key] = Task(key, pickle.loads, pickled)

    def node(self, level: int, index: int) -> Key:
        """Add the task of a node and of everything below it; return its key."""
        if level == self.shape.base:
            return self._base(index)
        below = max(level - self.shape.step, self.shape.base)
        first, last = index << (level - below), (index + 1) << (level - below)
        last = min(last, node_count(self.plan.n_positions, below))
        children = [TaskRef(self.node(below, child)) for child in range(first, last)]
        key = self.key(f"fold{level}", index)
        self.tasks[key] = Task(key, operator.call, TaskRef(self.key("fold")), *children)
        return key

    def led(self, index: int, members: Iterable[Enlisted]) -> Key:
        """Add the task of a team; return its key."""
        key, plain = self.key("lead", index), tuple(tuple(member) for member in members)
        call = TaskRef(self.key("team"))
        self.tasks[key] = Task(key, operator.call, call, self.shape.output, index, plain)
        return key

    def _base(self, index: int) -> Key:
        plan, run = self.plan, TaskRef(self.key("run"))
        source, graph_blocks = plan.source, plan.source.graph_blocks
        if graph_blocks is not None:
            key = self.key("block", index)
            block = source.block(plan.blocks[index])
            self.block_keys.append(graph_blocks.block_key(block.index))
            value = TaskRef(self.block_keys[-1])
            self.tasks[key] = Task(
                key,
                operator.call,
                run,
                value,
                index,
                block.index,
                block.start,
                block.stop,
                block.rows,
            )
        else:
            key = self.key("unit", index)
            blocks = plan.blocks_of(plan.unit(index))
            self.tasks[key] = Task(key, operator.call, run, index, blocks, _data_producer=True)
            if index in self.preferred:
                self.preferred_workers[key] = self.preferred[index]
        return key
