"""Checkpoints where they really lie: a bucket, a disk that runs full, and with another driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from distributed import LocalCluster

from dask_gmm import GaussianMixture
from dask_gmm.errors import CheckpointError, CheckpointWarning
from dask_gmm.fitting.events import PassFinished
from dask_gmm.fitting.found import read_checkpoint
from tests.cli.conftest import PROGRAM
from tests.object_store import object_store  # noqa: F401 - a fixture
from tests.small_disk import small_disk  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_store import ObjectStoreServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

K, D, PASSES = 3, 2, 6
SETTINGS: dict[str, Any] = {
    "acceleration": None,
    "tol": 0.0,
    "max_iter": PASSES,
    "random_state": 0,
}


@pytest.fixture
def points(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(m, 1.0, (1000, D)) for m in (-2.5, 0.0, 2.5)])
    rng.shuffle(rows)
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(300, D))
    return tmp_path / "x.zarr"


class StoppedError(Exception):
    """The process dies, as it were."""


def stop_after(number: int) -> Any:
    def watch(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == number:
            raise StoppedError

    return watch


def test_in_a_bucket(
    points: Path,
    object_store: ObjectStoreServer,  # noqa: F811
) -> None:
    """Of data on this disk: storage options belong to whatever takes them."""
    store = object_store
    place = store.url("c")
    whole = GaussianMixture(K, **SETTINGS).fit(points)
    gm = GaussianMixture(K, **SETTINGS, storage_options=store.options)
    with pytest.raises(StoppedError):
        gm.set_params(callbacks=[stop_after(4)]).fit(points, checkpoint=place)
    found = read_checkpoint(place, store.options)
    assert found is not None
    assert found.about["passes"] == 3
    seen: list[Any] = []
    gm.set_params(callbacks=[seen.append]).fit(points, checkpoint=place, resume="must")
    assert [e.number for e in seen if isinstance(e, PassFinished)] == [4, 5, 6]
    assert gm.means_.tobytes() == whole.means_.tobytes()
    where = [w for pair in store.options.items() for w in ("--storage-option", "=".join(pair))]
    words = [
        "fit",
        str(points),
        "-k",
        str(K),
        "--seed",
        "0",
        "--acceleration",
        "none",
        "--tol",
        "0",
    ]
    words += ["--max-iter", str(PASSES), "--checkpoint", place, "--resume", "--json", *where]
    done = subprocess.run([*PROGRAM, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["means"] == whole.means_.tolist()
    assert "nothing is left to do" in done.stderr


def wait_for_commit(place: Path, passes: int) -> None:
    """A fit waits for no commit: on a busy machine the first may be written after the next pass."""
    end = time.monotonic() + 60
    while (found := read_checkpoint(str(place))) is None or found.about["passes"] < passes:
        assert time.monotonic() < end, "no commit was written"
        time.sleep(0.01)


def test_a_disk_that_runs_full(points: Path, small_disk: Path) -> None:  # noqa: F811
    """The fit goes on, says so once a pass, and the commit that fitted holds."""
    whole = GaussianMixture(K, **SETTINGS).fit(points)
    place = small_disk / "c"

    def fill(event: Any) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            wait_for_commit(place, passes=1)
            free = os.statvfs(small_disk)
            (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))

    gm = GaussianMixture(K, **SETTINGS, callbacks=[fill])
    with pytest.warns(CheckpointWarning, match="the fit goes on without") as told:
        gm.fit(points, checkpoint=place)
    assert gm.means_.tobytes() == whole.means_.tobytes()
    assert all("is full" in str(w.message) for w in told if w.category is CheckpointWarning)
    found = read_checkpoint(str(place))
    assert found is not None
    assert found.about["passes"] in (1, 2)
    with pytest.raises(CheckpointError, match="is full"):
        GaussianMixture(K, **SETTINGS).fit(points, checkpoint=small_disk / "d")
    (small_disk / "filler").unlink()
    again = GaussianMixture(K, **SETTINGS).fit(points, checkpoint=place, resume="must")
    assert again.means_.tobytes() == whole.means_.tobytes()


DRIVER = """
import contextlib, sys, time, warnings
from dask_gmm import GaussianMixture
from dask_gmm.fitting.events import PassFinished
warnings.simplefilter("ignore")
def slow(event):
    if isinstance(event, PassFinished):
        print("pass", event.number, flush=True)
        time.sleep(float(sys.argv[3]))
gm = GaussianMixture(3, acceleration=None, tol=0.0, max_iter=6, random_state=0, callbacks=[slow])
print("ready", flush=True)
sys.stdin.readline()
with contextlib.ExitStack() as stack:
    if len(sys.argv) > 4:
        from distributed import Client
        stack.enter_context(Client(sys.argv[4]))
    gm.fit(sys.argv[1], checkpoint=sys.argv[2])
print(gm.means_.tobytes().hex(), flush=True)
"""


def driver(points: Path, place: Path, pause: float, *scheduler: str) -> subprocess.Popen[str]:
    """A process that fits once it is told to, and rests so long after each pass."""
    words = [sys.executable, "-c", DRIVER, str(points), str(place), str(pause), *scheduler]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    wait_for(process, "ready")
    return process


def begin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for said in process.stdout:
        if said.strip() == line:
            return
    raise AssertionError(f"it ended without saying {line!r}")


@pytest.mark.parametrize("slower", ["first", "second"])
def test_two_drivers_in_two_processes(slower: str, points: Path, tmp_path: Path) -> None:
    """One of them, whichever, ends with an undisturbed fit's bits; the other says who goes on."""
    whole = GaussianMixture(K, **SETTINGS).fit(points).means_.tobytes().hex()
    # Long enough for the second to begin before the first has come to its end, on a busy machine.
    pauses = (1.5, 0.1) if slower == "first" else (0.8, 2.5)
    place = tmp_path / "c"
    with driver(points, place, pauses[0]) as first, driver(points, place, pauses[1]) as second:
        begin(first)
        wait_for(first, "pass 2")
        begin(second)
        said = [process.communicate(timeout=120) for process in (first, second)]
        codes = [first.returncode, second.returncode]
    assert sorted(codes) == [0, 1], said
    loser = codes.index(1)
    assert said[1 - loser][0].split()[-1] == whole
    assert "FencedError" in said[loser][1]
    winner = (first, second)[1 - loser]
    assert f"process {winner.pid} on " in said[loser][1]


def test_a_driver_that_was_stopped_for_long_is_fenced_off(points: Path, tmp_path: Path) -> None:
    """It wakes when another has come to the end, and must not write over that."""
    whole = GaussianMixture(K, **SETTINGS).fit(points).means_.tobytes().hex()
    place = tmp_path / "c"
    with driver(points, place, 0.3) as first, driver(points, place, 0.0) as second:
        begin(first)
        wait_for(first, "pass 2")
        os.kill(first.pid, signal.SIGSTOP)
        begin(second)
        out, _ = second.communicate(timeout=120)
        assert second.returncode == 0
        assert out.split()[-1] == whole
        before = read_checkpoint(str(place))
        os.kill(first.pid, signal.SIGCONT)
        _, complaint = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "FencedError" in complaint
    after = read_checkpoint(str(place))
    assert before is not None
    assert after is not None
    assert (before.commit, before.about["ended"]) == (after.commit, True)


def test_a_driver_that_dies_leaves_the_cluster_to_the_next(points: Path, tmp_path: Path) -> None:
    """Which goes on there with the same bits; nothing of the dead one's stays."""
    whole = GaussianMixture(K, **SETTINGS).fit(points).means_.tobytes().hex()
    place = tmp_path / "c"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        where = cluster.scheduler_address
        with (
            driver(points, place, 0.2, where) as first,
            driver(points, place, 0.0, where) as second,
        ):
            begin(first)
            wait_for(first, "pass 3")
            first.kill()
            begin(second)
            out, complaint = second.communicate(timeout=120)
        assert second.returncode == 0, complaint
        assert out.split()[-1] == whole
        assert out.startswith(("pass 3", "pass 4"))
        until = time.monotonic() + 30
        while cluster.scheduler.tasks and time.monotonic() < until:
            time.sleep(0.1)
        assert not cluster.scheduler.tasks
