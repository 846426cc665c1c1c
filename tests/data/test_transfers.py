"""What is asked of a store across a slow link: how much at a time, in parts, a second time."""

from __future__ import annotations

import _thread
import itertools
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import obstore.store
import pytest
import zarr

from dask_gmm.data.direct import link as laws
from dask_gmm.data.direct import transfers
from dask_gmm.data.direct.cancellation import GivenUpError
from dask_gmm.data.direct.requests import submitted
from dask_gmm.data.source import open_source
from dask_gmm.data.stores import read_counter
from dask_gmm.errors import DataChangedError
from dask_gmm.execution import LocalBackend, asked, plan_pass
from tests.execution.fakes import SumJob
from tests.marks import quick_ones
from tests.slow_link import Link, SlowLink, slow_link

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dask_gmm.data.base import Source

ROWS = np.random.default_rng(0).normal(size=(48_000, 16))
"""6 MB."""

MB_ROWS = 8000
"""Rows of 1 MB."""

PLACES: dict[str, dict[str, Any]] = {
    "small": {"chunks": (100, 16)},
    "large": {"chunks": (3 * MB_ROWS, 16), "compressors": None},
    "compressed": {"chunks": (3 * MB_ROWS, 16)},
    "shards": {"chunks": (MB_ROWS // 10, 16), "shards": (3 * MB_ROWS, 16)},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, SlowLink]]:
    folder = tmp_path_factory.mktemp("served")
    for name, kwargs in PLACES.items():
        zarr.create_array(folder / name, data=ROWS, **kwargs)
    with slow_link(folder) as server:
        yield folder, server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let parts be as small as the test's objects ask for, and nothing known of a link.

    A busy machine answers late; who counts requests does not want second ones.
    """
    monkeypatch.setattr(laws, "LEAST_PATIENCE", 60.0)
    monkeypatch.setattr(laws, "UNKNOWN_PATIENCE", 60.0)
    monkeypatch.setattr(laws, "_smallest_part", lambda link: 2**18)
    transfers._process()._links.clear()


def sum_of(source: Source, n_threads: int = 2, unit_level: int | None = None) -> Any:
    plan = plan_pass(source, n_threads=n_threads, unit_level=unit_level)
    return LocalBackend(n_threads).run(plan, SumJob()).value


def wait_for_given_up(server: SlowLink, n: int) -> None:
    """Wait until the server has seen that so many answers more are not waited for."""
    until = time.monotonic() + 20.0
    while n > 0 and time.monotonic() < until:
        n -= server.counts().given_up
        time.sleep(0.05)
    assert n <= 0


LINKS = {
    "alone": Link(0.01),
    "no versions": Link(0.01, versions=False),
    "no ranges": Link(0.01, ranges=False),
    "capped": Link(0.01, bandwidth=60e6, connection=8e6),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    quick_ones(
        itertools.product(PLACES, LINKS),
        [("large", "capped"), ("compressed", "no versions")],
    ),
)
def test_the_same_bits_by_no_more_requests_than_may_be(
    name: str, kind: str, served: tuple[Path, SlowLink]
) -> None:
    folder, server = served
    link = LINKS[kind]
    server.become(link)
    server.counts()
    local, remote = open_source(folder / name), open_source(f"{server.url}/{name}")
    assert remote.reader == "direct"
    server.counts()
    for _ in range(2):
        assert sum_of(remote) == sum_of(local)
    counts = server.counts()
    assert counts.most <= laws.MAX_REQUESTS
    assert counts.connections <= laws.MAX_REQUESTS
    if name == "small":
        assert counts.requests == 2 * remote.n_blocks
        assert counts.most > 8
    elif link.ranges and link.versions:
        assert counts.ranged > 2 * remote.n_blocks
        assert counts.given_up == 0
    else:  # once to find that out
        assert counts.requests <= 2 * remote.n_blocks + 1


def test_an_object_is_its_parts(served: tuple[Path, SlowLink]) -> None:
    folder, server = served
    server.become(Link(0.005))
    source: Any = open_source(f"{server.url}/compressed")
    for _ in range(2):  # the second knows how much of their bound objects fill
        block = source.block(0)
        np.testing.assert_array_equal(source.read(block).values, ROWS[: 3 * MB_ROWS])
    stored = (folder / "compressed/c/0/0").stat().st_size
    before = read_counter()
    server.counts()
    source.read(block)
    came, counts = read_counter() - before, server.counts()
    assert (came.gets, came.bytes) == (counts.requests, counts.bytes)
    assert came.bytes == stored
    assert came.gets >= 2


@pytest.mark.parametrize(
    ("size", "most"),
    quick_ones(
        itertools.product([0, 1, 2**18, 2**18 + 1, 3 * 2**20], [2**20, 2**23]),
        [(0, 2**20), (2**18 + 1, 2**23), (3 * 2**20, 2**20)],
    ),
)
def test_objects_of_any_size(size: int, most: int, served: tuple[Path, SlowLink]) -> None:
    """Whatever an object was thought to hold."""
    folder, server = served
    server.become(Link())
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    content.tofile(folder / "other")
    content.tofile(folder / "object")
    store = obstore.store.from_url(server.url, client_options={"allow_http": True})
    for key in ("other", "object", "object"):
        if size == 0:
            with pytest.raises(Exception, match=r"(?i)range"):
                transfers.whole_of(store, key, key, most)
            continue
        found = transfers.whole_of(store, key, key, most)
        assert found.size == size
        came = np.concatenate([piece.content for piece in found.pieces])
        np.testing.assert_array_equal(came, content)
    assert transfers.whole_of(store, "object", "object", 0).size == size


@pytest.mark.parametrize("name", ["large", "compressed"])
def test_parts_of_two_versions_are_never_mixed(name: str, served: tuple[Path, SlowLink]) -> None:
    _, server = served
    plain, rewritten = Link(), Link(rewritten=True)
    server.become(plain)
    source: Any = open_source(f"{server.url}/{name}")
    for known in (False, True):  # that it serves ranges
        if known:
            transfers._process()._links.clear()
            server.become(plain)
            source.read(source.block(0))
        server.become(rewritten)
        with pytest.raises(DataChangedError, match=r"written anew .* two versions"):
            source.read(source.block(0))


@pytest.mark.slow
def test_of_every_hundred_answers_one_stands_still(
    served: tuple[Path, SlowLink], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laws, "LEAST_PATIENCE", 0.5)
    folder, server = served
    local, remote = sum_of(open_source(folder / "small")), open_source(f"{server.url}/small")
    server.become(Link(0.002, stall_every=100, stall=60.0))
    server.counts()
    before, begun = read_counter(), time.monotonic()
    assert sum_of(remote) == local
    assert time.monotonic() - begun < 30.0
    counts, came = server.counts(), read_counter() - before
    assert remote.n_blocks == 480
    assert came.gets == 480
    assert 4 <= came.hedges <= 4 + laws.HEDGED_SHARE * 480
    assert counts.requests == 480 + came.hedges
    # Nobody waits for the others any more.
    wait_for_given_up(server, 4 - counts.given_up)


def test_what_is_given_up_ends(served: tuple[Path, SlowLink]) -> None:
    _, server = served
    source: Any = open_source(f"{server.url}/large")
    server.become(Link(stall_every=1, stall=60.0))
    server.counts()
    answers = source.request(source.block(0))
    time.sleep(0.3)
    begun = time.monotonic()
    for answer in answers.values():
        answer.cancel()
    for answer in answers.values():
        with pytest.raises(GivenUpError):
            answer.result(timeout=20)
    assert time.monotonic() - begun < 20.0
    wait_for_given_up(server, 1)
    server.become(Link())
    assert submitted(sum_of, source).result() == pytest.approx(ROWS.sum())


def test_ctrl_c_waits_for_no_store(served: tuple[Path, SlowLink]) -> None:
    _, server = served
    server.become(Link())
    remote = open_source(f"{server.url}/large")
    server.become(Link(stall_every=1, stall=60.0))
    begun = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressing = threading.Timer(0.5, _thread.interrupt_main)
    pressing.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sum_of(remote)
    finally:
        pressing.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 20.0
    assert asked._in_flight._bytes == 0
    server.become(Link())
    assert sum_of(remote) == pytest.approx(ROWS.sum())


def test_units_that_come_are_asked_for(served: tuple[Path, SlowLink]) -> None:
    """Each block is a unit of its own: without that two would be under way, and others wait."""
    folder, server = served
    server.become(Link(0.02))
    remote = open_source(f"{server.url}/small")
    server.counts()
    begun = time.monotonic()
    assert sum_of(remote, unit_level=0) == sum_of(open_source(folder / "small"), unit_level=0)
    assert server.counts().most > 8
    assert time.monotonic() - begun < 480 * 0.02 / 2 * 0.8


def test_half_of_the_blocks_pinned_are_half_of_the_requests(
    served: tuple[Path, SlowLink],
) -> None:
    folder, server = served
    server.become(Link(0.002))
    remote = open_source(f"{server.url}/small")
    local = sum_of(open_source(folder / "small"))
    with LocalBackend(2).open(remote, cache=ROWS.nbytes // 2) as passes:
        for requests in (480, 240, 240):
            server.counts()
            assert passes.run(SumJob()).value == local
            # And a look at the metadata, whether somebody has written to them.
            assert requests <= server.counts().requests <= requests + 1


def test_ranges_of_a_shard_are_few(served: tuple[Path, SlowLink]) -> None:
    """An index and what lies next to each other: not a request for each chunk."""
    folder, server = served
    server.become(Link(0.02))
    weights = np.random.default_rng(1).uniform(1, 2, size=48_000)
    if not (folder / "w").exists():
        zarr.create_array(folder / "w", data=weights, chunks=(4000,), shards=(48_000,))
    X = np.ones((48_000, 2))
    source: Any = open_source(X, sample_weight=f"{server.url}/w", block_rows=48_000)
    server.counts()
    read = source.read(source.block(0)).weights
    np.testing.assert_array_equal(read, weights)
    assert server.counts().requests <= 13


ENDING = """
import atexit, sys, threading
# Comes last, as it is registered first.
atexit.register(lambda: print(sorted(t.name for t in threading.enumerate() if "link" in t.name)))
from dask_gmm.data.source import open_source
source = open_source(sys.argv[1])
print(source.read(source.block(0)).values.size)
for block in range(1, 40):
    asked = source.request(source.block(block))
    for answer in asked.values():
        answer.cancel()
"""


@pytest.mark.slow
def test_a_process_ends_in_peace(served: tuple[Path, SlowLink]) -> None:
    """No thread hands anything over to an interpreter that ends: the process would abort."""
    _, server = served
    server.become(Link(0.005))
    for _ in range(3):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", ENDING, f"{server.url}/small"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        for child in children:
            said, complained = child.communicate(timeout=60)
            assert child.returncode == 0, complained
            assert said.split("\n")[:2] == ["1600", "[]"]
