"""show: what is at a place, by metadata alone; a model's card."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

from dask_gmm import GaussianMixture
from dask_gmm.model_card import card_schema
from tests.counting_server import counting_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.counting_server import CountingServer

ROWS = np.random.default_rng(0).normal(size=(1000, 3))
METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of several kinds in a folder."""
    folder = tmp_path_factory.mktemp("places")
    zarr.create_array(folder / "rows.zarr", data=ROWS, chunks=(250, 3))
    zarr.create_array(folder / "old.zarr", data=ROWS, chunks=(250, 3), zarr_format=2)
    zarr.create_array(folder / "shards.zarr", data=ROWS, chunks=(50, 3), shards=(500, 3))
    plates = zarr.create_group(folder / "plates.zarr")
    for name in ("b", "a", "a [x]"):
        plates.create_array(name, data=ROWS, chunks=(250, 3))
    plates.create_array("names", data=np.array(["one", "two"]))
    plates.create_group("more").create_array("inside", data=ROWS)
    zarr.consolidate_metadata(plates.store)
    temperature = xr.DataArray(
        np.arange(200, dtype="i2").reshape(20, 10),
        dims=("time", "lat"),
        attrs={"units": "degC", "scale_factor": 0.01, "add_offset": 5.0, "missing_value": -99},
    )
    ocean = xr.Dataset(
        {"TEMP": temperature, "SALT": (("time", "lat"), ROWS[:200, 0].reshape(20, 10))},
        coords={"time": pd.date_range("2020-01-01", periods=20), "lat": np.arange(10.0)},
    )
    ocean.to_zarr(folder / "ocean.zarr", zarr_format=3)
    table = pd.DataFrame(ROWS, columns=["x", "y", "z"]).assign(word="w")
    table.to_parquet(folder / "table.parquet", row_group_size=400)
    for year, part in ((2020, table[:600]), (2021, table[600:])):
        (folder / "years" / f"year={year}").mkdir(parents=True)
        part.to_parquet(folder / "years" / f"year={year}" / "part.parquet")
    return folder


@pytest.fixture(scope="module")
def served(places: Path) -> Iterator[CountingServer]:
    with counting_server(places) as server:
        yield server


def facts(run: Run, *words: object) -> dict[str, Any]:
    done = run("show", *words, "--json")
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def text(run: Run, *words: object) -> str:
    done = run("show", *words)
    assert done.exit_code == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("name", ["rows", "old", "shards"])
def test_an_array_is_described(name: str, places: Path, run: Run) -> None:
    place = places / f"{name}.zarr"
    array = zarr.open_array(place, mode="r")
    told = facts(run, place)
    assert told["array"] == str(place)
    assert tuple(told["shape"]) == array.shape
    assert tuple(told["chunks"]) == array.chunks
    assert told["shards"] == (None if array.shards is None else list(array.shards))
    assert (told["dtype"], told["measured"], told["decoding"]) == ("float64", "float64", "")
    shown = text(run, place)
    assert "1,000 × 3, float64 (24.0 kB before compression)" in shown
    assert "1,000 rows of 3 features" in shown
    assert f"dask-gmm fit {place} -k K" in shown


def test_a_group_says_how_each_of_its_arrays_is_named(places: Path, run: Run) -> None:
    place = places / "plates.zarr"
    told = facts(run, place)
    assert [a["name"] for a in told["arrays"]] == ["a", "a [x]", "b", "names"]
    assert told["groups"] == ["more"]
    shown = text(run, place)
    assert "of no use to a fit: no real numbers" in shown
    assert "a [x]" in shown, "brackets are no markup"
    assert f"dask-gmm show {place}/more" in shown
    assert "inside" in text(run, place / "more")
    names = next(line for line in run("show", place).stdout.splitlines() if "as one" in line)
    assert names.rstrip().endswith("--arrays a,b"), "the third one's name is a pattern"


@pytest.mark.parametrize("place", ["plates.zarr", "ocean.zarr", "rows.zarr", "table.parquet"])
def test_the_commands_that_are_advised_work(place: str, places: Path, run: Run) -> None:
    lines = run("show", places / place).stdout.splitlines()
    commands = [line.partition("dask-gmm ")[2] for line in lines if "dask-gmm " in line]
    assert commands
    for command in commands:
        words = ["1" if word == "K" else word for word in shlex.split(command)]
        done = run(*words, *(("-q",) if words[0] == "fit" else ()))
        assert done.exit_code == 0, (command, done.stderr)


def test_variables_say_their_units_and_what_is_decoded(places: Path, run: Run) -> None:
    told = facts(run, places / "ocean.zarr")
    by_name = {a["name"]: a for a in told["arrays"]}
    assert by_name["TEMP"]["units"] == "degC"
    assert by_name["TEMP"]["dtype"] == "int16"
    assert by_name["TEMP"]["measured"].startswith("float")
    assert by_name["TEMP"]["decoding"] == "-99 missing, times 0.01, plus 5.0"
    assert by_name["TEMP"]["dimensions"] == ["time", "lat"]
    assert {name for name, a in by_name.items() if a["coordinate"]} == {"time", "lat"}
    shown = text(run, places / "ocean.zarr")
    assert "int16 → float" in shown
    assert "--features SALT,TEMP" in shown


def test_a_table_is_described(places: Path, run: Run) -> None:
    told = facts(run, places / "table.parquet")
    assert told["n_rows"] == 1000
    assert told["n_row_groups"] == 3
    assert [c["name"] for c in told["columns"]] == ["x", "y", "z", "word"]
    shown = text(run, places / "table.parquet")
    assert "1,000 in 3 row groups of 1 file" in shown
    assert "--columns x,y,z" in shown
    many = facts(run, places / "years")
    assert many["n_files"] == 2
    assert many["columns"][-1] == {"name": "year", "type": "from the path"}
    assert facts(run, f"{places}/years/**/*.parquet")["n_rows"] == 1000


@pytest.fixture(scope="module")
def outputs(places: Path, run: Run) -> Path:
    folder = places / "outputs"
    gm = GaussianMixture(2, random_state=0, max_iter=2, tol=1.0).fit(places / "rows.zarr")
    gm.save(folder / "model.zarr")
    gm.predict_to(places / "rows.zarr", folder / "labels.zarr")
    gm.predict_to({"a": ROWS, "b": ROWS[:100]}, folder / "many.zarr")
    table = GaussianMixture(2, random_state=0, columns=["x", "y"], tol=1.0)
    table.fit(places / "table.parquet").predict_to(
        places / "table.parquet", folder / "labels.parquet"
    )
    return folder


@pytest.mark.parametrize("name", ["labels.zarr", "many.zarr", "labels.parquet"])
def test_labels_say_of_what_and_by_what_they_are(
    name: str, outputs: Path, places: Path, run: Run
) -> None:
    told = facts(run, outputs / name)["said"]
    assert told["complete"] is True
    assert told["values"] == "labels"
    if name != "labels.parquet":
        assert told["model"] == facts(run, outputs / "model.zarr")["parameters_digest"]
        assert told["model"][:12] in text(run, outputs / "model.zarr")
    else:
        assert told["data"] == str(places / "table.parquet")
    shown = text(run, outputs / name)
    assert told["model"][:12] in shown
    assert "; complete" in shown
    assert "dask-gmm fit" not in shown, "nobody fits labels"


def test_labels_that_are_not_whole_say_so(outputs: Path, tmp_path: Path, run: Run) -> None:
    document = json.loads((outputs / "labels.zarr" / "zarr.json").read_text())
    document["attributes"]["dask_gmm"]["complete"] = False
    (tmp_path / "labels.zarr").mkdir()
    (tmp_path / "labels.zarr" / "zarr.json").write_text(json.dumps(document))
    assert facts(run, tmp_path / "labels.zarr")["said"]["complete"] is False
    shown = text(run, tmp_path / "labels.zarr")
    assert "not complete" in shown
    assert "goes on with it" in shown
    (tmp_path / "table").mkdir()
    marker = {"dask_gmm": {"complete": False, "recipe": {"values": "labels", "data": "x"}}}
    (tmp_path / "table" / "_dask_gmm.json").write_text(json.dumps(marker))
    pd.DataFrame({"label": [1]}).to_parquet(tmp_path / "table" / "0.parquet")
    assert "labels of x; not complete" in text(run, tmp_path / "table")


@pytest.mark.parametrize("name", ["rows.zarr", "old.zarr", "shards.zarr", "ocean.zarr"])
def test_nothing_but_metadata_is_read(name: str, places: Path, tmp_path: Path, run: Run) -> None:
    """The same is told where there is nothing else."""
    for file in (places / name).rglob("*"):
        if file.name in METADATA:
            copy = tmp_path / file.relative_to(places)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    told = json.dumps(facts(run, tmp_path / name))
    assert told.replace(str(tmp_path), str(places)) == json.dumps(facts(run, places / name))


@pytest.mark.parametrize("name", ["rows.zarr", "old.zarr", "shards.zarr", "plates.zarr"])
def test_a_store_is_asked_for_metadata_alone(name: str, served: CountingServer, run: Run) -> None:
    served.asked.clear()
    facts(run, f"{served.url}/{name}")
    assert served.asked
    assert served.chunks() == (0, 0), [a.path for a in served.asked if not a.of_metadata]
    assert len(served.asked) < 12


def test_a_table_is_asked_for_its_footer_alone(places: Path, tmp_path: Path, run: Run) -> None:
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(200_000, 2)), columns=["x", "y"])
    wide.to_parquet(tmp_path / "wide.parquet")
    size = (tmp_path / "wide.parquet").stat().st_size
    with counting_server(tmp_path) as server:
        told = facts(run, f"{server.url}/wide.parquet")
        assert told["n_rows"] == 200_000
        gets = [asked for asked in server.asked if asked.method == "GET"]
        assert 0 < sum(asked.size for asked in gets) < 0.1 * size


@pytest.mark.slow
def test_a_group_that_cannot_be_listed_says_so(served: CountingServer, run: Run) -> None:
    (served.folder / "bare.zarr").mkdir()
    document = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    (served.folder / "bare.zarr" / "zarr.json").write_text(json.dumps(document))
    done = run("show", f"{served.url}/bare.zarr")
    assert done.exit_code == 1
    assert "cannot list" in done.stderr
    assert "one of its arrays" in done.stderr


def test_encoded_matrices_are_fitted_as_such(tmp_path: Path, run: Run) -> None:
    """AnnData's layout: the arrays of a sparse matrix are no features."""
    root = zarr.create_group(tmp_path / "cells.zarr", attributes={"encoding-type": "anndata"})
    for name, kind in (("X", "csr_matrix"), ("obs", "dataframe")):
        inside = root.create_group(name, attributes={"encoding-type": kind, "shape": [2, 2]})
        for part in ("data", "indices"):
            inside.create_array(part, data=np.array([1, 1]))
        inside.create_array("indptr", data=np.array([0, 1, 2]))
    place = tmp_path / "cells.zarr"
    assert f"fit X dask-gmm fit {place} -k K" in text(run, place)
    assert f"fit it dask-gmm fit {place}/X -k K" in text(run, place / "X")
    assert "dask-gmm fit" not in text(run, place / "obs")


def test_nothing_over_http_is_nothing(served: CountingServer, run: Run) -> None:
    """No checkpoint can be there, which is not what anybody asks."""
    done = run("show", f"{served.url}/none.zarr")
    assert done.exit_code == 1
    assert "nothing to show" in done.stderr


def test_an_empty_group_is_one(tmp_path: Path, run: Run) -> None:
    zarr.create_group(tmp_path / "g.zarr")
    assert "nothing" in text(run, tmp_path / "g.zarr")


def test_damaged_metadata_are_an_error(tmp_path: Path, run: Run) -> None:
    (tmp_path / "x.zarr").mkdir()
    (tmp_path / "x.zarr" / "zarr.json").write_text("{")
    done = run("show", tmp_path / "x.zarr")
    assert done.exit_code == 1
    assert "metadata" in done.stderr


def test_a_card_is_printed(outputs: Path, run: Run) -> None:
    place = outputs / "model.zarr"
    done = run("show", place, "--card")
    assert done.exit_code == 0, done.stderr
    card = json.loads(done.stdout)
    jsonschema.Draft202012Validator(card_schema()).validate(card)
    assert card["how_to_load"]["place"] == str(place)
    own = GaussianMixture.load(place).model_card()
    assert {**card, "how_to_load": own["how_to_load"]} == own


def test_where_the_mixtures_of_a_selection_stand(places: Path, tmp_path: Path, run: Run) -> None:
    words = ("-k", "1:3", "--covariance", "full", "--covariance", "diag", "--seed", 0, "-q")
    done = run("select", places / "rows.zarr", *words, "--checkpoint", tmp_path / "c", "--json")
    assert done.exit_code == 0, done.stderr
    selected = json.loads(done.stdout)
    told = facts(run, tmp_path / "c")["grid"]
    assert len(told) == 6
    found = {(p["n_components"], p["covariance_type"]): p for p in told}
    best = min(found, key=lambda key: found[key]["value"])
    assert best == (selected["best"]["n_components"], selected["best"]["covariance_type"])
    for row in selected["table"]:
        point = found[row["n_components"], row["covariance_type"]]
        assert point["value"] == pytest.approx(row["bic"], rel=1e-12)
        assert point["passes"] == row["passes"]
        assert point["outcome"] == row["outcome"]
    shown = text(run, tmp_path / "c")
    assert shown.count("the best so far") == 1
