"""manifest: what it writes, what it says of a store that has changed, and its exit codes."""

from __future__ import annotations

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from tests.cli.conftest import write
from tests.object_store import object_store  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.object_store import ObjectStoreServer


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write(tmp_path / "x.zarr", np.random.default_rng(0).normal(size=(40, 3)), (5, 3))


def test_write_and_verify(rows: Path, run: Run) -> None:
    place = rows.with_name("x.manifest")
    done = run("manifest", rows, "-o", place)
    assert done.exit_code == 0, done.stderr
    assert "objects hashed" in done.stdout
    assert place.read_text().count("\n") == 10
    same = run("manifest", rows, "--verify", place)
    assert same.exit_code == 0, same.stderr
    assert "the same. 8 objects" in same.stdout
    (rows / "c/2/0").unlink()
    (rows / "c/3/0").write_bytes(b"?")
    (rows / "c/9").mkdir()
    (rows / "c/9/0").write_bytes(b"?")
    zarr.open_array(rows).attrs["valid_min"] = -9.0
    differs = run("manifest", rows, "--verify", place)
    assert differs.exit_code == 1
    for line in (
        f"changed metadata: {rows}",
        "missing: 'c/2/0'",
        "changed: 'c/3/0'",
        "not in the manifest: 'c/9/0'",
        "differs. 1 missing, 1 changed, 1 not in the manifest, 1 changed metadata; 8 objects",
    ):
        assert line in differs.stdout


def test_many_differences_are_counted(
    rows: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.cli.manifest._LISTED", 2)
    place = rows.with_name("x.manifest")
    assert run("manifest", rows, "-o", place).exit_code == 0
    for i in range(5):
        (rows / f"c/{i}/0").unlink()
    done = run("manifest", rows, "--verify", place)
    assert done.stdout.count("missing: 'c/") == 2
    assert "… and 3 more" in done.stdout
    assert "5 missing" in done.stdout
    told = json.loads(run("manifest", rows, "--verify", place, "--json").stdout)
    assert (told["missing"], len(told["differences"])) == (5, 2)


def test_as_json(rows: Path, run: Run) -> None:
    place = rows.with_name("x.manifest")
    made = json.loads(run("manifest", rows, "-o", place, "--json").stdout)
    assert (made["objects"], made["absent"]) == (8, 0)
    (rows / "c/2/0").unlink()
    done = run("manifest", rows, "--verify", place, "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["same"] is False
    assert told["missing"] == 1
    assert told["differences"] == [
        {"kind": "missing", "key": "c/2/0", "detail": told["differences"][0]["detail"]}
    ]
    assert told["bytes"] == made["bytes"]


def test_without_a_place_it_goes_to_stdout(rows: Path, run: Run) -> None:
    done = run("manifest", rows, "-q")
    assert done.exit_code == 0, done.stderr
    rows.with_name("x.manifest").write_text(done.stdout)
    assert json.loads(done.stdout.splitlines()[0])["array"] == str(rows)
    assert run("manifest", rows, "--verify", rows.with_name("x.manifest")).exit_code == 0


def test_chunks_that_are_not_stored_are_told_of(rows: Path, run: Run) -> None:
    (rows / "c/2/0").unlink()
    done = run("manifest", rows, "-o", rows.with_name("x.manifest"))
    assert done.exit_code == 0
    assert "1 of 8 chunks" in done.stderr
    assert "lost" in done.stderr


MISTAKES = {
    "nothing there": ("manifest {}/none.zarr", 1, "no such path"),
    "which array": ("manifest {}/group", 1, "pass --array NAME"),
    "no manifest there": ("manifest {}/x.zarr --verify {}/none", 1, "no such file"),
    "a folder as manifest": ("manifest {}/x.zarr --verify {}", 1, "is a directory"),
    "no manifest": ("manifest {}/x.zarr --verify {}/x.zarr/zarr.json", 1, "is no manifest"),
    "cut off": ("manifest {}/x.zarr --verify {}/cut", 1, "cut off"),
    "it exists": ("manifest {}/x.zarr -o {}/cut", 1, "pass --overwrite"),
    "it is something else": (
        "manifest {}/x.zarr -o {}/letter --overwrite",
        1,
        "will not be replaced",
    ),
    "into the array": ("manifest {}/x.zarr -o {}/x.zarr/m", 1, "would destroy the input"),
    "no such folder": ("manifest {}/x.zarr -o {}/no/m", 1, "there is no folder"),
    "both": ("manifest {}/x.zarr -o {}/m --verify {}/cut", 2, "give either"),
    "twice to stdout": ("manifest {}/x.zarr --json", 2, "--output"),
    "an option for nothing": ("manifest {}/x.zarr --storage-option region=x", 2, "local"),
    "no array": ("manifest", 2, "Missing argument"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str, rows: Path, run: Run) -> None:
    line, code, words = MISTAKES[name]
    folder = rows.parent
    group = zarr.create_group(folder / "group")
    for member in "ab":
        group.create_array(member, data=np.ones((4, 2)))
    (folder / "cut").write_text('{"dask_gmm_manifest":1,"array":"x","metadata":null}\n')
    (folder / "letter").write_text("dear mother")
    before = sorted(folder.rglob("*"))
    done = run(*line.format(*[folder] * 3).split(), "-q")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert words in done.stderr
    assert sorted(folder.rglob("*")) == before, "a mistake leaves nothing behind"


def test_progress(rows: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask_gmm.cli.manifest._REPORT_EVERY", 0.0)
    place = rows.with_name("x.manifest")
    for words in (("-o", place), ("--verify", place)):
        done = run("manifest", rows, *words, "--progress", "json")
        events = [json.loads(line) for line in done.stderr.splitlines()]
        advanced = [e["progress"] for e in events if e["event"] == "PassAdvanced"]
        assert [p["blocks_done"] for p in advanced] == list(range(1, 9))
        assert {p["blocks_total"] for p in advanced} == {8}


def test_over_http(rows: Path, run: Run) -> None:
    """Nothing can be listed there, but all that a manifest knows can be read."""
    place = rows.with_name("x.manifest")
    assert run("manifest", rows, "-o", place).exit_code == 0
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(rows.parent))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.zarr"
        done = run("manifest", url, "--verify", place)
        assert done.exit_code == 0, done.stderr
        assert "were not looked for" in done.stderr
        (rows / "c/2/0").unlink()
        assert "missing: 'c/2/0'" in run("manifest", url, "--verify", place).stdout
        refused = run("manifest", url, "-q")
        assert refused.exit_code == 1
        assert "plain HTTP lists nothing" in refused.stderr
        server.shutdown()


@pytest.mark.slow
def test_a_bucket(
    object_store: ObjectStoreServer,  # noqa: F811
    rows: Path,
    run: Run,
) -> None:
    from dask_gmm.data.stores import writable_store

    where = [
        w for pair in object_store.options.items() for w in ("--storage-option", "=".join(pair))
    ]
    url, place = object_store.url("x.zarr"), object_store.url("x.manifest")
    values = np.asarray(zarr.open_array(rows)[...])
    zarr.create_array(writable_store(url, object_store.options), data=values, chunks=(5, 3))
    assert run("manifest", url, "-o", place, *where).exit_code == 0
    again = run("manifest", url, "-o", place, *where, "-q")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    for data in (url, rows):
        done = run("manifest", data, "--verify", place, *where)
        assert done.exit_code == 0, done.output
        assert "the same." in done.stdout
    nowhere = run("manifest", url, "--verify", object_store.url("none"), *where, "-q")
    assert nowhere.exit_code == 1
    assert "no such object" in nowhere.stderr
