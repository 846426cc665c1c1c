"""Tables from the command line: their columns, their weights, and labels back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.tables.files import cloud, write

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture(scope="module")
def stars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in two files, with weights and names."""
    folder = tmp_path_factory.mktemp("tables") / "stars"
    for number in range(2):
        rows = cloud(300, seed=number)
        more: dict[str, Any] = {
            "w": np.arange(300) % 4,
            "a,b": rows[:, 0],
            "name": [f"s{i}" for i in range(300)],
        }
        write(folder / f"{number}.parquet", rows, **more)
    return folder


@pytest.fixture(scope="module")
def fitted(stars: Path, run: Run) -> Path:
    path = stars.parent / "model.zarr"
    words = ("--columns", "b,a", "--weights", "w", "-k", 2, "--seed", 0)
    done = run("fit", stars, *words, "-o", path, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["data"] == str(stars)
    return path


def test_labels_in_the_same_files(stars: Path, fitted: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "labels.parquet"
    words = ("predict", stars, "-m", fitted, "-o", out)
    done = run(*words, "--keep", "name,id", "--probabilities", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["n_rows"] == 600
    for number in range(2):
        labels = pq.read_table(out / f"{number}.parquet")
        assert labels.column_names == ["name", "id", "label", "posterior_0", "posterior_1"]
        by_sign = cloud(300, seed=number)[:, 0] > 0
        found = labels["label"].to_numpy()
        assert np.mean(found == (by_sign if found[by_sign].mean() > 0.5 else ~by_sign)) > 0.99
    assert "already exists" in run(*words).stderr
    done = run("score", f"{stars}/*.parquet", "-m", fitted, "--weights", "w", "--json")
    assert json.loads(done.stdout)["n_rows"] == 450


def test_plan_and_select(stars: Path, run: Run) -> None:
    done = run("plan", stars, "--columns", 'a,"a,b"', "-k", 2, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["n_rows"], told["n_features"], told["reader"]) == (600, 2, "pyarrow")
    assert "pyarrow, a column at a time" in run("plan", stars, "--columns", "a", "-k", 2).stdout
    done = run("select", stars, "--columns", "a,b", "-k", "1:2", "--seed", 0, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["best"]["n_components"] == 2


MISTAKES = {
    "words": ("fit {}/stars -k 2", 1, "--columns a,b."),
    "no such column": ("fit {}/stars -k 2 --columns a,z", 1, "has no column 'z'"),
    "no names": ("fit {}/stars -k 2 --columns a,,b", 2, "is no list of names: write a,b,c"),
    "no such weights": (
        "fit {}/stars -k 2 --columns a --weights z",
        1,
        "neither a column of the table",
    ),
    "an array": ("fit {}/stars -k 2 --array x", 1, "for Zarr arrays"),
    "columns of no table": ("fit {}/model.zarr -k 2 --columns a", 1, "is a Zarr store"),
    "labels over the data": (
        "predict {}/stars -m {}/model.zarr -o {}/stars/x.parquet",
        1,
        "would destroy",
    ),
    "kept of no table": (
        "predict {}/stars -m {}/model.zarr -o {}/x.zarr --keep id",
        1,
        "--keep is for tables",
    ),
    "other columns": ("score {}/stars/0.parquet -m {}/model.zarr --columns a", 1, "--columns"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake: str, stars: Path, fitted: Path, run: Run) -> None:
    line, code, message = MISTAKES[mistake]
    done = run(*(word.format(stars.parent) for word in line.split()))
    assert done.exit_code == code
    assert message in done.stderr


def test_a_column_says_which_rows_count(tmp_path: Path, run: Run) -> None:
    rows = cloud(300)
    rows[::7, 1] = np.nan
    data = write(tmp_path / "t.parquet", rows, use=np.arange(300) % 3 > 0)
    model, labels = tmp_path / "m.zarr", tmp_path / "labels.parquet"
    words = (data, "--columns", "a,b", "--where", "use")
    done = run("fit", *words, "--missing", "marginalize", "-k", 2, "--seed", 0, "-o", model)
    assert done.exit_code == 0, done.stderr
    done = run("predict", *words, "-m", model, "-o", labels, "--keep", "id")
    assert done.exit_code == 0, done.stderr
    counted = pq.read_table(labels)["label"].is_valid().to_numpy()
    np.testing.assert_array_equal(counted, np.arange(300) % 3 > 0)
    done = run("impute", data, "-m", model, "-o", tmp_path / "filled.parquet")
    assert done.exit_code == 1
    assert "does not end with .parquet" in done.stderr
