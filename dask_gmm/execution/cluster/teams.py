"""Who is in which team, and whether there are any: what the driver decides before a pass.

Every task costs a scheduler up to a millisecond or two of its one thread, and all workers wait for
it. Beyond some tens of threads that shows. Then the workers form as many teams as each has members
(and few if they are few), and the scheduler's work goes with the square root of their number.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.execution.cluster.captain import Enlisted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.execution.plan import Plan

__all__ = ["FEWEST_THREADS", "enlisted", "in_teams"]

#: Threads of a cluster from which on there are teams.
FEWEST_THREADS = 64
#: Members of a team at least: where they are few, they cannot be in the ratio of its units, and one
#: that is slow has nobody to help it.
FEWEST_MEMBERS = 16
#: Units that each thread gets at least where there are blocks enough: they cost the scheduler
#: nothing, and the fewer blocks each has, the less the last ones are waited for.
UNITS_PER_THREAD = 12
#: ... and at most, none of them shorter than so many seconds: a unit costs its thread one or two
#: milliseconds.
MOST_PER_THREAD, UNIT_SECONDS = 48, 0.05
#: Bytes of values that a captain may hold: some of each member's, which do not lie together.
#: Beyond, tasks of the scheduler's make and fold them, in the memory that is planned for tasks.
CAPTAIN_BYTES, VALUES_OF_EACH = 100_000_000, 8


def in_teams(
    plan: Plan,
    job: BlockJob[Any],
    threads: Mapping[str, int],
    block_seconds: float | None = None,
) -> tuple[Plan, int] | None:
    """Return how a pass is done by teams: in which units, and the level of a team's node.

    Parameters
    ----------
    plan : Plan
    job : BlockJob
    threads : mapping of str to int
        Of each worker by its address.
    block_seconds : float, optional
        What a block takes, if that is known.

    Returns
    -------
    (Plan, int) or None
        The plan in smaller units, so that threads end together (the result keeps its bits). None
        where there are to be no teams.
    """
    n_workers, n_threads = len(threads), sum(threads.values())
    if n_workers < 2 or n_threads < FEWEST_THREADS or plan.source.graph_blocks is not None:
        return None
    teams = max(1, min(round(math.sqrt(n_workers)), n_workers // FEWEST_MEMBERS))
    if job.value_bytes * VALUES_OF_EACH * n_workers > CAPTAIN_BYTES * teams:
        return None
    each = plan.n_positions / (UNITS_PER_THREAD * n_threads)
    if block_seconds:
        least = plan.n_positions / (MOST_PER_THREAD * n_threads)
        each = min(each, max(least, UNIT_SECONDS / block_seconds))
    level = min(plan.unit_level, max(0, int(each).bit_length() - 1))
    fine = replace(plan, unit_level=level)
    if fine.n_units < teams:
        return None
    return fine, fine.unit_level + math.ceil(math.log2(fine.n_units / teams))


def enlisted(
    plan: Plan,
    level: int,
    nodes: Sequence[int],
    threads: Mapping[str, int],
    preferred: Mapping[int, str],
) -> dict[int, list[Enlisted]]:
    """Return the members of the team for each of some nodes, in the ratio of their units.

    A worker that has pinned blocks goes where most of them are read, as far as there is room.

    Parameters
    ----------
    plan : Plan
    level : int
        Of the nodes.
    nodes : sequence of int
        In order.
    threads : mapping of str to int
        Of each worker by its address.
    preferred : mapping of int to str
        Units and the addresses of the workers that have pinned their blocks.

    Returns
    -------
    dict
        A node that is too small for a worker of its own is left out.
    """
    held: dict[str, list[int]] = {}
    for unit, worker in preferred.items():
        held.setdefault(worker, []).append(unit)
    # In order of where they have been, and the rest as it comes: by host, as addresses are.
    order = sorted(threads, key=lambda w: (float(np.median(held.get(w, [plan.n_units]))), w))
    shift = level - plan.unit_level
    sizes = [min(plan.n_units - (node << shift), 1 << shift) for node in nodes]
    ends = np.cumsum(sizes) / sum(sizes) * sum(threads.values())
    members: dict[int, list[Enlisted]] = {}
    before = 0
    for worker in order:
        at = int(np.searchsorted(ends, before + threads[worker] / 2))
        node = nodes[min(at, len(nodes) - 1)]
        before += threads[worker]
        mine = tuple(unit for unit in held.get(worker, ()) if unit >> shift == node)
        members.setdefault(node, []).append(Enlisted(worker, threads[worker], mine))
    return members
