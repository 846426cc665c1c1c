"""Every mistake of a user: one sentence, the right exit code, no traceback."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from dask_gmm.cli.explain import explain
from dask_gmm.errors import ClusterError, InputError
from tests.cli.conftest import Run, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")  # as the folder is: a module's tests may come in two parts
def place(folder: Path, points: Path, model: Path) -> Path:
    """A folder full of things that are not what a user hoped for."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(100, 3))
    group = zarr.open_group(folder / "group.zarr", mode="w")
    group.create_array("a", data=rows)
    group.create_array("b", data=rows)
    write(folder / "line.zarr", rows[:, 0])
    write(folder / "complex.zarr", rows.astype(complex))
    write(folder / "other.zarr", rows[:, :2])
    nan = rows.copy()
    nan[77, 1] = np.nan
    write(folder / "nan.zarr", nan, (10, 3))
    write(folder / "hole.zarr", rows, (10, 3))
    (folder / "hole.zarr/c/3/0").unlink()
    write(folder / "short.zarr", rows, (10, 3))
    (folder / "short.zarr/c/4/0").write_bytes(b"123")
    zarr.create_array(folder / "huge.zarr", shape=(10**9, 10), chunks=(10**8, 10), dtype="f8")
    (folder / "full").mkdir()
    (folder / "full/letter.txt").write_text("dear mother")
    (folder / "file").write_text("dear mother")
    return folder


MISTAKES = {
    "no such store": ("fit {}/none.zarr -k 2", 1, "no such path"),
    "no such array": ("fit {}/group.zarr -k 2 --array c", 1, "has no array 'c'"),
    "which array": ("fit {}/group.zarr -k 2", 1, "pass --array NAME"),
    "not a group": ("fit {}/points.zarr -k 2 --array c", 1, "leave --array (or --features)"),
    "no such axis": ("fit {}/points.zarr -k 2 --feature-axis 5", 1, "--feature-axis runs from"),
    "one axis": ("fit {}/line.zarr -k 2", 1, "Expected 2D array"),
    "complex": ("fit {}/complex.zarr -k 2", 1, "imaginary parts features"),
    "more components than rows": ("fit {}/group.zarr --array a -k 101", 1, "lower --components"),
    "NaN": ("fit {}/nan.zarr -k 2", 1, "row 77"),
    "missing chunk": ("fit {}/hole.zarr -k 2", 1, "--missing-chunks fill"),
    "truncated chunk": ("fit {}/short.zarr -k 2", 1, "'c/4/0'"),
    "too large for a worker": (
        "plan {}/points.zarr -k 2 --workers 1 --memory-limit 150MB",
        1,
        None,
    ),
    "model exists": ("fit {}/points.zarr -k 2 -o {}/model.zarr", 1, "pass --overwrite"),
    "output is the data": ("fit {}/points.zarr -k 2 -o {}/points.zarr", 1, "would destroy"),
    "output in the data": ("fit {}/points.zarr -k 2 -o {}/points.zarr/m", 1, "would destroy"),
    "output is a folder": ("fit {}/points.zarr -k 2 -o {}/full --overwrite", 1, "other things"),
    "output is a file": ("fit {}/points.zarr -k 2 -o {}/file --overwrite", 1, "is a file"),
    "output below a file": ("fit {}/points.zarr -k 2 -o {}/file/m", 1, "not a directory"),
    "output is no place": ("fit {}/points.zarr -k 2 -o /proc/m", 1, "cannot be written"),
    "output over HTTP": ("fit {}/points.zarr -k 2 -o https://x.example/m", 1, "read-only"),
    "labels over the data": (
        "predict {}/points.zarr -m {}/model.zarr -o {}/points.zarr --overwrite",
        1,
        "would destroy",
    ),
    "labels over the model": (
        "predict {}/points.zarr -m {}/model.zarr -o {}/model.zarr --overwrite",
        1,
        "would destroy",
    ),
    "labels over a group": (
        "predict {}/points.zarr -m {}/model.zarr -o {}/group.zarr --overwrite",
        1,
        "will not be replaced",
    ),
    "labels exist": (
        "predict {}/points.zarr -m {}/model.zarr -o {}/other.zarr",
        1,
        "exists already",
    ),
    "other features": ("score {}/other.zarr -m {}/model.zarr", 1, "was fitted to 3"),
    "no model": ("show {}/none.zarr", 1, "nothing to show"),
    "data as model": ("show {}/model.zarr --compare {}/points.zarr", 1, "no mixture"),
    "the card of data": ("show {}/points.zarr --card", 1, "no model file"),
    "the card of two": ("show {}/model.zarr --compare {}/model.zarr --card", 2, "one of them"),
    "a file to show": ("show {}/file", 1, "no Parquet"),
    "group as model": ("score {}/points.zarr -m {}/group.zarr", 1, "no model file"),
    "models of other data": ("show {}/model.zarr --compare {}/flat.truth.zarr", 1, "features"),
    "simulation exists": ("simulate {}/points.zarr", 1, "exists already"),
    "larger than the disk": ("simulate {}/new.zarr -n 1e15", 1, "are free"),
    "demo larger than the disk": ("demo --size 900PB --directory {}", 1, "are free"),
    "shard below chunk": ("simulate {}/new.zarr --chunk 4MB --shard 1MB", 1, "larger size"),
    "noise and t": ("fit {} -k 2 --noise --degrees-of-freedom each", 2, "do not go together"),
    "no degrees": ("fit {} -k 2 --degrees-of-freedom some", 2, "are no degrees of freedom"),
    "a password": ("fit s3://me:secret@bucket/x -k 2", 1, "user name or password"),
    "unknown scheme": ("fit gopher://x/y -k 2", 1, "gopher"),
    "a credential": (
        "fit s3://bucket/x -k 2 --storage-option aws_secret_access_key=S3CRET",
        1,
        "looks like a credential",
    ),
    "scheduler's scheme": (
        "fit {}/points.zarr -k 2 --scheduler foo://x --timeout 1",
        1,
        "no address of a Dask scheduler",
    ),
    "nobody at the address": (
        "fit {}/points.zarr -k 2 --scheduler tcp://127.0.0.1:1 --timeout 0.2",
        1,
        "No Dask scheduler answered",
    ),
    # usage
    "no command": ("frobnicate", 2, "No such command"),
    "no components": ("fit {}/points.zarr", 2, "Missing option"),
    "no data": ("fit -k 2", 2, "Missing argument"),
    "zero components": ("fit {}/points.zarr -k 0", 2, "not in the range"),
    "unknown option": ("fit {}/points.zarr -k 2 --frob", 2, "--frob"),
    "unparsable size": ("fit x -k 2 --workers 1 --memory-limit 5furlongs", 2, "is no size"),
    "unparsable count": ("simulate x --rows many", 2, "whole number"),
    "limit without workers": ("fit x -k 2 --memory-limit 5GB", 2, "--workers"),
    "workers and scheduler": ("fit x -k 2 --scheduler tcp://x:1 --workers 2", 2, "leave out"),
    "half an option": ("fit x -k 2 --storage-option endpoint", 2, "KEY=VALUE"),
    "an option twice": (
        "fit x -k 2 --storage-option a=1 --storage-option a=2",
        2,
        "given twice",
    ),
    "an option for nothing": ("fit {}/points.zarr -k 2 --storage-option region=x", 2, "local"),
    "shards of version 2": ("simulate x --zarr-format 2 --shard 1MB", 2, "no shards"),
}


@pytest.fixture(scope="module")
def flat(folder: Path, run: Run) -> Path:
    path = folder / "flat.zarr"
    assert run("simulate", path, "-n", 100, "-d", 2, "-k", 2, "-q").exit_code == 0
    return path


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_a_sentence(name: str, place: Path, flat: Path, run: Run) -> None:
    line, code, words = MISTAKES[name]
    before = sorted(place.iterdir())
    done = run(*line.format(*[place] * 3).split(), "-q")
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert "S3CRET" not in done.output
    if words is not None:
        assert done.stdout == ""
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr
    assert sorted(place.iterdir()) == before, "a mistake leaves nothing behind"


def test_debug_shows_the_traceback(place: Path, run: Run) -> None:
    done = run("fit", place / "none.zarr", "-k", 2, "--debug")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "StoreNotFoundError" in done.stderr


def test_a_plan_that_does_not_fit_has_sizes_and_remedy(place: Path, run: Run) -> None:
    words = ("-k", 2, "--workers", 1, "--memory-limit", "1GB")
    planned = run("plan", place / "huge.zarr", *words)
    assert planned.exit_code == 1, planned.stderr
    assert "does not fit" in planned.stdout
    assert "chunks smaller than" in " ".join(planned.stdout.split())


@pytest.fixture
def deaf_server() -> Iterator[str]:
    """Somebody who accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_a_scheduler_that_never_answers(deaf_server: str, points: Path, run: Run) -> None:
    done = run("fit", points, "-k", 2, "--scheduler", deaf_server, "--timeout", 0.2, "-q")
    assert done.exit_code == 1
    assert "No Dask scheduler answered" in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/data/x"), "The disk is full at /data/x"),
        (PermissionError(13, "Permission denied", "/data/x"), "No permission"),
        (MemoryError(), "ran out of memory"),
        (ClusterError("a\nb"), "a b"),
        (ZeroDivisionError("division by zero"), "This is a defect of dask-gmm"),
        (OSError("strange"), "The operating system refused: strange"),
        (InputError("array='x' is for Zarr arrays"), "--array 'x' is for Zarr arrays"),
        (InputError("use feature_transform='arcsinh'."), "use --transform arcsinh."),
        (InputError("feature_transform names feature 3"), "--transform names feature 3"),
        (InputError("leave such rows out by where=, a mask"), "out by --where, a mask"),
        (InputError("name many by arrays='*'."), "name many by --arrays '*'."),
        (InputError("by columns= of a table, by features= of a group"), "by --columns of a table"),
    ],
)
def test_explanations(error: Exception, words: str) -> None:
    sentence = explain(error)
    assert words in sentence
    assert "\n" not in sentence
