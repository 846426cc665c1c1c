"""The examples, each run as its reader would: as a program, from a directory of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from dask_gmm import GaussianMixture

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MOST_LINES = 80
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
    assert names == {"quickstart", "segment_photograph", "dask_cluster", "parquet_table"}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES, path


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
