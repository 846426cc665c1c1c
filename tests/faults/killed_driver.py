"""A fit in a process that is killed, and one that goes on: a program, for `test_killed_driver`.

`python -m tests.faults.killed_driver KIND DATA FOLDER` fits without a checkpoint, with one, and
then again and again with a process that SIGKILL ends: in each pass, and at each thing that it does
to a file of the checkpoint, as the interpreter's audit events tell. After each of them a new
process goes on. It prints one JSON object. Every process is a fork of this one, which has imported
all and started nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.fitting.events import CheckpointWritten, FitResumed, PassAdvanced, PassFinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.fitting.events import Event

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"acceleration": None, "max_iter": 5, "tol": 0.0},
    "accelerated": {"acceleration": "variance-reduced", "init_size": 400, "tol": 1e-9},
    "selection": {"acceleration": None, "max_iter": 4, "tol": 0.0},
}
SELECTED = range(2, 4)


def main(kind: str, data: str, folder: str) -> None:
    """Do it all, and print what came of it."""
    warnings.simplefilter("ignore")
    place = str(Path(folder) / "checkpoint")
    whole = in_process(lambda: fitted(kind, data))
    undisturbed = in_process(lambda: fitted(kind, data, place))
    shutil.rmtree(place)
    steps = in_process(lambda: counted(kind, data, place))
    assert undisturbed["bits"] == whole["bits"]
    ends: list[dict[str, Any]] = []
    deaths = [("pass", n) for n in range(1, whole["passes"] + 1)]
    deaths += [("step", n) for n in range(1, steps["steps"] + 1)]
    for where, number in deaths:
        shutil.rmtree(place, ignore_errors=True)
        died = in_process(lambda w=where, n=number: dying(kind, data, place, w, n))  # type: ignore[misc]
        again = in_process(lambda: fitted(kind, data, place))
        scraps = [p.name for p in Path(place).iterdir() if p.suffix not in {".state", ".commit"}]
        ends.append(
            {
                "where": f"{where} {number}",
                "killed": died == {"killed": signal.SIGKILL},
                "same": again["bits"] == whole["bits"],
                "resumed": again["resumed"],
                "made": again["made"],
                "scraps": scraps,
            }
        )
    json.dump({"passes": whole["passes"], "steps": steps["steps"], "ends": ends}, sys.stdout)


def in_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run something in a fork of this process; say what it returned, or what killed it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"killed": os.WTERMSIG(status)}
    assert status == 0, "a process failed: its traceback is above"
    found: dict[str, Any] = json.loads(said)
    return found


def fitted(
    kind: str, data: str, place: str | None = None, watch: Callable[[Event], None] = lambda _: None
) -> dict[str, Any]:
    """Fit, and say what came of it."""
    passes: list[int] = []
    resumed: list[int] = []

    def count(event: Event) -> None:
        if isinstance(event, PassFinished):
            passes.append(event.number)
        if isinstance(event, FitResumed):
            resumed.append(event.passes)

    settings = {"random_state": 0, "callbacks": [count, watch], **KINDS[kind]}
    if kind == "selection":
        found = select_gaussian_mixture(data, SELECTED, "full", checkpoint=place, **settings)
        model = found.best_model
    else:
        model = GaussianMixture(3, **settings).fit(data, checkpoint=place)
    bits = hashlib.sha256()
    for array in (model.weights_, model.means_, model.covariances_, np.array(model.lower_bounds_)):
        bits.update(array.tobytes())
    bits.update(repr((model.remaining_gain_, model.outcome_, model.n_rows_)).encode())
    return {
        "bits": bits.hexdigest(),
        "passes": len(model.history_),
        "made": len(passes),
        "resumed": resumed,
    }


def dying(kind: str, data: str, place: str, where: str, number: int) -> dict[str, Any]:
    """Fit, and die in a pass, or at a step of writing the checkpoint."""

    def die_in_pass(event: Event) -> None:
        if where == "pass" and isinstance(event, PassAdvanced) and event.number == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if where == "step":
        on_steps(place, lambda n: os.kill(os.getpid(), signal.SIGKILL) if n == number else None)
    return fitted(kind, data, place, die_in_pass)


def counted(kind: str, data: str, place: str) -> dict[str, Any]:
    """Fit, and count what is done to files of the checkpoint; at the first three commits."""
    seen = [0, 0]

    def until(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.commit == 4:
            seen[1] = seen[0]

    on_steps(place, lambda n: seen.__setitem__(0, n))
    fitted(kind, data, place, until)
    return {"steps": seen[1] or seen[0]}


def on_steps(place: str, told: Callable[[int], None]) -> None:
    """Call back before each thing that this process does to a file in a folder, numbered."""
    number = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal number
        changes = name in {"os.link", "os.rename", "os.remove", "os.mkdir"} or (
            name == "open" and len(arguments) > 2 and int(arguments[2] or 0) & 3
        )
        if changes and any(str(a).startswith(place) for a in arguments[:2]):
            number += 1
            told(number)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main(*sys.argv[1:])
