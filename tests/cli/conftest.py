"""Small stores and models, and two ways to run the command line: in here, and for real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import zarr
from click.testing import CliRunner, Result

from dask_gmm.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

PROGRAM = [sys.executable, "-c", "from dask_gmm.cli.main import main; main()"]

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run the command line in this process."""

    def call(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


def program(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a program of its own and wait for its end."""
    return subprocess.run(
        [*PROGRAM, *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="session")
def points(folder: Path, run: Run) -> Path:
    """4,000 rows of 3 features from 3 components, in 8 blocks; the truth beside them."""
    path = folder / "points.zarr"
    words = ("-n", 4000, "-d", 3, "-k", 3, "--chunk", "500 rows", "--separation", 5)
    done = run("simulate", path, *words, "-q")
    assert done.exit_code == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def model(points: Path, run: Run) -> Path:
    """What a fit of `points` finds."""
    path = points.with_name("model.zarr")
    done = run("fit", points, "-k", 3, "--seed", 0, "-o", path, "-q")
    assert done.exit_code == 0, done.stderr
    return path


def write(path: Path, values: np.ndarray, chunks: tuple[int, ...] | None = None) -> Path:
    """Write an array to a new store."""
    zarr.create_array(path, data=values, chunks=chunks or values.shape)
    return path
