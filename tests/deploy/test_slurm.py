"""deploy/slurm: what the script says to SLURM, and jobs on a real SLURM of one node."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dask_gmm import GaussianMixture
from dask_gmm.cli.authority import make_certificates

from . import manifests
from .manifests import CommandLine
from .processes import BIN, free_port, running, until
from .test_settings import leaves, unknown_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

SLURM = manifests.DEPLOY / "slurm"
SCRIPT = SLURM / "fit.sbatch"


# -- what stands there -----------------------------------------------------------------------------


def directives() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.M)
    return dict(lines)


def script_command(beginning: str) -> tuple[str, ...]:
    """Return a command of the script, its variables replaced by something of their kind."""
    text = re.sub(r"\\\n\s*", "", SCRIPT.read_text())
    (line,) = re.findall(rf"(?<!# )({beginning} .*?)(?: >>.*)? &$", text, re.M)
    values = {
        "$@": "points.zarr -k 8 --checkpoint c",
        "$address": "tcp://10.0.0.1:8786",
        "$address_file": "f",
        "$memory": "1638MiB",
        "$SLURM_CPUS_PER_TASK": "2",
        "${TMPDIR:-/tmp}": "/tmp",
    }
    for name, value in values.items():
        line = line.replace(f'"{name}"', value)
    assert "$" not in line, line
    return tuple(line.split())


def test_the_script_is_one() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True, timeout=30)
    first = SCRIPT.read_text().splitlines()[0]
    assert first == "#!/usr/bin/env bash"


def test_slurm_is_told_to_begin_it_again() -> None:
    told = directives()
    assert "requeue" in told
    assert told["open-mode"] == "append", "the log of its lives before stays"
    kind, seconds = told["signal"].split("@")
    assert kind == "B:USR1", "the script alone, and not what scancel sends"
    assert int(seconds) >= 60, "SLURM looks at the time once in a minute or less"
    text = SCRIPT.read_text()
    assert text.index("#SBATCH") < text.index("set -u"), "SLURM reads none after the first command"
    assert text.rindex("#SBATCH") < text.index("set -u")


def test_the_scripts_commands_are_real() -> None:
    from dask_gmm.cli.main import main

    manifests.parse_click(main, script_command("dask-gmm fit"))
    scheduler = manifests.parse_dask(CommandLine("fit.sbatch", script_command("dask scheduler")))
    assert scheduler["port"] == "0", "two jobs may share a node"
    worker = manifests.parse_dask(CommandLine("fit.sbatch", script_command("dask worker")))
    assert worker["nthreads"] == float(directives()["cpus-per-task"])
    # what its memory limit is made of, for one of two gigabytes a core
    (memory,) = (line for line in SCRIPT.read_text().splitlines() if line.startswith("memory="))
    shell = f"SLURM_MEM_PER_CPU=2048 SLURM_CPUS_PER_TASK=2; {memory}; echo $memory"
    said = subprocess.run(["bash", "-c", shell], check=True, capture_output=True, text=True).stdout
    assert said == "3276MiB\n"
    share = 1024 * int(directives()["mem-per-cpu"].removesuffix("G")) * int(worker["nthreads"])
    assert share // 5 >= 512, "for a nanny, and scheduler and client"


def jobqueue_settings() -> dict[str, Any]:
    (document,) = manifests.load_all(SLURM / "jobqueue.yaml")
    return dict(leaves(document))


def test_dask_jobqueue_knows_every_setting() -> None:
    import dask_jobqueue

    (defaults,) = manifests.load_all(Path(dask_jobqueue.__file__).parent / "jobqueue.yaml")
    settings = jobqueue_settings()
    assert settings.pop("jobqueue.slurm.scheduler-options.dashboard_address")  # Scheduler's own
    assert unknown_keys(settings, defaults) == []
    assert unknown_keys({"jobqueue.slurm.memmory": "4G"}, defaults), "the check can fail"


def minutes(text: str) -> float:
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 60 + minutes + seconds / 60


def test_workers_that_are_jobs() -> None:
    settings = {k.removeprefix("jobqueue.slurm."): v for k, v in jobqueue_settings().items()}
    asked = manifests.bytes_of(settings["job-mem"] + "i")
    assert manifests.bytes_of(settings["memory"]) + 256 * 2**20 <= asked
    extra = settings["worker-extra-args"]
    line = ("dask", "worker", "tcp://h:1", *extra)
    manifests.parse_dask(CommandLine("jobqueue.yaml", line))
    life, stagger = (
        int(extra[extra.index(name) + 1].removesuffix("m"))
        for name in ("--lifetime", "--lifetime-stagger")
    )
    assert minutes(settings["walltime"]) - (life + stagger) >= 10


# -- on a real one ---------------------------------------------------------------------------------

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "srun")


def program_path() -> str:
    return os.pathsep.join([str(BIN), os.environ["PATH"], "/usr/sbin", "/sbin"])


def missing() -> str:
    """Say what a SLURM on this machine would lack ('' if nothing)."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    gone = [name for name in PROGRAMS if shutil.which(name, path=program_path()) is None]
    return f"no {', '.join(gone)} (Debian: slurm-wlm, munge)" if gone else ""


# On a busy machine: each starts a scheduler and workers, twice, and two of them make the first fit.
pytestmark = pytest.mark.timeout(600)
needs_slurm = pytest.mark.skipif(bool(missing()), reason=missing() or "there")

CONFIGURATION = """\
ClusterName=gmm
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={place}/munge/socket
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=10
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A controller and one node of four pretended cores, on this machine."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.node_log = folder / "slurmd.out"
        # Below /tmp, for munge wants no folder on the way that others may write, nor a long name.
        place = stack.enter_context(private_folder())
        for name in ("munge", "state", "spool"):
            (place / name).mkdir(mode=0o755)
        (place / "munge" / "key").write_bytes(os.urandom(1024))
        (place / "munge" / "key").chmod(0o400)
        names = {"controller": free_port(), "daemon": free_port(), "place": place}
        host = os.uname().nodename.partition(".")[0]
        (place / "slurm.conf").write_text(CONFIGURATION.format(host=host, **names))
        self.environment = manifests.settings_environment(
            PATH=program_path(), SLURM_CONF=str(place / "slurm.conf")
        )
        munge = {name: place / "munge" / name for name in ("socket", "key", "pid", "seed", "log")}
        options = [f"--{name}-file={munge[name]}" for name in ("key", "pid", "seed", "log")]
        self._daemon(
            stack, "munged", "--foreground", "--force", f"--socket={munge['socket']}", *options
        )
        until(munge["socket"].exists, "munge's socket", 30)
        self._daemon(stack, "slurmctld", "-D", "-i")
        self._daemon(stack, "slurmd", "-D")
        until(lambda: "idle" in self("sinfo", "--noheader", check=False), "an idle node", 60)

    def _daemon(self, stack: ExitStack, *words: str) -> None:
        log = stack.enter_context((self.folder / f"{words[0]}.out").open("w"))
        process = subprocess.Popen(
            words, env=self.environment, stdout=log, stderr=subprocess.STDOUT, cwd="/"
        )

        def end() -> None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)

        stack.callback(end)

    def __call__(self, *words: object, check: bool = True, **environment: Any) -> str:
        """Run a command of SLURM's and return what it says."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=self.folder,
            env=self.environment | environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def submit(self, name: str, *options: str, fit: tuple[str, ...], **environment: Any) -> int:
        """Submit the script, of two small workers, with its log at NAME.log; return the job."""
        small = ("--ntasks=2", "--cpus-per-task=1", "--mem-per-cpu=900M", f"--output={name}.log")
        words = ("sbatch", "--parsable", *small, *options, SCRIPT, *fit)
        return int(self(*words, **environment))

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def story(self, name: str) -> str:
        """Return what is to be read where a job went wrong."""
        said = [path.read_text() for path in (*self.folder.glob("*cluster*.log"), self.node_log)]
        return "\n---\n".join([self.log(name), *(text[-3000:] for text in said)])

    def begun_again(self, number: int) -> None:
        """Wait until a job queues again, and spare it the two minutes that SLURM has it wait."""
        until(lambda: self.job(number)["Restarts"] == "1", f"job {number} queues again", 60)
        until(lambda: self.job(number)["JobState"] == "PENDING", f"job {number} is clean", 60)
        # They are there for the node, which would take a launch at once for the one it has killed.
        time.sleep(5)
        self("scontrol", "update", f"JobId={number}", "StartTime=now")

    def job(self, number: int) -> dict[str, str]:
        """Return what SLURM knows of a job."""
        found = re.findall(r"(\w+)=(\S*)", self("scontrol", "show", "job", number, "-d"))
        return dict(found)

    def finished(self, number: int, seconds: float = 240) -> tuple[str, str]:
        """Wait for a job's end; return its state and exit code."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}
        until(lambda: self.job(number)["JobState"] in ended, f"job {number} ends", seconds)
        job = self.job(number)
        return job["JobState"], job["ExitCode"].partition(":")[0]


@contextmanager
def private_folder() -> Iterator[Path]:
    place = Path(f"/tmp/gmm-slurm-{os.getpid()}")
    place.mkdir(mode=0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fit_words(name: str) -> tuple[str, ...]:
    """A fit of 120 short passes."""
    return (
        *("points.zarr", "-k", "8", "--seed", "0", "--acceleration", "none", "--tol", "1e-15"),
        *("--max-iter", "120", "--checkpoint", f"{name}.checkpoint", "-o", f"{name}.zarr"),
        "--overwrite",
    )


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    with ExitStack() as stack:
        cluster = Slurm(folder, stack)
        rows = ("-n", "200000", "-d", "8", "-k", "8", "--separation", "1.5", "--chunk", "2MB")
        with running(["dask-gmm", "simulate", "points.zarr", *rows, "-q"], folder) as process:
            assert process.wait(120) == 0
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm) -> np.ndarray:
    """The means of the same fit without SLURM, from the first pass to the last."""
    words = ["dask-gmm", "fit", *fit_words("plain"), "-q"]
    with running(words, slurm.folder) as process:
        assert process.wait(200) == 3, (slurm.folder / "fit.log").read_text()
    return means(slurm.folder / "plain.zarr")


def means(path: Path) -> np.ndarray:
    return np.asarray(GaussianMixture.load(str(path)).means_)


def passes(log: str) -> int:
    found = re.findall(r"^pass (\d+):", log, re.M)
    return int(found[-1]) if found else 0


def under_way(slurm: Slurm, name: str, number: int = 20) -> None:
    until(lambda: passes(slurm.log(name)) >= number, f"{name} makes {number} passes", 180)


def taken_up(log: str) -> list[int]:
    """Return after which passes a fit was taken up, each time."""
    return [int(n) for n in re.findall(r"(\d+) of them before the fit was taken up", log)]


@needs_slurm
@pytest.mark.slow
def test_a_job_whose_time_is_over_goes_on(slurm: Slurm, undisturbed: np.ndarray) -> None:
    job = slurm.submit("time", fit=fit_words("time"))
    under_way(slurm, "time")
    slurm("scancel", "--signal=USR1", "--batch", job)  # what --signal=B:USR1@120 sends
    slurm.begun_again(job)
    (before,) = re.findall(r"stopped: Terminated after pass (\d+)", slurm.log("time"))
    assert slurm.finished(job) == ("FAILED", "3"), slurm.story("time")  # --max-iter was reached
    log = slurm.log("time")
    assert "The time is nearly over" in log
    assert taken_up(log) == [int(before)]
    np.testing.assert_array_equal(means(slurm.folder / "time.zarr"), undisturbed)


@needs_slurm
@pytest.mark.slow
def test_a_job_that_is_preempted_goes_on(slurm: Slurm, undisturbed: np.ndarray) -> None:
    """What a preemption by requeueing does, and a person, and SLURM where a node fails."""
    job = slurm.submit("preempted", fit=fit_words("preempted"))
    under_way(slurm, "preempted")
    slurm("scontrol", "requeue", job)
    slurm.begun_again(job)
    assert slurm.finished(job) == ("FAILED", "3"), slurm.story("preempted")
    assert slurm.job(job)["Restarts"] == "1"
    assert taken_up(slurm.log("preempted"))[0] >= 19
    np.testing.assert_array_equal(means(slurm.folder / "preempted.zarr"), undisturbed)


def processes_of(*words: str) -> list[int]:
    """Return the Python processes whose command lines hold some words."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = entry.read_bytes().replace(b"\0", b" ").decode()
            if "python" in line.partition(" ")[0] and all(word in line for word in words):
                found.append(int(entry.parent.name))
    return found


@needs_slurm
@pytest.mark.slow
def test_a_client_that_is_killed_is_begun_again(slurm: Slurm, undisturbed: np.ndarray) -> None:
    """In the same job, with a new cluster."""
    job = slurm.submit("killed", fit=fit_words("killed"))
    under_way(slurm, "killed")
    (client,) = processes_of("dask-gmm fit", "killed.checkpoint")
    os.kill(client, signal.SIGKILL)
    assert slurm.finished(job) == ("FAILED", "3"), slurm.story("killed")
    assert "Attempt 1 of 4 ended with exit code 137." in slurm.log("killed")
    assert slurm.job(job)["Restarts"] == "0"
    assert taken_up(slurm.log("killed"))
    np.testing.assert_array_equal(means(slurm.folder / "killed.zarr"), undisturbed)


@needs_slurm
@pytest.mark.slow
def test_a_job_that_is_cancelled_stays_so(slurm: Slurm) -> None:
    job = slurm.submit("cancelled", fit=fit_words("cancelled"))
    under_way(slurm, "cancelled", 5)
    slurm("scancel", job)
    assert slurm.finished(job)[0] == "CANCELLED"
    until(lambda: "stopped: Terminated" in slurm.log("cancelled"), "the fit commits", 30)
    time.sleep(5)  # in which it would be back
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert slurm.job(job)["Restarts"] == "0"
    until(lambda: not list(slurm.folder.glob(".dask-gmm-*")), "nothing is left", 30)


@needs_slurm
@pytest.mark.slow
def test_what_was_asked_wrongly_is_asked_once(slurm: Slurm) -> None:
    words = ("points.zarr", "-k", "0", "--checkpoint", "wrong.checkpoint")
    wrong = slurm.submit("wrong", fit=words)
    assert slurm.finished(wrong) == ("FAILED", "2"), slurm.log("wrong")
    assert "Attempt" not in slurm.log("wrong")
    bare = slurm.submit("bare", fit=("points.zarr", "-k", "2"))
    assert slurm.finished(bare) == ("FAILED", "2"), slurm.log("bare")
    assert "No --checkpoint" in slurm.log("bare")


@needs_slurm
@pytest.mark.slow
def test_the_clusters_connections_are_encrypted_where_certificates_are_named(
    slurm: Slurm,
) -> None:
    """On a cluster of many users, each of whom could else run code as this one."""
    make_certificates(slurm.folder / "tls", slurm.folder / "authority")
    fit = ("points.zarr", "-k", "2", "--seed", "0", "--checkpoint", "tls.checkpoint")
    job = slurm.submit("secured", fit=fit, DASK_CONFIG=str(slurm.folder / "tls"))
    assert slurm.finished(job) == ("COMPLETED", "0"), slurm.log("secured")
    assert "joining the cluster at tls://" in slurm.log("secured")


@needs_slurm
@pytest.mark.slow
def test_workers_of_dask_jobqueue(slurm: Slurm) -> None:
    folder = slurm.folder / "settings"
    make_certificates(folder, slurm.folder / "jobqueue-authority")
    shutil.copy(manifests.DEPLOY / "dask.yaml", folder)
    text = (SLURM / "jobqueue.yaml").read_text()
    # of the size of the pretended node
    text = text.replace("3584MiB", "1GiB").replace("job-mem: 4G", "job-mem: 1500M")
    (folder / "jobqueue.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, str(SLURM / "fit_on_jobs.py"), "points.zarr", "2", "q.ckpt", "q.zarr"],
        cwd=slurm.folder,
        env=slurm.environment | {"DASK_CONFIG": str(folder)},
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert means(slurm.folder / "q.zarr").shape == (2, 8)
    job = re.findall(r"JobName=dask-gmm-worker", slurm("scontrol", "show", "jobs"))
    assert job, "its workers were jobs"
    until(lambda: not slurm("squeue", "--noheader").strip(), "its jobs are gone", 60)
