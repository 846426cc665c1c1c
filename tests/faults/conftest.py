"""Data and a cluster of mortal processes, which each module has for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.cluster import MortalCluster
from tests.faults.fits import make_data

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def x(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalCluster]:
    with MortalCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: MortalCluster) -> MortalCluster:
    """Whole again, whatever the test before has done to it."""
    shared.heal()
    return shared
