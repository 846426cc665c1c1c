"""The examples, each run as its reader would: as a program, from a directory of their own."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.metrics import adjusted_rand_score

from dask_gmm import GaussianMixture

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MOST_LINES = 90
USERS = ("classify", "describe")
SECONDS = 120
"""Generous: each takes a few, but a busy machine may start its processes slowly."""


def run(name: str, folder: Path, *arguments: str) -> list[str]:
    """Run an example in `folder` and return the lines it prints.

    It may leave files in `folder` only: nothing in the directory for temporary files, and no
    process.
    """
    temporary = folder / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert running_in_group(process.pid) == []
    assert not list(temporary.rglob("*.zarr"))
    assert not [p for p in temporary.iterdir() if p.name != "dask-scratch-space"]
    return out.splitlines()


def running_in_group(group: int) -> list[str]:
    """Return what still runs of a process group, given a moment to end."""
    for _ in range(50):
        found = []
        for process in psutil.process_iter():
            # A zombie has ended; who has to notice that is not the example.
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        if not found:
            return []
        time.sleep(0.1)
    return found


def test_each_is_short_and_has_a_test() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {
        "cytometry",
        "dask_cluster",
        "ocean_profiles",
        "parquet_table",
        "quickstart",
        "segment_photograph",
        "sentinel_scene",
    }
    for path in EXAMPLES.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        lengths = {
            node.name: (node.end_lineno or 0) - node.lineno
            for node in tree.body
            if isinstance(node, ast.FunctionDef)
        }
        # What makes data or a picture of them is not what a user writes.
        theirs = sum(n for name, n in lengths.items() if name in USERS)
        assert theirs < 25, path
        own = sum(n for name, n in lengths.items() if name.startswith(("write_", "draw")))
        assert len(path.read_text(encoding="utf-8").splitlines()) - own < MOST_LINES, path


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lines = run("quickstart", tmp_path, "--directory", str(here))
    assert lines[0].startswith("converged; passes over 400,000 rows: ")
    assert "labels: dask.array.core, shape (400000,), chunks of (50000,)" in lines
    assert lines[-1] == "loaded model has the same means: True"

    gm = GaussianMixture.load(here / "model.zarr")
    order = np.argsort(-gm.weights_)
    np.testing.assert_allclose(gm.weights_[order], [0.5, 0.3, 0.2], atol=0.005)
    np.testing.assert_allclose(gm.means_[order], [[0, 0, 0], [4, 0, 1], [0, 5, -1]], atol=0.02)
    counts = np.bincount(np.asarray(gm.predict(here / "points.zarr")))
    assert lines[-2] == f"rows of each component: {counts[order]}"


@pytest.mark.slow
def test_quickstart_leaves_nothing(tmp_path: Path) -> None:
    assert len(run("quickstart", tmp_path)) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]


@pytest.mark.slow
def test_segment_photograph(tmp_path: Path) -> None:
    lines = run("segment_photograph", tmp_path)
    photograph = load_sample_image("china.jpg")
    height, width, _ = photograph.shape
    assert lines[0].startswith("converged: 273,280 pixels")
    assert lines[1] == f"labels of shape ({height}, {width}), 8 components"

    picture = np.asarray(Image.open(tmp_path / "segmented.png"))
    np.testing.assert_array_equal(picture[:height, :width], photograph)
    segmented = picture[:height, -width:]
    colours, labels = np.unique(segmented.reshape(-1, 3), axis=0, return_inverse=True)
    assert len(colours) == 8
    # A component's colour is that of the pixels that have it, and a segmentation says more about
    # a photograph than its mean does.
    pixels = photograph.reshape(-1, 3).astype(float)
    means = np.stack([pixels[labels.ravel() == k].mean(axis=0) for k in range(8)])
    assert np.abs(means - colours).max() < 20
    assert np.var(pixels - colours[labels.ravel()]) < 0.1 * np.var(pixels)

    # The README's picture is this one, smaller.
    committed = EXAMPLES / "segmented.png"
    assert committed.stat().st_size <= 150_000
    with Image.open(committed) as small:
        same_size = Image.fromarray(picture).resize(small.size, Image.Resampling.LANCZOS)
        difference = np.asarray(small.convert("RGB"), dtype=float) - np.asarray(same_size)
    assert np.abs(difference).mean() < 4


@pytest.mark.slow
def test_dask_cluster(tmp_path: Path) -> None:
    lines = run("dask_cluster", tmp_path)
    assert [line.split()[:3] for line in lines[:3]] == [
        ["$", "dask", "scheduler"],
        ["$", "dask", "worker"],
        ["$", "dask", "worker"],
    ]
    assert lines[3].startswith("converged after ")
    assert lines[3].endswith(" tasks on 2 workers")
    assert lines[4] == "the same bits as in one process: True"


@pytest.mark.slow
def test_parquet_table(tmp_path: Path) -> None:
    lines = run("parquet_table", tmp_path)
    assert lines == [
        "converged: 400,000 rows of colour, magnitude, parallax, speed",
        "weights: [0.6 0.3 0.1]",
        "labels: 400,000 rows of star, field, label",
        "the same files: True",
    ]


@pytest.mark.slow
def test_ocean_profiles(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lines = run("ocean_profiles", tmp_path, "--directory", str(here))
    data = xr.open_zarr(here / "ocean.zarr", consolidated=False).load()
    labels = xr.open_zarr(here / "classes.zarr")["labels"].load()
    truth, sea = data["truth"], data["sea"].broadcast_like(labels).transpose(*labels.dims)
    gaps = data[["TEMP", "PSAL"]].isnull().to_array().any(["variable", "depth"]) & sea
    assert lines[0] == (
        f"converged: {int(sea.sum()):,} profiles, {int(gaps.sum()):,} of them with gaps"
    )
    assert int(gaps.sum()) > 20_000

    assert labels.dims == ("time", "lat", "lon")
    for name in labels.dims:
        xr.testing.assert_equal(labels[name], data[name])
    np.testing.assert_array_equal(labels == -1, ~sea)
    assert adjusted_rand_score(truth.values[sea], labels.values[sea]) > 0.99
    # Fronts follow the sun: the warmest water reaches farther north in July than in January.
    warmest = int(labels.where(truth == 3).max())
    reach = labels["lat"].where((labels == warmest).any("lon")).max("lat")
    january, july = (reach.sel(time=f"2000-{month}").item() for month in ("01", "07"))
    assert july - january >= 12
    # Shelf or not is no difference: all profiles along a latitude are of one class.
    assert ((labels.isel(lon=slice(15, None)) == labels.isel(lon=-1)).all("lon")).all()

    assert len(lines) == 10
    for line in lines[1:9]:
        found = re.fullmatch(r"class (\d): *(-?[\d.]+) °C and ([\d.]+) at the surface", line)
        assert found, line
        mass = int(truth.values[labels.values == int(found[1])][0])
        own = data.isel(depth=0).where(truth == mass)
        assert float(found[2]) == pytest.approx(float(own["TEMP"].median()), abs=0.06)
        assert float(found[3]) == pytest.approx(float(own["PSAL"].median()), abs=0.006)
    assert lines[9] == "wrote classes.png"
    with Image.open(here / "classes.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert picture.width > 1000
        assert len(colours) > 100


@pytest.mark.slow
def test_ocean_profiles_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden), prepend=os.pathsep)
    lines = run("ocean_profiles", tmp_path)
    assert lines[-1] == "no picture: matplotlib is not installed"
    assert len(lines) == 10


@pytest.mark.slow
def test_sentinel_scene(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lines = run("sentinel_scene", tmp_path, "--directory", str(here))
    scene = xr.open_zarr(here / "scene.zarr", consolidated=False).load()
    labels = xr.open_zarr(here / "cover.zarr")["labels"].load()
    seen = scene["truth"] >= 0
    n = int(seen.sum())
    assert lines[0] == f"converged: {n:,} pixels, {seen.size - n:,} without data"
    assert lines[1] == "labels of a window are the same: True"
    np.testing.assert_array_equal(labels == -1, ~seen)
    assert adjusted_rand_score(scene["truth"].values[seen], labels.values[seen]) > 0.99
    assert labels.dims == ("y", "x")
    assert set(labels.coords) == {"y", "x", "spatial_ref"}
    for name in ("y", "x"):
        np.testing.assert_array_equal(labels[name], scene[name])
    assert labels["spatial_ref"].attrs == scene["spatial_ref"].attrs
    areas = [float(line.split()[2]) for line in lines[2:9]]
    counts = np.bincount(labels.values.ravel() + 1)
    np.testing.assert_allclose(areas, counts / 1e4, atol=0.006)
    assert lines[9] == 'PROJCS["WGS 84 / UTM zone 32N"]'


@pytest.mark.slow
def test_cytometry(tmp_path: Path) -> None:
    lines = run("cytometry", tmp_path)
    assert len(lines) == 8  # five populations
    parts = [float(line.split()[-1]) for line in lines[1:6]]
    assert sum(parts) == pytest.approx(1.0, abs=1e-4)
    # Plasmacytoid dendritic cells: CD123 and some CD4, and nothing else.
    np.testing.assert_allclose([float(x) for x in lines[5].split()[1:6]], [0, 2, 0, 0, 6], atol=0.2)
    words = lines[6].replace(",", " ").split()
    found, true = float(words[1]), float(words[-1])
    assert 0.0003 < true < 0.0007
    assert found == pytest.approx(true, abs=2e-5)
    assert lines[7].startswith("samples: 20, ")
    assert float(lines[7].split()[-1]) < 1e-4
