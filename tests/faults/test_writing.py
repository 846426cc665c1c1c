"""Outputs and models whose writers are killed, run out of disk, or lose their rights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array
import numpy as np
import pytest
import zarr
from distributed import Client

from dask_gmm import GaussianMixture
from dask_gmm.data import atomic_replace
from dask_gmm.errors import StoreError
from dask_gmm.fitting.events import OutputResumed
from tests.dask_processes import started_scheduler, started_worker
from tests.faults.dying import BLOCKS
from tests.object_store import object_store  # noqa: F401 - a fixture
from tests.small_disk import mounted

if TYPE_CHECKING:
    from tests.object_store import ObjectStoreServer

da: Any = dask.array  # most of it is untyped
PROGRAM = "from dask_gmm.cli.main import main; main()"
ROWS = np.random.default_rng(0).standard_normal((40_000, 3))
BLOCK = 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in 40 blocks, and two models of them."""
    folder = tmp_path_factory.mktemp("writing")
    zarr.create_array(folder / "x.zarr", data=ROWS, chunks=(BLOCK, 3))
    for seed in (0, 1):
        model = GaussianMixture(3, random_state=seed, init_size=500, tol=1.0, kernel="blas")
        model.fit(ROWS[seed :: 20 + seed]).save(folder / f"m{seed}.zarr")
    return folder


def run_dying(scenario: str, url: str, folder: Path, options: dict[str, str]) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.dying", scenario, url, folder, json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def can_exchange(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir()
    return atomic_replace._exchange(str(folder / "a"), str(folder / "b"))


def check_steps(scenario: str, steps: list[Any], may_be_read: set[str]) -> None:
    """What holds after each step, whatever is written and wherever."""
    expected, *found = steps
    for number, step in enumerate(found, 1):
        where = f"step {number} of {len(found)}"
        assert step["reading"] in {*may_be_read, expected["old"], expected["new"]}, where
        assert step["after"] == expected["new"], where
        if scenario.startswith("predict_to"):
            assert step["objects"] == expected["objects"], where
            assert step["again"] == [], where
            if step["reading"] != expected["new"]:
                assert step["finished_before"] + step["written_after"] == BLOCKS, where
            assert step["rests"] in ([], ["out.zarr"]), where
    readings = [step["reading"] for step in found]
    first_new = readings.index(expected["new"]) if expected["new"] in readings else len(readings)
    assert set(readings[first_new:]) <= {expected["new"]}, "what was whole once stays whole"


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    ["predict_to-nothing", "predict_to-old", "predict_to-old-renamed", "save-nothing", "save-old"],
)
def test_killed_at_each_change_to_a_file(scenario: str, tmp_path: Path) -> None:
    """Where names cannot be exchanged the old output is away between two steps, and comes back."""
    (tmp_path / "steps").mkdir()
    steps = run_dying(scenario, str(tmp_path / "steps" / "x"), tmp_path / "steps", {})
    assert len(steps) > (3 if "save" in scenario else 3 * BLOCKS)
    first = {"incomplete"} if scenario == "save-nothing" else set()
    if "renamed" in scenario or not can_exchange(tmp_path):
        first |= {"nothing"}
    check_steps(scenario, steps, first)
    if "renamed" in scenario:
        assert [step["reading"] for step in steps[1:]].count("nothing") == 1


@pytest.mark.slow
@pytest.mark.parametrize("before", ["nothing", "old"])
@pytest.mark.parametrize("kind", ["predict_to", "save"])
def test_killed_at_each_object(
    kind: str,
    before: str,
    tmp_path: Path,
    object_store: ObjectStoreServer,  # noqa: F811
) -> None:
    """In an object store the old output is lost when the new one begins; the old model is not."""
    scenario = f"{kind}-{before}"
    steps = run_dying(scenario, object_store.url(), tmp_path, object_store.options)
    assert len(steps) > (3 if kind == "save" else BLOCKS + 2)
    in_place = {"incomplete"} if kind == "predict_to" or before == "nothing" else set()
    check_steps(scenario, steps, in_place)


# -- the command line ------------------------------------------------------------------------------


def command(
    folder: Path, *words: object, before: str = "", under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command line, after some code."""
    return subprocess.run(
        [*under, sys.executable, "-c", before + PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


# Root without its right to write what belongs to nobody in particular.
MORTAL = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def predict(folder: Path, output: Path, *words: object, **how: Any) -> Any:
    base = ("predict", "x.zarr", "-m", "m0.zarr", "-o", output, "--threads-per-worker", 1)
    return command(folder, *base, *words, **how)


def labels(folder: Path, model: str = "m0.zarr") -> Any:
    return GaussianMixture.load(folder / model).predict(ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_command_that_is_stopped_goes_on(how: str, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.zarr"
    stop = (
        "from tests.faults.dying import Steps; import signal; "
        # What a shell starts in the background ignores SIGINT, and so does all that it starts.
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"Steps(80, {str(tmp_path)!r}, signal.{how}).watch_files(); "
    )
    stopped = predict(folder, output, before=stop)
    code = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130}[how]
    assert stopped.returncode == code, stopped.stderr
    assert not output.exists()
    if how != "SIGKILL":
        assert "Traceback" not in stopped.stderr
        assert stopped.stderr.splitlines()[-1].startswith("stopped: ")
    other = command(folder, "predict", "x.zarr", "-m", "m1.zarr", "-o", output)
    assert other.returncode == 1
    assert other.stderr.count("error: ") == 1
    assert "the model is another" in other.stderr
    assert "--no-resume" in other.stderr
    done = predict(folder, output, "--resume", "--json", "--progress", "lines")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    # A signal that can be held is taken at the next look, and all may be finished by then.
    assert 10 < told["blocks_skipped"] < (40 if how == "SIGKILL" else 41)
    assert told["n_rows"] == len(ROWS)
    assert told["n_rows_computed"] == (40 - told["blocks_skipped"]) * BLOCK
    assert f"{told['blocks_skipped']} of 40 blocks are finished" in done.stderr
    np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))
    assert [p.name for p in tmp_path.iterdir()] == ["labels.zarr"]
    again = predict(folder, output, "--resume")
    assert again.returncode == 0
    assert "40 blocks that were finished before" in again.stdout
    assert predict(folder, output).returncode == 1, "nobody has allowed to overwrite it"


@pytest.mark.slow
def test_a_command_that_is_killed_again_and_again_gets_done(folder: Path, tmp_path: Path) -> None:
    """On two threads, whose blocks under way are all that a death costs."""
    output = tmp_path / "labels.zarr"
    die = (
        "from tests.faults.dying import Steps; import signal; "
        f"Steps(40, {str(tmp_path)!r}, signal.SIGKILL).watch_files(); "
    )
    chunks = [0]
    for _ in range(20):
        done = predict(folder, output, "--threads-per-worker", 2, "-q", before=die)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not output.exists()
        chunks.append(sum(p.name.isdigit() for p in tmp_path.glob(".*.partial/c/*")))
    assert done.returncode == 0
    # Three changes a block: its file is opened, renamed, and the folder made sure of.
    assert all(after - before >= 8 for before, after in pairwise(chunks) if after < 40), chunks
    np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))
    assert [p.name for p in tmp_path.iterdir()] == ["labels.zarr"]


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


@pytest.mark.slow
def test_a_full_disk(folder: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        output = disk / "out.zarr"
        assert predict(folder, output).returncode == 0
        full = predict(folder, output, "--probabilities", "--overwrite", "-q")
        assert full.returncode == 1
        assert full.stderr.count("\n") == 1, full.stderr
        assert full.stderr.startswith("error: Block ")
        assert f"of {output} could not be written: No space left on device" in full.stderr
        assert f"What was at {output} before is as it was" in full.stderr
        np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))
        remount(disk, "size=8m")
        done = predict(folder, output, "--probabilities", "--overwrite", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["blocks_skipped"] > 10
        np.testing.assert_array_equal(
            zarr.open_array(output)[...],
            GaussianMixture.load(folder / "m0.zarr").predict_proba(ROWS),
        )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["size=1m", "ro"])
def test_a_model_on_a_disk_that_takes_no_more(mode: str, folder: Path, tmp_path: Path) -> None:
    old, new = (GaussianMixture.load(folder / f"m{seed}.zarr") for seed in (0, 1))
    with mounted(tmp_path / "disk") as disk:
        place = disk / "m.zarr"
        old.save(place)
        before = sorted(disk.rglob("*"))
        (disk / "rest").write_bytes(bytes(free_bytes(disk)))
        remount(disk, mode)
        why = "No space left on device" if mode == "size=1m" else "Read-only file system"
        kept = rf"m\.zarr could not be written: {why}\. The model that was there is as it was\."
        with pytest.raises(StoreError, match=kept) as caught:
            new.save(place, overwrite=True)
        assert "\n" not in str(caught.value)
        np.testing.assert_array_equal(GaussianMixture.load(place).means_, old.means_)
        remount(disk, "rw,size=2m")
        (disk / "rest").unlink()
        assert sorted(disk.rglob("*")) == before
        new.save(place, overwrite=True)
        np.testing.assert_array_equal(GaussianMixture.load(place).means_, new.means_)


def free_bytes(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_bsize


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(folder: Path, tmp_path: Path) -> None:
    model = GaussianMixture.load(folder / "m1.zarr")
    with mounted(tmp_path / "disk") as disk:
        output = disk / "out.zarr"
        assert predict(folder, output).returncode == 0
        slow = da.from_zarr(str(folder / "x.zarr")).map_blocks(slowly)

        def protect(event: Any) -> None:
            if type(event).__name__ == "PassAdvanced":
                remount(disk, "ro")

        model.set_params(callbacks=[protect])
        with pytest.raises(StoreError, match=r"Block \d+ of .*Read-only file system.*as it was"):
            model.predict_to(slow, output, overwrite=True)
        np.testing.assert_array_equal(zarr.open_array(output, mode="r")[...], labels(folder))
        remount(disk, "rw")
        resumed: list[Any] = []
        model.set_params(callbacks=[resumed.append])
        model.predict_to(slow, output, overwrite=True)
        assert isinstance(resumed[0], OutputResumed)
        np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder, "m1.zarr"))


@pytest.mark.slow
def test_a_folder_that_belongs_to_somebody_else(folder: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and no setpriv is here to take that right away")
    output = tmp_path / "out.zarr"
    assert predict(folder, output).returncode == 0
    tmp_path.chmod(0o555)
    refused = predict(folder, output, "--overwrite", "-q", under=MORTAL)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert f"{output} cannot be written" in refused.stderr
    assert "Permission denied" in refused.stderr
    np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))


# -- on a cluster ----------------------------------------------------------------------------------


def slowly(block: Any) -> Any:
    time.sleep(0.02)
    return block


def lazy(folder: Path) -> Any:
    return da.from_zarr(str(folder / "x.zarr")).map_blocks(slowly)


DRIVER = """
import sys
from pathlib import Path
from distributed import Client
from dask_gmm import GaussianMixture
from tests.faults.test_writing import lazy
folder, output, address = sys.argv[1:]
with Client(address):
    GaussianMixture.load(f"{folder}/m0.zarr").predict_to(lazy(Path(folder)), output)
"""


@pytest.mark.slow
@pytest.mark.parametrize("dies", ["driver", "worker", "both"])
def test_a_cluster_whose_driver_or_worker_dies(dies: str, folder: Path, tmp_path: Path) -> None:
    output, root = tmp_path / "out.zarr", Path(__file__).parents[2]
    with ExitStack() as stack:
        _, address = stack.enter_context(started_scheduler())
        worker = stack.enter_context(started_worker(address))
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, folder, output, address], cwd=root)
        try:
            wait_for_chunks(tmp_path, 5)
            if dies != "driver":
                worker.kill()
                stack.enter_context(started_worker(address))
            if dies == "worker":
                assert driver.wait(60) == 0
                assert output.exists()
                np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))
                return
        finally:
            driver.kill()
            driver.wait(10)
        assert not output.exists()
        events: list[Any] = []
        with Client(address):
            model = GaussianMixture.load(folder / "m0.zarr").set_params(callbacks=[events.append])
            assert model.predict_to(lazy(folder), output, resume="must") == len(ROWS)
        assert events[0].blocks >= 3, "two of the five are computed again, as witnesses"
        np.testing.assert_array_equal(zarr.open_array(output)[...], labels(folder))
        assert [p.name for p in tmp_path.iterdir()] == ["out.zarr"]


def wait_for_chunks(folder: Path, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".*.partial/c/?"))) < n:
        assert time.monotonic() < deadline, "no blocks were written"
        time.sleep(0.02)
