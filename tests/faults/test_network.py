"""A slow, throttling, lying network: the same bits, or a typed error soon; never zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.network import LASTING, PASSING, stage_at
from tests.object_store import object_store  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.faults.network import Stage
    from tests.object_store import ObjectStoreServer

BOUND = 60.0  # seconds, on a machine where much else runs
QUICK = {"false 404 among holes"}  # the others together take a minute


@pytest.fixture(scope="module")
def stage(object_store: ObjectStoreServer) -> Iterator[Stage]:  # noqa: F811
    with stage_at(object_store) as stage:
        yield stage


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PASSING]
)
def test_a_fault_that_passes(name: str, stage: Stage) -> None:
    outcome = stage.run(PASSING[name])
    assert outcome.idle == 0
    assert outcome.error is None
    assert outcome.same
    assert outcome.seconds < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_lasts(name: str, stage: Stage) -> None:
    case = LASTING[name]
    outcome = stage.run(case)
    assert outcome.idle == 0
    assert case.error is not None
    assert type(outcome.error) is case.error
    message = str(outcome.error)
    assert "s3://" in message
    assert case.named in message
    if case.work == "fit":
        assert outcome.url in message
        assert "/c/" in message or case.named.startswith("c/")  # the key
    assert "\n" not in message
    assert "<" not in message
    assert outcome.seconds < BOUND
