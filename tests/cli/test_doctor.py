"""doctor: what it says of data, processes and clusters, each thing provoked, and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
import zarr.codecs
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError
from distributed.security import Security

from dask_gmm.cli.block_time import job_for
from dask_gmm.cli.diagnosis import asking, connection, layout, machines, reads, versions
from dask_gmm.cli.diagnosis.asking import Versions, versions_here
from dask_gmm.cli.diagnosis.examination import examine
from dask_gmm.cli.diagnosis.process import BlasLibrary, BlockRead, report
from dask_gmm.cli.patience import within
from dask_gmm.cli.place import Place
from dask_gmm.cli.session import Session
from dask_gmm.data.source import open_source
from dask_gmm.execution.cluster.connection import address_of
from dask_gmm.execution.plan import plan_pass
from tests.cli.conftest import program, write
from tests.counting_server import counting_server
from tests.dask_processes import started, started_scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from click.testing import Result

    from dask_gmm.cli.diagnosis.finding import Finding
    from tests.cli.conftest import Run

HERE = report()
A, B, C = (f"tcp://10.0.0.{n}:4000" for n in (1, 2, 3))


def told(done: Result, code: int = 0) -> dict[str, Any]:
    assert done.exit_code == code, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of(found: dict[str, Any], subject: str) -> list[dict[str, Any]]:
    return [finding for finding in found["findings"] if finding["subject"] == subject]


def levels(findings: Sequence[Finding]) -> list[str]:
    return [finding.level for finding in findings]


# -- the command -----------------------------------------------------------------------------------


def test_all_is_well(points: Path, run: Run) -> None:
    done = run("doctor", points, "--threads-per-worker", 2)
    assert done.exit_code == 0, done.output
    *lines, blank, last = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines), done.stdout
    assert (blank, last) == ("", "ready. Nothing to mend; on this process, 2 threads.")
    subjects = [line.split()[1] for line in lines]
    assert subjects == ["versions", "CPU", "BLAS", "memory", "chunks", "codec", "memory", "reading"]
    assert f"Python {sys.version.split()[0]}" in lines[0]


def test_as_json(points: Path, run: Run) -> None:
    found = told(run("doctor", points, "--json", "-q"))
    assert (found["healthy"], found["errors"], found["data"]) == (True, 0, str(points))
    [process] = found["processes"]
    assert process["fingerprint"] == HERE.fingerprint
    [read] = found["reads"]
    assert read["address"] == "this process"
    assert read["decoded_bytes"] == 500 * 3 * 8
    assert read["requests"] == 1
    assert 0 < read["latency"] <= read["opening"]
    assert read["bytes_per_second"] > 0
    assert {"level", "subject", "text", "remedy", "workers"} == set(found["findings"][0])


def test_without_data(run: Run) -> None:
    found = told(run("doctor", "--json", "-q"))
    assert [finding["subject"] for finding in found["findings"]] == [
        "versions",
        "CPU",
        "BLAS",
        "memory",
    ]
    assert found["data"] is None


def test_data_that_are_not_there(tmp_path: Path, run: Run) -> None:
    """What can be looked at without them is looked at all the same."""
    found = told(run("doctor", tmp_path / "none.zarr", "--json"), code=1)
    [error] = of(found, "data")
    assert error["level"] == "error"
    assert "no such path" in error["text"]
    assert of(found, "CPU")
    shown = run("doctor", tmp_path / "none.zarr")
    assert "a fit would fail. 1 error; on" in shown.stdout


MISTAKES = {
    "how to read nothing": ("doctor --array x", 2, "--array says how to read DATA"),
    "options of a local path": ("doctor {} --storage-option region=x", 2, "local paths"),
    "no address": ("doctor --scheduler nonsense://x", 1, "no address of a Dask scheduler"),
    "nobody there": ("doctor --scheduler tcp://127.0.0.1:9 --timeout 1", 1, "No Dask scheduler"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str, points: Path, run: Run) -> None:
    line, code, words = MISTAKES[name]
    done = run(*line.format(points).split(), "-q")
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr


# -- how data are stored ---------------------------------------------------------------------------

ROWS = np.random.default_rng(0).normal(size=(2000, 4))


def test_tiny_chunks(tmp_path: Path, run: Run) -> None:
    found = told(run("doctor", write(tmp_path / "x.zarr", ROWS[:1200], (1, 4)), "--json", "-q"))
    warning, *_ = of(found, "chunks")
    assert warning["level"] == "warning"
    assert "1,200 chunks of 32 B" in warning["text"]
    assert "8 to 32 MB" in warning["remedy"]
    assert found["healthy"], "it would only be slow"


LAYOUTS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "cut over features": ({"chunks": (500, 1)}, "chunks", "warning", "4 of 4.00 kB"),
    "gzip": (
        {"chunks": (500, 4), "compressors": zarr.codecs.GzipCodec()},
        "codec",
        "warning",
        "compressed by gzip",
    ),
    "raw": ({"chunks": (500, 4), "compressors": None}, "codec", "ok", "by nothing"),
    "blosc": (
        {"chunks": (500, 4), "compressors": zarr.codecs.BloscCodec(cname="lz4")},
        "codec",
        "ok",
        "by blosc with lz4",
    ),
    "a layout of its own": (
        {"chunks": (500, 4), "filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        "codec",
        "note",
        "read by zarr-python",
    ),
    "shards": ({"chunks": (125, 4), "shards": (500, 4)}, "shards", "ok", "4 chunks of 4.00 kB"),
    "large shards": (
        {"chunks": (125, 4), "shards": (1000, 4)},
        "shards",
        "note",
        "a slab of them at a time",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 16_000)
    how, subject, level, words = LAYOUTS[name]
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, **how)
    found = layout.layout_findings(open_source(str(tmp_path / "x.zarr")), 2)
    [finding] = [f for f in found if f.subject == subject and (level == "ok" or f.level != "ok")]
    assert finding.level == level
    assert words in finding.text
    assert bool(finding.remedy) == (level == "warning" or "zarr-python" in words)


def test_zarr_v2_names_its_codec(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "x.zarr", data=ROWS, chunks=(500, 4), zarr_format=2)
    found = layout.layout_findings(open_source(str(tmp_path / "x.zarr")), 2)
    assert "compressed by zstd" in found[-1].text


def test_large_blocks_and_idle_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LARGE_BYTES", 10_000)
    source = open_source(str(write(tmp_path / "x.zarr", ROWS, (500, 4))))
    large, idle, _ = layout.layout_findings(source, 12)
    assert levels((large, idle)) == ["warning", "warning"]
    assert "each thread holds two blocks" in large.text
    assert "12 threads share 4 blocks" in idle.text


def test_many_arrays_of_one_layout_have_one_line(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g.zarr")
    for name in "abc":
        group.create_array(name, data=ROWS[: 500 if name == "a" else 400], chunks=(100, 4))
    source = open_source(str(tmp_path / "g.zarr"), arrays="*")
    assert [f.subject for f in layout.layout_findings(source, 2)] == ["chunks", "codec"]


# -- reading ---------------------------------------------------------------------------------------


def test_a_chunk_that_is_missing(tmp_path: Path, run: Run) -> None:
    path = write(tmp_path / "x.zarr", ROWS, (500, 4))
    (path / "c/2/0").unlink()
    [error] = of(told(run("doctor", path, "--json", "-q"), code=1), "reading")
    assert error["level"] == "error"
    assert "c/2/0" in error["text"]
    assert "pass `--missing-chunks fill`" in error["text"]


def test_a_store_that_never_answers(tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    path = write(tmp_path / "x.zarr", ROWS, (500, 4))
    monkeypatch.setattr("dask_gmm.data.zarr_source.ZarrSource.read_into", lambda *_: time.sleep(9))
    [error] = of(told(run("doctor", path, "--json", "-q", "--timeout", 0.5), code=1), "reading")
    assert "no answer within 0.5 s" in error["text"]
    assert "--timeout waits longer" in error["text"]


def test_small_requests_over_a_network(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "x.zarr", ROWS, (16, 4))
    with counting_server(tmp_path) as server:
        server.delay = 0.02
        found = told(run("doctor", f"{server.url}/x.zarr", "--json", "-q"))
        [warning] = of(found, "requests")
        assert warning["level"] == "warning"
        assert "fewer requests" in warning["remedy"]
        server.delay = 0.0
        assert server.chunks()[0] <= 2, "one block is read"


def a_read(seconds: float, latency: float = 0.001) -> BlockRead:
    return BlockRead(0, latency, latency, seconds, seconds / 2, 1, 10**6, 2 * 10**6)


def test_a_worker_that_reads_slowly(points: Path) -> None:
    source = open_source(str(points))
    found = reads.read_findings(source, {A: a_read(0.1), B: a_read(0.2), C: a_read(3.0)}, {})
    assert levels(found) == ["ok", "warning"]
    assert f"the slowest ({C}) at 667 kB/s" in found[0].text
    assert "10.0 MB/s in the median" in found[0].text
    assert found[1].workers == (C,)
    quick = reads.read_findings(source, {A: a_read(0.001), B: a_read(0.002), C: a_read(0.1)}, {})
    assert levels(quick) == ["ok"], "too short to say what took the time"


def test_each_reason_is_said_once(points: Path) -> None:
    errors: dict[str, Exception] = {
        A: PermissionError("denied"),
        B: PermissionError("denied"),
        C: OSError("no route"),
    }
    found = reads.read_findings(open_source(str(points)), {}, errors)
    assert [finding.workers for finding in found] == [(A, B), (C,)]
    assert "2 of 3 could not read a block" in found[0].text


def test_each_worker_has_a_block_of_its_own(points: Path) -> None:
    source = open_source(str(points))
    assert reads.blocks_to_read(source, [B, A]) == {A: 2, B: 6}
    many = reads.blocks_to_read(source, [str(n) for n in range(20)])
    assert set(many.values()) == set(range(8))


# -- versions --------------------------------------------------------------------------------------


def differing(**other: str | None) -> Versions:
    here = versions_here()
    return Versions(here, here, {A: here, B: {**here, **other}})


@pytest.mark.parametrize(
    ("package", "version", "level", "words"),
    [
        ("numpy", "1.9", "error", "a fit refuses to begin"),
        ("python", "3.9.1", "error", "Python"),
        ("dask", "2020.1", "warning", "Dask's processes"),
        ("scipy", "1.0", "warning", "the last bits"),
        ("zarr", "2.0", "warning", "data may be read here"),
        ("obstore", None, "warning", "not installed"),
        ("pyarrow", None, "note", "only some data"),
    ],
)
def test_a_version_that_differs(package: str, version: str, level: str, words: str) -> None:
    [finding] = versions.version_findings(differing(**{package: version}))
    assert finding.level == level
    assert words in finding.text
    assert finding.workers == (B,)
    assert f"{version or 'not installed'} on {B}" in finding.text


def test_versions_that_do_not_matter() -> None:
    here = versions_here()
    patch = ".".join([*str(here["python"]).split(".")[:2], "99"])
    same = versions.version_findings(differing(python=patch))
    assert levels(same) == ["ok"], "Python's last number changes nothing"
    assert levels(versions.version_findings(differing(**{"dask-gmm": None}))) == ["ok"], (
        "a checkout"
    )


def test_versions_of_the_scheduler() -> None:
    here = versions_here()
    other = {**here, "distributed": "2020.1", "numpy": None, "python": "3.9.1"}
    found = versions.version_findings(Versions(here, other, {A: here}))
    assert levels(found) == ["warning", "warning"], "it has no use for NumPy"
    assert "2020.1 on the scheduler" in found[0].text
    assert "3.9 on the scheduler" in found[1].text


def test_other_code_of_the_same_version() -> None:
    [finding] = versions.code_findings(HERE, {A: HERE, B: replace(HERE, code="x")})
    assert (finding.level, finding.workers) == ("warning", (B,))
    assert versions.code_findings(HERE, {A: HERE}) == []


# -- machines --------------------------------------------------------------------------------------


def test_kinds_of_cpu() -> None:
    [alike] = machines.cpu_findings(HERE, {A: HERE, B: HERE})
    assert alike.level == "ok"
    assert "2 workers" in alike.text
    other = replace(HERE, cpu="another")
    [mixed] = machines.cpu_findings(HERE, {A: HERE, B: other})
    assert mixed.level == "warning"
    assert "2 kinds of CPU" in mixed.text
    assert "last bits" in mixed.text
    [elsewhere] = machines.cpu_findings(other, {A: HERE, B: HERE})
    assert elsewhere.level == "ok"
    assert "This process has another" in elsewhere.text
    blas = replace(HERE, fingerprint=f"{HERE.fingerprint}; openblas 9 Zen")
    [libraries] = machines.cpu_findings(HERE, {A: HERE, B: blas})
    assert libraries.level == "warning"
    assert "(openblas 9 Zen)" in libraries.text
    [kernel] = [
        f
        for f in machines.cpu_findings(HERE, {A: HERE, B: replace(HERE, kernel="blas")})
        if f.remedy
    ]
    assert "pip install llvmlite" in kernel.remedy
    assert kernel.workers == (B,)


def test_blas_threads() -> None:
    assert levels(machines.blas_findings(HERE, {})) == ["ok"]
    loose = replace(HERE, blas=(BlasLibrary("some BLAS 1", 8, 8),))
    [finding] = machines.blas_findings(HERE, {A: HERE, B: loose})
    assert (finding.level, finding.workers) == ("warning", (B,))
    assert "OMP_NUM_THREADS=1" in finding.remedy


def described(**others: Any) -> dict[str, Any]:
    return {"nthreads": 1, "memory_limit": 10**9, "status": "running", **others}


def test_more_threads_than_cores() -> None:
    there = replace(HERE, cores=4, host="m1")
    who = {A: described(nthreads=4), B: described(nthreads=2)}
    [finding] = machines.core_findings(who, {A: there, B: there})
    assert "6 worker threads share 4 cores of m1" in finding.text
    assert machines.core_findings(who, {A: there, B: replace(there, host="m2")}) == []


def test_memory_limits() -> None:
    there = replace(HERE, memory=2 * 10**9, resident=2 * 10**8)
    assert levels(machines.limit_findings({A: described()}, {A: there})) == ["ok"]
    three = {w: described() for w in (A, B, C)}
    [much] = machines.limit_findings(three, dict.fromkeys(three, there))
    assert "may use 3.00 GB in all, and it has 2.00 GB" in much.text
    [full] = machines.limit_findings({A: described()}, {A: replace(there, resident=8 * 10**8)})
    assert "800 MB of 1.00 GB" in full.text
    [none] = machines.limit_findings({A: described(memory_limit=0)}, {A: there})
    assert none.level == "note"


def test_a_pass_that_does_not_fit(points: Path) -> None:
    source = open_source(str(points))
    plan, job = plan_pass(source, n_threads=2), job_for(source, 500, "full")
    [finding] = machines.pass_memory_findings(
        plan, job, {A: (10**8, 1), B: (10**10, 1)}, "a pass of it"
    )
    assert (finding.level, finding.workers) == ("error", (A,))
    assert "(1 worker of 2)" in finding.text
    assert "give a worker at least" in finding.remedy
    [fits] = machines.pass_memory_findings(plan, job, {A: (10**10, 1)}, "a pass of it")
    assert fits.level == "ok"


def test_clocks() -> None:
    assert levels(machines.clock_findings({A: (0.1, 0.01), B: (-2.0, 0.01)})) == ["ok"]
    [late] = machines.clock_findings({A: (0.0, 0.01), B: (-120.0, 0.01)})
    assert (late.level, late.workers) == ("warning", (B,))
    assert "2 min behind this process's" in late.text
    [refused] = machines.clock_findings({A: (1000.0, 0.01)})
    assert refused.level == "error"
    assert "S3 refuses" in refused.text
    assert levels(machines.clock_findings({A: (40.0, 20.0)})) == ["ok"], "a slow answer says little"
    [known] = machines.clock_findings({A: (40.0, 0.1), B: (-950.0, 940.0)})
    assert (known.level, known.workers) == ("warning", (A,)), "nor does it beside a quick one"
    assert A in known.text


# -- connections -----------------------------------------------------------------------------------


def test_encryption() -> None:
    plain = connection.encryption_findings("tcp://10.0.0.9:8786", [A], {})
    assert levels(plain) == ["warning"]
    assert "require-encryption" in plain[0].remedy
    inside = connection.encryption_findings("tcp://127.0.0.1:8786", ["tcp://127.0.0.1:1"], {})
    assert levels(inside) == ["ok"]
    mixed = connection.encryption_findings("tls://10.0.0.9:8786", [A, "tls://10.0.0.2:1"], {})
    assert mixed[0].text.startswith("1 worker has connections not encrypted")
    peer: dict[str, Any] = {"cipher": ("AES", "TLSv1.3", 256)}
    [tls] = connection.encryption_findings("tls://10.0.0.9:8786", ["tls://10.0.0.2:1"], peer)
    assert (tls.level, tls.text) == ("ok", "all connections are encrypted (TLSv1.3 AES).")
    soon = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(time.time() + 3 * 86400))
    peer["peercert"] = {"notAfter": soon}
    [expires] = connection.encryption_findings("tls://10.0.0.9:8786", [], peer)
    assert expires.level == "warning"
    assert "expires in 3 days" in expires.text


def test_the_dashboard() -> None:
    assert connection.dashboard_finding(None).level == "note"
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = f"http://127.0.0.1:{server.getsockname()[1]}/status"
        assert connection.dashboard_finding(link).level == "ok"
    assert "does not answer from here" in connection.dashboard_finding(link).text


def test_workers_that_rest() -> None:
    who = {A: described(), B: described(status="paused")}
    ok, paused = connection.worker_findings(who, 0.001, "tcp://10.0.0.9:8786")
    assert (ok.level, paused.level, paused.workers) == ("ok", "warning", (B,))
    assert "client.restart()" in paused.remedy
    nobody = connection.worker_findings({B: who[B]}, 2.0, "tcp://10.0.0.9:8786")
    assert levels(nobody) == ["warning", "error"], (
        "nobody is left to work; a scheduler that is busy"
    )


def test_no_worker_at_all() -> None:
    [none] = connection.worker_findings({}, 0.001, "tcp://10.0.0.9:8786")
    assert none.level == "error", "the last one may go while doctor looks"
    assert "0 workers" in none.text


def test_workers_that_do_not_answer() -> None:
    errors: dict[str, Exception] = {
        A: TimeoutError("no answer within 1 s"),
        B: ModuleNotFoundError("No module named 'dask_gmm'"),
        C: RuntimeError("?"),
    }
    found = connection.silent_findings(errors, 3)
    assert levels(found) == ["error"] * 3
    assert [finding.workers for finding in found] == [(A,), (B,), (C,)]
    assert "pip install dask-gmm" in found[1].remedy
    assert connection.silent_findings({}, 3) == []


def test_what_others_say_is_shown_without_secrets(points: Path) -> None:
    error = RuntimeError("GET https://me:pw@h/x?sig=abc failed")
    [silent] = connection.silent_findings({A: error}, 3)
    [unread] = reads.read_findings(open_source(points), {}, {A: error})
    for text in (silent.text, unread.text):
        assert "GET https://…@h/x?… failed" in text


def test_a_function_that_panics() -> None:
    class Panic(BaseException):
        """Of a library in Rust."""

    def panics() -> None:
        raise Panic

    with pytest.raises(Panic):
        within(60.0, panics)


# -- clusters --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two workers in this process; the address of their scheduler."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as found:
        yield found.scheduler_address


def test_a_cluster(cluster: str, points: Path, run: Run) -> None:
    done = run("doctor", points, "--scheduler", cluster, "--progress", "json")
    assert done.exit_code == 0, done.output
    assert "2 workers with 2 threads" in done.stdout
    assert "the same here and on 2 workers" in done.stdout
    assert "2 workers read a block each" in done.stdout
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    answered = [e["progress"] for e in events if e["event"] == "PassAdvanced"]
    assert [(p["blocks_done"], p["blocks_total"]) for p in answered] == [(1, 2), (2, 2)] * 2


def test_a_scheduler_that_goes_away(
    cluster: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> Versions:
        raise CommClosedError("in <TCP (closed)>")

    monkeypatch.setattr(asking, "ask_versions", gone)
    done = run("doctor", "--scheduler", cluster, "-q")
    assert done.exit_code == 1
    assert f"The connection to the Dask scheduler at {cluster} broke" in done.stderr


def test_a_worker_of_another_version(
    cluster: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = asking.ask_versions

    def altered(*args: Any) -> Versions:
        found = ask(*args)
        workers = {w: dict(there) for w, there in found.workers.items()}
        workers[min(workers)]["numpy"] = "1.0"
        return replace(found, workers=workers)

    monkeypatch.setattr(asking, "ask_versions", altered)
    found = told(run("doctor", "--scheduler", cluster, "--json", "-q"), code=1)
    [error] = of(found, "versions")
    assert error["level"] == "error"
    assert len(error["workers"]) == 1
    assert "numpy" in error["text"]


def test_data_that_only_this_process_has(cluster: str, run: Run) -> None:
    from dask_gmm.data.stores import writable_store

    zarr.create_array(writable_store("memory://doctor"), data=ROWS, chunks=(500, 4))
    [error] = of(
        told(run("doctor", "memory://doctor", "--scheduler", cluster, "--json", "-q"), code=1),
        "reading",
    )
    assert "workers cannot read" in error["text"]


@pytest.mark.slow
def test_two_processes(two_processes: Client, points: Path, run: Run) -> None:
    address = address_of(two_processes)
    found = told(run("doctor", points, "--scheduler", address, "--json", "-q"))
    assert {f["level"] for f in found["findings"]} <= {"ok", "note", "warning"}
    workers = set(two_processes.scheduler_info()["workers"])
    assert {read["address"] for read in found["reads"]} == workers
    assert len({read["block"] for read in found["reads"]}) == 2
    assert {process["address"] for process in found["processes"]} == {"this process", *workers}
    [clock] = of(found, "clock")
    assert clock["level"] == "ok"


@pytest.mark.slow
def test_workers_of_too_little_memory(tmp_path: Path) -> None:
    """One that holds an idle process, and no block of these."""
    path = tmp_path / "x.zarr"
    zarr.create_array(path, shape=(4_000_000, 4), chunks=(2_000_000, 4), dtype="f8")
    words = ("--missing-chunks", "fill", "--workers", 1, "--memory-limit", "400MB")
    # As a program: local workers are given variables by the environment of who starts them.
    done = program("doctor", path, *words, "--json", "-q")
    assert done.returncode == 1, done.stderr
    [error] = [f for f in of(json.loads(done.stdout), "memory") if f["level"] == "error"]
    assert "does not fit a worker of 400 MB" in error["text"]
    assert "at least" in error["remedy"]


@pytest.fixture
def started_workers() -> Iterator[Any]:
    """A scheduler, and what starts workers of it with variables of their own in the environment."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        _, address = stack.enter_context(started_scheduler())

        def start(**environment: str) -> Any:
            before = dict(os.environ)
            os.environ.update(environment)
            try:
                arguments = ("worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
                process, _ = stack.enter_context(started(*arguments, wait_for="Registered to"))
            finally:
                os.environ.clear()
                os.environ.update(before)
            return process

        yield address, start


@pytest.mark.slow
def test_a_worker_with_other_credentials(
    started_workers: Any, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, start = started_workers
    write(tmp_path / "bucket" / "x.zarr", ROWS, (500, 4))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "good")
    with counting_server(tmp_path, allowed=frozenset({"good"})) as server:
        start()
        start(AWS_ACCESS_KEY_ID="bad")
        words = ("--storage-option", f"endpoint={server.url}", "--scheduler", address)
        done = run("doctor", "s3://bucket/x.zarr", *words, "--json", "-q")
    found = told(done, code=1)
    [error] = [f for f in of(found, "reading") if f["level"] == "error"]
    assert "1 of 2 could not read a block" in error["text"]
    assert "Access to" in error["text"]
    assert "credentials" in error["text"]
    [read] = found["reads"]
    assert [read["address"]] != error["workers"]
    assert "secret" not in done.output


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs Linux's /proc")
def test_a_worker_that_does_not_see_the_path(
    started_workers: Any, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads each process to what lies where it was started, as local disks do."""
    address, start = started_workers
    start()
    write(tmp_path / "only_here.zarr", ROWS, (500, 4))
    monkeypatch.chdir(tmp_path)
    found = told(
        run("doctor", "/proc/self/cwd/only_here.zarr", "--scheduler", address, "--json", "-q"),
        code=1,
    )
    [error] = of(found, "reading")
    assert "There is no /proc/self/cwd/only_here.zarr on this machine" in error["text"]
    assert "a file system that all share" in error["text"]


@pytest.mark.slow
def test_a_worker_that_has_stopped(started_workers: Any, points: Path, run: Run) -> None:
    address, start = started_workers
    start()
    process = start()
    process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = run("doctor", points, "--scheduler", address, "--timeout", 20, "--json", "-q")
        assert time.monotonic() - begun < 120
    finally:
        process.send_signal(signal.SIGCONT)
    found = told(done, code=1)
    [error] = [f for f in of(found, "cluster") if f["level"] == "error"]
    assert "1 worker of 2 gave no answer" in error["text"]
    assert len(found["reads"]) == 1, "the other one is looked at all the same"


@pytest.mark.slow
def test_an_encrypted_cluster(points: Path) -> None:
    security = Security.temporary()
    settings: Mapping[str, Any] = {"n_workers": 1, "processes": False, "dashboard_address": None}
    with (
        LocalCluster(**settings, protocol="tls", security=security) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        place = Place("cluster", "it", 1, 1, 1, 10**9, client)
        found = examine(place, open_source(str(points)), 2, 30.0, Session(silent=True))
    [tls] = [finding for finding in found.findings if finding.subject == "TLS"]
    assert tls.level in ("ok", "warning"), "a certificate that is made for the moment may end soon"
    assert "not encrypted" not in tls.text
    assert not found.count("error")
