"""plan: requests, bytes and costs, held against what a real fit asks a server for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from dask_gmm.cli.costs import Asked, Prices
from dask_gmm.cli.plan import _amounts
from tests.counting_server import counting_server
from tests.marks import quick_ones

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Run
    from tests.counting_server import CountingServer

ROWS, FEATURES, SIZE = 4000, 3, 8
# Random numbers, as they are: each chunk has the same number of bytes.
RAW: dict[str, Any] = {"compressors": None}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain chunks": {"chunks": (250, 3)},
    "an edge": {"chunks": (300, 3)},
    "chunks cut over features": {"chunks": (500, 1)},
    "whole shards": {"chunks": (125, 3), "shards": (500, 3)},
    "slabs of a shard": {"chunks": (125, 3), "shards": (2000, 3)},
    "Zarr v2": {"chunks": (250, 3), "zarr_format": 2},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingServer]:
    folder = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, FEATURES)) + 8.0 * rng.integers(0, 2, size=(ROWS, 1))
    for name, layout in LAYOUTS.items():
        zarr.create_array(folder / f"{name.replace(' ', '_')}.zarr", data=rows, **layout, **RAW)
    group = zarr.create_group(folder / "weighed.zarr")
    group.create_array("x", data=rows, chunks=(250, 3), **RAW)
    group.create_array("w", data=np.ones(ROWS), chunks=(250,), **RAW)
    group.create_array("shared", data=np.ones(ROWS), chunks=(ROWS,), **RAW)
    with counting_server(folder) as found:
        yield found


def planned(run: Run, *words: object) -> dict[str, Any]:
    done = run("plan", *words, "--json")
    assert done.exit_code == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def fitted(server: CountingServer, run: Run, *words: object) -> tuple[int, int, dict[str, Any]]:
    """Fit; return the requests for chunks, their bytes, and the fit's own report."""
    server.asked.clear()
    done = run("fit", *words, "--json", "-q")
    assert done.exit_code in (0, 3), done.stderr
    return *server.chunks(), json.loads(done.stdout)


PLAIN = ("-k", 2, "--seed", 0, "--acceleration", "none", "--tol", 0, "--max-iter", 4)


PINNED = [("plain chunks", 48_000), ("whole shards", 48_000), ("slabs of a shard", 48_000)]


@pytest.mark.parametrize(
    ("name", "cache"),
    quick_ones(
        [*((name, 0) for name in LAYOUTS), *PINNED],
        [("plain chunks", 0), ("slabs of a shard", 48_000)],
    ),
)
def test_a_plan_counts_what_a_fit_asks_for(
    name: str, cache: int, server: CountingServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Shards that are larger are read in slabs of inner chunks.
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 16_000)
    words = (f"{server.url}/{name.replace(' ', '_')}.zarr", *PLAIN, "--cache", cache)
    told = planned(run, *words)["traffic"]
    assert told["network"]
    assert told["passes"] == told["reads"] == 4
    requests, size, report = fitted(server, run, *words, "--threads-per-worker", 1)
    assert report["passes"] == 4
    assert told["fit"] == {"requests": requests, "bytes": size}
    if cache:
        assert told["later_read"]["requests"] < told["first_read"]["requests"]
    metadata = [asked for asked in server.asked if asked.of_metadata]
    looks = 4 + 2 * 2  # each pass; the first and last look at the data and at the sample
    assert len(metadata) <= looks * told["metadata_per_read"] + 8, "and what it takes to open them"


def test_a_pass_of_each_layout(
    server: CountingServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 16_000)
    found = {
        name: planned(run, f"{server.url}/{name.replace(' ', '_')}.zarr", *PLAIN)["traffic"]
        for name in LAYOUTS
    }
    requests = {name: told["first_read"]["requests"] for name, told in found.items()}
    assert requests == {
        "plain chunks": 16,
        "an edge": 14,
        "chunks cut over features": 8 * 3,
        "whole shards": 8,
        "slabs of a shard": 2 * 4 * 2,  # of each slab the index, and the chunks in one piece
        "Zarr v2": 16,
    }
    assert found["plain chunks"]["first_read"]["bytes"] == ROWS * FEATURES * SIZE
    assert {name: told["metadata_per_read"] for name, told in found.items()} == {
        **dict.fromkeys(LAYOUTS, 1),
        "Zarr v2": 2,
    }


@pytest.mark.parametrize(("weights", "a_pass"), [("w", 32), ("shared", 17)])
def test_weights_are_asked_for_too(
    weights: str, a_pass: int, server: CountingServer, run: Run
) -> None:
    data = (f"{server.url}/weighed.zarr", "--array", "x", "--weights", weights)
    words = (*data, *PLAIN, "--cache", 0)
    told = planned(run, *words)["traffic"]
    assert told["first_read"]["requests"] == a_pass
    requests, size, _ = fitted(server, run, *words, "--threads-per-worker", 1)
    assert told["fit"]["bytes"] <= size
    assert told["fit"]["requests"] <= requests
    if weights == "w":
        assert told["fit"] == {"requests": requests, "bytes": size}


def test_the_reads_of_a_start_and_of_a_scaling(server: CountingServer, run: Run) -> None:
    url = f"{server.url}/plain_chunks.zarr"
    for more, reads in (("--init-params", "k-means||"), 8), (("--standardize", "moments"), 4):
        words = (url, *PLAIN, *more, "--cache", 0)
        told = planned(run, *words)["traffic"]
        assert (told["passes"], told["reads"]) == (4, reads)
        requests, size, _ = fitted(server, run, *words)
        assert told["fit"] == {"requests": requests, "bytes": size}


def test_a_bucket(server: CountingServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    server.folder.joinpath("bucket").symlink_to(server.folder)
    where = ("--storage-option", f"endpoint={server.url}", "--storage-option", "region=us-east-1")
    words = ("s3://bucket/slabs_of_a_shard.zarr", *where, *PLAIN, "--cache", 48_000)
    monkeypatch.setattr("dask_gmm.data.zarr_source.SHARD_BLOCK_BYTES", 16_000)
    told = planned(run, *words)["traffic"]
    requests, size, _ = fitted(server, run, *words, "--threads-per-worker", 1)
    assert told["network"]
    assert told["fit"] == {"requests": requests, "bytes": size}


def test_blocks_that_several_workers_keep(server: CountingServer, run: Run) -> None:
    words = (f"{server.url}/plain_chunks.zarr", *PLAIN, "--cache", 24_000, "--workers")
    later = [planned(run, *words, n)["traffic"]["later_read"]["requests"] for n in (1, 2, 9)]
    assert later == [16 - 4, 16 - 8, 0]


def test_prices(server: CountingServer, run: Run) -> None:
    words = (f"{server.url}/plain_chunks.zarr", "-k", 2, "--cache", 0, "--passes", 10)
    assert planned(run, *words)["costs"] is None
    prices = ("--price-per-gb", 1000, "--price-per-1000-requests", 2, "--price-per-core-hour", 9)
    told = planned(run, *words, *prices)
    costs, traffic = told["costs"], told["traffic"]
    assert traffic["passes"] == 10
    assert costs["first_read"]["bytes"] == pytest.approx(1000 * ROWS * FEATURES * SIZE / 1e9)
    assert costs["first_read"]["requests"] == pytest.approx(2 * 16 / 1000)
    low, high = costs["first_read"]["cores"]
    threads, (shortest, longest) = told["n_threads"], told["pass_seconds"]
    assert low == pytest.approx(9 * threads * shortest / 3600)
    assert high == pytest.approx(9 * threads * longest / 3600)
    for part in costs.values():
        store = part["bytes"] + part["requests"]
        assert part["total"] == pytest.approx([store + cores for cores in part["cores"]])
    assert costs["fit"]["requests"] == pytest.approx(2 * 16 * 11 / 1000), "the sample is a read too"
    shown = " ".join(run("plan", *words, *prices[:4]).stdout.split())
    for line in (
        "a pass asks for 16 requests, 96.0 kB over the network, and at most 1 more for metadata",
        "a fit asks for 176 requests, 1.06 MB over the network (the sample and 10 passes)",
        "a pass costs 0.128 (0.096 for bytes, 0.032 for requests)",
        "a fit costs 1.41 (",
    ):
        assert line in shown


def test_no_price_is_assumed(server: CountingServer, run: Run, points: Path) -> None:
    shown = run("plan", f"{server.url}/plain_chunks.zarr", "-k", 2).stdout
    assert "costs" not in shown
    local = run("plan", points, "-k", 2).stdout
    assert "a pass opens" in local
    assert "8 chunks or shards" in local
    refused = run("plan", points, "-k", 2, "--price-per-gb", 1)
    assert refused.exit_code == 2
    assert "only local paths are given" in refused.stderr
    assert "a fit costs" in run("plan", points, "-k", 2, "--price-per-core-hour", 1).stdout


def test_what_is_not_priced_costs_nothing() -> None:
    asked = Asked(3000, 10**9)
    assert not Prices()
    assert Prices(gb=0.0), "a price of nothing is a price"
    cost = Prices(thousand_requests=0.5).cost(asked, (1.0, 2.0))
    assert (cost.bytes, cost.requests, cost.cores) == (None, 1.5, None)
    assert cost.total == (1.5, 1.5)


def test_costs_that_nobody_knows_are_not_nothing() -> None:
    cores = Prices(None, None, 1.0)
    assert _amounts(cores.cost(Asked(1, 1), None)) == "unknown"
    assert _amounts(cores.cost(Asked(1, 1), (1.0, 2.0))) == "1 to 2"
