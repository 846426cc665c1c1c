"""Traps in worker processes: what a test has set makes a process die, stop or idle at one place.

Workers load this module by ``--preload tests.faults.traps``. A trap is a file in a folder that all
of them know; the process that takes it away first is the one that it was set for.
"""

from __future__ import annotations

import os
import signal
import time
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.execution.fakes import leave_trace

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FOLDER", "NUMPY", "SECONDS", "disarm", "passing_by", "set_trap"]

FOLDER, SECONDS, NUMPY = "DASK_GMM_TRAPS", "DASK_GMM_BLOCK_SECONDS", "DASK_GMM_NUMPY"


def set_trap(folder: Path, place: str, action: str, times: int = 1) -> None:
    """Have the next ones that come to a place "kill", "stop", "sleep 60" or "hold 600000000"."""
    for number in range(times):
        (folder / f"{place}.{number}.new").write_text(action)
        (folder / f"{place}.{number}.new").rename(folder / f"{place}.{number}.trap")


def disarm(folder: Path) -> None:
    """Take all traps away."""
    for trap in folder.glob("*.trap"):
        trap.unlink(missing_ok=True)


def _walk(place: str) -> None:
    """Come to a place."""
    folder = Path(os.environ[FOLDER])
    for trap in sorted(folder.glob(f"{place}.*.trap")):
        mine = trap.with_suffix(f".{os.getpid()}")
        try:
            trap.rename(mine)
        except FileNotFoundError:  # somebody else's
            continue
        leave_trace(str(folder), f"trapped-{place}")
        action, _, amount = mine.read_text().partition(" ")
        if action == "sleep":
            time.sleep(float(amount))
        elif action == "hold":
            held = b"x" * int(amount)
            time.sleep(5.0)
            del held
        else:
            os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action])
        return


def passing_by(block: Any) -> Any:
    """Come to the place "graph" in a task of a collection; for ``map_blocks``."""
    time.sleep(float(os.environ.get(SECONDS, "0")))
    if FOLDER in os.environ:
        _walk("graph")
    return block


def dask_setup(worker: Any) -> None:
    """Lay the traps' wires; Dask calls this in every worker."""
    from dask_gmm.execution import unit
    from dask_gmm.execution.cluster import captain, member
    from dask_gmm.execution.cluster import worker as tasks

    folder, seconds = os.environ[FOLDER], float(os.environ.get(SECONDS, "0"))
    read, compute, fold = unit._read, unit._run_block, tasks.fold_results

    @wraps(read)
    def reading(source: Any, block: Any, *args: Any) -> Any:
        leave_trace(folder, "read")
        _walk("read")
        return read(source, block, *args)

    @wraps(compute)
    def computing(job: Any, rows: Any, block: Any, *args: Any) -> Any:
        time.sleep(seconds)
        _walk("kernel")
        _walk(f"block-{block.index}")
        return compute(job, rows, block, *args)

    @wraps(fold)
    def folding(*results: Any) -> Any:
        _walk("fold")
        return fold(*results)

    work, take = member.work, captain._Team._take

    @wraps(work)
    async def working(*args: Any, **options: Any) -> Any:
        _walk("member")
        return await work(*args, **options)

    @wraps(take)
    def taking(self: Any, address: str, report: Any) -> None:
        _walk("captain")
        take(self, address, report)

    # One object, or it would be sent as a whole.
    member.work = captain.work = working  # type: ignore[attr-defined]
    captain._Team._take = taking  # type: ignore[method-assign]
    unit._read, unit._run_block, tasks.fold_results = reading, computing, folding  # type: ignore[assignment]
    worker.handlers["get_data"] = _asked(worker.handlers["get_data"])
    if NUMPY in os.environ:
        import numpy as np

        np.__version__ = os.environ[NUMPY]  # type: ignore[misc]


def _asked(get_data: Callable[..., Any]) -> Callable[..., Any]:
    """Who is asked for a pass's parameters, or for results, may be in a trap."""

    async def asked(comm: Any, keys: Any, **options: Any) -> Any:
        names = {str(key[0]) if isinstance(key, tuple) else str(key) for key in keys}
        for place in ("run", "unit", "fold", "team", "lead"):
            if any(name.startswith(f"gmm-{place}") for name in names):
                _walk(f"holder-{place}")
        return await get_data(comm, keys=keys, **options)

    return asked
