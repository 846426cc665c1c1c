"""Many samples from the command line: by a pattern, a folder, a group; their proportions."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

SIZES = (300, 60, 140)


def sample(number: int) -> Any:
    rng = np.random.default_rng(number)
    x = rng.normal(size=(SIZES[number], 2))
    x[: SIZES[number] * (number + 1) // 4] += 8.0
    return x


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "plate"
    for number, name in enumerate("abc"):
        zarr.create_array(str(folder / f"{name}.zarr"), data=sample(number), chunks=(50, 2))
    group = zarr.create_group(str(folder.parent / "group.zarr"))
    for number, name in enumerate("abc"):
        group.create_array(name, data=sample(number), chunks=(64, 2))
    group.create_array("other", data=np.ones(3))
    return folder


@pytest.fixture(scope="module")
def fitted(plate: Path, run: Run) -> Path:
    model = plate.parent / "model.zarr"
    words = ("-k", 2, "--seed", 0, "--equal-per-array", "-o", model, "--json")
    done = run("fit", f"{plate}/*.zarr", *words)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sample_weight"] == "equal-per-array"
    gm = GaussianMixture.load(str(model))
    share = gm.weights_[np.argmax(gm.means_[:, 0])]
    assert share == pytest.approx(np.mean([0.25, 0.5, 0.75]), abs=0.01)
    return model


def test_labels_and_proportions(plate: Path, fitted: Path, tmp_path: Path, run: Run) -> None:
    out, table = tmp_path / "labels.zarr", tmp_path / "table.csv"
    words = ("predict", plate, "--arrays", "*.zarr", "-m", fitted, "-o", out)
    done = run(*words, "--proportions", table, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_rows"] == sum(SIZES)
    gm = GaussianMixture.load(str(fitted))
    expected = gm.proportions([sample(i) for i in range(3)])
    np.testing.assert_allclose(list(found["proportions"].values()), expected, rtol=1e-12)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["array"] for row in rows] == ["a", "b", "c"]
    shares = [[float(row[f"proportion_{k}"]) for k in range(2)] for row in rows]
    np.testing.assert_array_equal(shares, list(found["proportions"].values()))
    assert sum(int(row["count_0"]) + int(row["count_1"]) for row in rows) == sum(SIZES)
    np.testing.assert_array_equal(xr.open_zarr(out).proportions.values, shares)
    again = run(*words)
    assert again.exit_code != 0
    assert "already exists" in again.stderr
    done = run(*words, "--overwrite")
    assert done.exit_code == 0, done.stderr
    assert "0.7500" in done.stdout


def test_arrays_of_a_group(plate: Path, fitted: Path, run: Run) -> None:
    group = plate.parent / "group.zarr"
    words = ("-m", fitted, "--json", "--equal-per-array")
    found = json.loads(run("score", group, "--arrays", "[abc]", *words).stdout)
    assert found["n_rows"] == sum(SIZES)
    assert found["arrays"] == ["[abc]"]
    one = json.loads(run("score", f"{plate}/*.zarr", *words).stdout)
    assert found["score"] == pytest.approx(one["score"], rel=1e-12)
    plan = run("plan", group, "--arrays", "a,c", "-k", 2)
    assert plan.exit_code == 0, plan.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{plate}/a.zarr", "--proportions", "x.csv"), "is one: leave it out"),
        (("{plate}/*.zarr", "--proportions", "no/x.csv"), "lies in none"),
        (("{plate}/q*.zarr",), "There is nothing at"),
        (("{plate}", "--arrays", "q*"), "There is nothing at"),
        (("{group}", "--arrays", "a,q"), "is called 'q'"),
        (("{group}", "--arrays", "*"), "Expected 2D array, got 1D"),
        (("{plate}/a.zarr", "--arrays", "*"), "is itself an array"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], message: str, plate: Path, fitted: Path, tmp_path: Path, run: Run
) -> None:
    places = {"plate": plate, "group": plate.parent / "group.zarr"}
    done = run(
        "predict", *(w.format(**places) for w in words), "-m", fitted, "-o", tmp_path / "out.zarr"
    )
    assert done.exit_code != 0
    assert message in " ".join(done.stderr.split())


MISTAKES = {
    "among the data": (
        "predict {0}/*.zarr -m {1} -o {0}/labels.zarr",
        "/labels.zarr would be among the data that",
    ),
    "one counts alike": (
        "fit {0}/a.zarr -k 2 --equal-per-array",
        "error: --equal-per-array lets each of many arrays count alike, but",
    ),
    "two ways to name": (
        "fit {0}/../group.zarr -k 2 --arrays a,b --array c",
        "--array 'c' says nothing: leave one of them out",
    ),
    "columns of arrays": (
        "fit {0}/../group.zarr -k 2 --arrays a,b --columns x",
        "says nothing: leave one of them out",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_in_options(name: str, plate: Path, fitted: Path, run: Run) -> None:
    line, words = MISTAKES[name]
    done = run(*line.format(plate, fitted).split(), "-q")
    assert done.exit_code == 1, done.output
    assert words in done.stderr
    assert "'*'" in done.stderr or name != "one counts alike"
    assert not (plate / "labels.zarr").exists()
