"""The process that drives a fit is killed, for real, wherever it may be: another one goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from tests.faults.killed_driver import KINDS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_that_is_killed_anywhere(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = np.concatenate([rng.normal(m, 1.0, (1000, 2)) for m in (-2.5, 0.0, 2.5)])
    rng.shuffle(rows)
    zarr.create_array(tmp_path / "x.zarr", data=rows, chunks=(300, 2))
    words = ["-m", "tests.faults.killed_driver", kind, str(tmp_path / "x.zarr"), str(tmp_path)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ends = found["ends"]
    assert found["passes"] >= 3
    assert found["steps"] >= 12
    assert all(end["killed"] for end in ends)
    assert [end["where"] for end in ends if not end["same"]] == []
    # What one of them was at work on; it goes when its number is too old.
    assert all(len(end["scraps"]) <= 1 for end in ends)
    in_passes = [end for end in ends if end["where"].startswith("pass")]
    # What has been committed by then is the pass before, or the one before that.
    for number, end in enumerate(in_passes, 1):
        (resumed,) = end["resumed"]
        assert max(0, number - 2) <= resumed <= number - 1
        assert end["made"] == found["passes"] - resumed
