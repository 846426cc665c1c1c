"""Two fits at a time on one cluster: right, and each on its own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults.fits import KINDS, bits, undisturbed

if TYPE_CHECKING:
    from tests.faults.cluster import MortalCluster

pytestmark = pytest.mark.slow


def digest(found: tuple[Any, ...]) -> str:
    """Return what a process can print of a fit's bits."""
    return hashlib.sha256(repr(found).encode()).hexdigest()


@pytest.mark.parametrize("disturbed", [False, True])
def test_from_two_threads(disturbed: bool, cluster: MortalCluster, x: str) -> None:
    """Of one client; also while a worker dies."""
    found: dict[str, Any] = {}
    with cluster.client() as client:

        def fit(kind: str) -> None:
            with client.as_current():
                found[kind] = bits(kind, x)

        if disturbed:
            cluster.trap("kernel", "kill")
        threads = [threading.Thread(target=fit, args=(kind,)) for kind in KINDS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {kind: undisturbed(kind, x) for kind in KINDS}


def test_from_two_processes(cluster: MortalCluster, x: str) -> None:
    code = (
        "import sys; from distributed import Client; from tests.faults import test_two_fits as t\n"
        "with Client(sys.argv[1]): print(t.digest(t.bits(*sys.argv[2:])))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, cluster.address, kind, x],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for kind in KINDS
    ]
    for kind, process in zip(KINDS, processes, strict=True):
        said, _ = process.communicate(timeout=120)
        assert said.strip() == digest(undisturbed(kind, x)), kind
