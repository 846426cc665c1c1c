"""The whole command line against a bucket: credentials from the environment, the rest by option."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.object_store import object_store  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.object_store import ObjectStoreServer


@pytest.mark.slow
def test_a_bucket(
    object_store: ObjectStoreServer,  # noqa: F811
    points: Path,
    model: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    store = object_store
    where = [w for pair in store.options.items() for w in ("--storage-option", "=".join(pair))]
    data, fitted, labels = (store.url(name) for name in ("p.zarr", "m.zarr", "l.zarr"))
    shape = ("-n", 4000, "-d", 3, "-k", 3, "--chunk", "500 rows", "--separation", 5)
    lines: list[tuple[object, ...]] = [
        ("simulate", data, *shape),
        ("plan", data, "-k", 3),
        ("fit", data, "-k", 3, "--seed", 0, "-o", fitted),
        ("predict", data, "-m", fitted, "-o", labels),
        ("score", data, "-m", fitted),
        ("show", fitted),
        ("fit", data, "-k", 3, "-o", tmp_path / "local.zarr"),
    ]
    printed = {}
    for line in lines:
        done = run(*line, *where, "--json", "-q")
        assert done.exit_code == 0, done.stderr
        printed[line[0], line[1]] = json.loads(done.stdout)
    local = json.loads(run("show", model, "--json").stdout)
    assert printed["show", fitted]["means"] == local["means"], "the same rows, the same bits"
    for line in (lines[0], lines[2], lines[3]):
        again = run(*line, *where, "-q")
        assert again.exit_code == 1
        assert again.stderr.count("\n") == 1, again.stderr
        assert "--overwrite" in again.stderr
    nowhere = "s3://no-such-bucket/x.zarr"
    for words in (("fit", nowhere, "-k", 2), ("fit", data, "-k", 2, "-o", nowhere)):
        done = run(*words, *where, "-q")
        assert done.exit_code == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "no-such-bucket" in done.stderr
