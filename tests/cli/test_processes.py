"""The command line as a program: exit codes, signals, terminals, and nothing left behind."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil
import pytest
from distributed import LocalCluster
from rich.console import Console

from dask_gmm.cli.session import Session
from tests.cli.conftest import PROGRAM, program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_importing_the_command_line_is_light() -> None:
    """Whoever asks for help does not wait for SciPy.

    The package itself is left out, since its own file may import what it likes.
    """
    code = f"""
import sys, types
package = types.ModuleType("dask_gmm")
package.__path__ = [{json.dumps(str(_package()))}]
sys.modules["dask_gmm"] = package
import dask_gmm.cli.main
heavy = {{"numpy", "scipy", "sklearn", "zarr", "dask", "distributed", "rich", "psutil"}}
print(*sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


def _package() -> Path:
    from pathlib import Path

    import dask_gmm

    return Path(dask_gmm.__file__).parent


def test_exit_codes(tmp_path: Path) -> None:
    assert program("fit", tmp_path / "none.zarr", "-k", 3).returncode == 1
    assert program("fit").returncode == 2


@pytest.mark.slow
def test_a_reader_that_has_had_enough(model: Path) -> None:
    line = " ".join([*(f"'{word}'" for word in PROGRAM), "show", str(model), "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{line} | head -n 1"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, as a shell would start it."""
    # A shell has what it starts in the background ignore SIGINT, and that would be inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*PROGRAM, *(str(word) for word in words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(process: subprocess.Popen[str], words: str, seconds: float = 90) -> None:
    """Read stderr until a line holds some words."""
    assert process.stderr is not None
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        line = process.stderr.readline()
        if words in line:
            return
        assert line, f"it ended without saying {words!r}"
    pytest.fail(f"{words!r} did not come within {seconds} s")


@pytest.fixture(scope="module")
def slow_points(folder: Path) -> Path:
    """Overlapping components: a fit of these with tol = 0 goes on for a long time."""
    path = folder / "slow.zarr"
    words = ("-n", "400k", "-d", 4, "--separation", 1, "--chunk", "50k")
    assert program("simulate", path, *words, "-q").returncode == 0
    return path


# Plain EM from a start that costs nothing: passes begin at once, and do not end by themselves.
QUICK = ("--acceleration", "none", "--init-params", "random_from_data")
ENDLESS = ("-k", 8, "--tol", 0, "--max-iter", 1_000_000, *QUICK)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        pytest.param(signal.SIGTERM, 143, "Terminated", marks=pytest.mark.slow),
    ],
)
def test_signals_in_mid_pass(
    number: signal.Signals, code: int, word: str, slow_points: Path, tmp_path: Path
) -> None:
    with started("fit", slow_points, *ENDLESS, "-o", tmp_path / "m.zarr") as process:
        wait_for(process, "pass 2")
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith(f"stopped: {word}")
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [(), ("--no-resume",)])
@pytest.mark.slow
def test_a_fit_that_is_interrupted_says_where_it_goes_on(
    resume: tuple[str, ...], slow_points: Path, tmp_path: Path
) -> None:
    place = tmp_path / "checkpoint"
    words = ("fit", slow_points, *ENDLESS, "--seed", 0, "--checkpoint", place)
    with started(*words, *resume) as process:
        wait_for(process, "pass 2")
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    last = stderr.splitlines()[-1]
    found = re.fullmatch(
        rf"stopped: Interrupted after pass (\d+); the same command(.*) goes on from there "
        rf"\(--checkpoint {place}\)\.",
        last,
    )
    assert found, stderr
    assert found[2] == (" without --no-resume" if resume else "")
    with started(*words) as process:
        wait_for(process, f"checkpoint: going on after pass {found[1]}")


@contextmanager
def silent_store() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("second", "code", "word"),
    [
        (signal.SIGINT, 130, "Interrupted"),
        pytest.param(signal.SIGTERM, 143, "Terminated", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_second_signal_stops_at_once_though_a_store_hangs(
    second: signal.Signals, code: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with silent_store() as endpoint:
        options = ("--storage-option", f"endpoint={endpoint}")
        with started("show", "s3://bucket/model.zarr", *options) as process:
            time.sleep(4.0)  # until it asks
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            begun = time.monotonic()
            if process.poll() is None:
                process.send_signal(second)
            _, stderr = process.communicate(timeout=60)
            assert time.monotonic() - begun < 1.5
    said = [line for line in stderr.splitlines() if "stopped:" in line]
    assert len(said) == 1, stderr
    # Where the library looks for signals one is enough, and it may be leaving at the second one.
    in_good_order = "nothing is left running."
    assert (said[0], process.returncode) in {
        (f"stopped: {word} at once.", code),
        (f"stopped: {word}; {in_good_order}", code),
        (f"stopped: Interrupted; {in_good_order}", 130),
    }
    assert "Traceback" not in stderr


class _Writes(io.StringIO):
    """A stream that keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return super().write(text)


def test_a_complaint_is_one_write() -> None:
    """Another thread's last line cannot come between."""
    session, stream = Session(), _Writes()
    vars(session)["err"] = Console(file=stream, width=20)
    session.complain("stopped", "Interrupted; nothing is\nleft [running].")
    assert [text for text in stream.each if text] == [
        "stopped: Interrupted; nothing is left [running].\n"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interrupted_cluster_leaves_no_process(whole_group: bool, slow_points: Path) -> None:
    """A terminal's Ctrl-C reaches the workers too; a kill does not."""
    with started("fit", slow_points, *ENDLESS, "--workers", 1) as process:
        wait_for(process, "pass 1")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert re.fullmatch(r"(pass .*\n)*(stopping; .*\n)?stopped: Interrupted.*\n", stderr), stderr
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


LEAVING = """
import multiprocessing, os
from dask_gmm.cli.cluster import _start_resource_tracker

_start_resource_tracker()
left = multiprocessing.get_context("spawn").Semaphore()
os._exit(0)
"""


@pytest.mark.slow
def test_nothing_is_said_of_what_a_worker_left() -> None:
    """Python's own process removes it, and speaks when the run has said its last line."""
    done = subprocess.run(
        [sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_local_workers_find_the_same_bits(points: Path, tmp_path: Path) -> None:
    words = ("fit", points, "-k", 3, "--seed", 0, "--json")
    here = json.loads(program(*words).stdout)
    log = tmp_path / "dask.log"
    done = program(*words, "--workers", 1, "--memory-limit", "1GB", "--log-file", log)
    there = json.loads(done.stdout)
    for key in ("weights", "means", "covariances", "lower_bounds"):
        assert here[key] == there[key]
    lines = done.stderr.splitlines()
    assert lines[0] == "starting 1 local worker(s) …"
    assert all(re.match(r"sample: |start by |pass \d+: ", line) for line in lines[1:]), done.stderr
    logged = log.read_text()
    assert "distributed.scheduler" in logged
    assert "distributed.worker" in logged


def on_a_terminal(*words: object) -> tuple[int, str]:
    """Run on a pseudo-terminal and return the exit code and all that was drawn."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(COLUMNS="80", TERM="xterm")
        os.execv(PROGRAM[0], [*PROGRAM, *(str(word) for word in words)])
    drawn = b""
    until = time.monotonic() + 90
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        drawn += piece
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), drawn.decode()


@pytest.mark.slow
def test_progress_on_a_terminal(slow_points: Path) -> None:
    code, drawn = on_a_terminal(
        "fit", slow_points, "-k", 4, "--tol", 0, "--max-iter", 4, "--cache", 0
    )
    assert code == 3
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert re.search(r"pass \d of ≤ 4 .*\d/8 blocks", plain)
    assert "log-likelihood -" in plain
    assert "rows/s" in plain
    assert "without converging" in plain
    assert "\x1b[?25h" in drawn, "the cursor is shown again"


TINY = ("demo", "--size", "8MB", "--workers", 1, "-k", 3, "-d", 3)


@pytest.mark.slow
def test_a_tiny_demo(tmp_path: Path) -> None:
    done = program(*TINY, "--directory", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["fit"]["converged"] is True
    assert printed["comparison"]["largest_mean_error_sigma"] < 0.05
    assert 50e6 < printed["peak_worker_bytes"] < printed["memory_limit"]
    assert list(tmp_path.iterdir()) == [], "it cleans up"


@pytest.mark.slow
def test_a_demo_that_is_kept(tmp_path: Path) -> None:
    done = program(*TINY, "--directory", tmp_path, "--keep", "-q")
    assert done.returncode == 0, done.stderr
    assert "found" in done.stdout
    (folder,) = tmp_path.iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"points.zarr", "points.truth.zarr", "model.zarr"}


@pytest.mark.slow
def test_the_demo_as_it_is(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [*PROGRAM, "demo", "--directory", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=235,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["store_over_memory"] >= 3
    assert printed["peak_worker_bytes"] < printed["memory_limit"]
    assert printed["comparison"]["largest_mean_error_sigma"] < 0.01
    assert time.monotonic() - begun < 200
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path) -> None:
    for words in ("writing", "fitting"):
        with started("demo", "--size", "2GB", "--directory", tmp_path) as process:
            wait_for(process, words)
            time.sleep(1)
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=30)
        assert process.returncode == 130
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_cluster_without_workers_and_then_with_one(points: Path, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        **quiet,  # type: ignore[call-overload]
    )
    worker = None
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.2)
        address = json.loads(file.read_text())["address"]
        words = ("fit", points, "-k", 3, "--seed", 0, "--scheduler", address)
        done = program(*words, "--timeout", 3, "-q")
        assert done.returncode == 1
        assert "has no workers" in done.stderr
        worker = subprocess.Popen([*dask, "worker", address, "--no-dashboard"], **quiet)  # type: ignore[call-overload]
        done = program(*words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["converged"] is True
        planned = program("plan", points, "-k", 3, "--scheduler", address)
        assert planned.returncode == 0, planned.stderr
        assert f"the cluster at {address}" in planned.stdout
    finally:
        for process in filter(None, (worker, scheduler)):
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_a_cluster_that_scales_from_no_worker_is_woken(points: Path) -> None:
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        cluster.adapt(minimum=0, maximum=1, interval="200ms")
        words = ("fit", points, "-k", 3, "--seed", 0, "--scheduler", cluster.scheduler_address)
        done = program(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["converged"] is True
