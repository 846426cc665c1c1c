"""What a fit asks of its store, and what that costs at prices that the user gives."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from dask_gmm.data.object_reads import (
    metadata_requests,
    objects_of_pass,
    reads_a_network,
    weight_objects,
)
from dask_gmm.fitting.kmeans_parallel import READS
from dask_gmm.fitting.sampling import sample_blocks

if TYPE_CHECKING:
    from dask_gmm.cli.block_time import BlockTimes
    from dask_gmm.cli.settings import EMSettings
    from dask_gmm.data.source import Source

__all__ = ["Asked", "Cost", "Costs", "Prices", "Traffic", "expected_passes", "traffic_of"]

_PASSES = {"variance-reduced": 5, "squarem": 48, None: 114}
"""Passes of a fit by its acceleration: of the data sets in the table of reads of
examples/performance.md, the largest median until the log-likelihood is within 1e-6 nats a row of
its end."""


@dataclass(frozen=True)
class Asked:
    """Requests for chunks, shards or parts of them (of a disk: files opened), and their bytes."""

    requests: int
    bytes: int

    def __add__(self, other: Asked) -> Asked:
        return Asked(self.requests + other.requests, self.bytes + other.bytes)

    def times(self, factor: float) -> Asked:
        """Return so many times as much."""
        return Asked(round(self.requests * factor), round(self.bytes * factor))


@dataclass(frozen=True)
class Traffic:
    """What a fit asks its store for.

    Attributes
    ----------
    network : bool
        Whether it comes over one.
    start : Asked
        What is read for the sample, and for a scaling.
    first_read, later_read : Asked
        A read of all blocks before and after some are pinned.
    metadata_per_read : int or None
        Small requests that look whether the data are still the same, at most.
    passes : int
        That the fit is taken to need.
    reads : int
        All reads of all blocks: the passes, and those of k-means|| before them.
    fit : Asked
        All of it, without metadata.
    """

    network: bool
    start: Asked
    first_read: Asked
    later_read: Asked
    metadata_per_read: int | None
    passes: int
    reads: int
    fit: Asked


def expected_passes(settings: EMSettings, acceleration: str | None, asked: int | None) -> int:
    """Return how many passes to count a fit with: what was asked, or what such fits took."""
    if asked is not None:
        return asked
    bounds = [settings.max_iter, settings.max_passes]
    return min(_PASSES[acceleration], *(bound for bound in bounds if bound is not None))


def traffic_of(
    source: Source,
    settings: EMSettings,
    times: BlockTimes,
    *,
    pinned: int,
    sample_size: int,
    passes: int,
) -> Traffic:
    """Work out what a fit asks for, from metadata and what one block took.

    Parameters
    ----------
    source : Source
    settings : EMSettings
    times : BlockTimes
        Of one of its blocks.
    pinned : int
        Blocks that all processes keep from pass to pass.
    sample_size : int
        Rows of the sample.
    passes : int
    """
    first = _of_pass(source, times)
    later = first.times(1 - pinned / source.n_blocks)
    sampled = len(sample_blocks(source, sample_size)) / source.n_blocks
    whole = source.n_rows is not None and source.n_rows <= sample_size
    if settings.scaling_from == "all" and settings.scaling(source.missing) and not whole:
        sampled = 1.0  # the moments of all rows and the sample, in one read
    start = first.times(sampled)
    reads = passes + (READS if settings.init_params == "k-means||" else 0)
    return Traffic(
        network=reads_a_network(source),
        start=start,
        first_read=first,
        later_read=later,
        metadata_per_read=metadata_requests(source),
        passes=passes,
        reads=reads,
        fit=start + first + later.times(reads - 1),
    )


def _of_pass(source: Source, times: BlockTimes) -> Asked:
    """Return what a pass asks for where nothing is pinned."""
    objects, beside = objects_of_pass(source), weight_objects(source)
    blocks = float(source.n_blocks)
    factor = blocks if objects is None or not times.objects else objects / times.objects
    values = Asked(times.asked.gets, times.asked.bytes).times(factor)
    weights = Asked(times.asked_beside.gets, times.asked_beside.bytes)
    if beside is not None and weights.requests:
        blocks = beside / weights.requests
    return values + weights.times(blocks)


@dataclass(frozen=True)
class Prices:
    """What the user pays, in a currency of theirs; None for what they have not said.

    Attributes
    ----------
    gb : float or None
        Of 10^9 bytes that leave the store.
    thousand_requests : float or None
    core_hour : float or None
        Of one thread for an hour.
    """

    gb: float | None = None
    thousand_requests: float | None = None
    core_hour: float | None = None

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """Take its own values out of a command's arguments."""
        return cls(
            values.pop("price_per_gb"),
            values.pop("price_per_1000_requests"),
            values.pop("price_per_core_hour"),
        )

    @property
    def of_store(self) -> bool:
        """Whether one of them is for what a store gives."""
        return self.gb is not None or self.thousand_requests is not None

    def __bool__(self) -> bool:
        return self.of_store or self.core_hour is not None

    def cost(self, asked: Asked, core_hours: tuple[float, float] | None) -> Cost:
        """Return what these requests and core hours (from, to) cost."""
        cores = None
        if self.core_hour is not None and core_hours is not None:
            cores = core_hours[0] * self.core_hour, core_hours[1] * self.core_hour
        return Cost(
            None if self.gb is None else self.gb * asked.bytes / 1e9,
            None
            if self.thousand_requests is None
            else self.thousand_requests * asked.requests / 1e3,
            cores,
        )


@dataclass(frozen=True)
class Cost:
    """An amount for each of the prices; None where there is no price, or nothing is known."""

    bytes: float | None
    requests: float | None
    cores: tuple[float, float] | None

    @property
    def total(self) -> tuple[float, float]:
        """From and to."""
        store = (self.bytes or 0.0) + (self.requests or 0.0)
        low, high = self.cores or (0.0, 0.0)
        return store + low, store + high

    def described(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "total": self.total}


@dataclass(frozen=True)
class Costs:
    """What a first read of all blocks, each later one, and a fit cost."""

    first_read: Cost
    later_read: Cost
    fit: Cost

    @classmethod
    def of(
        cls,
        prices: Prices,
        traffic: Traffic,
        first: tuple[float, float] | None,
        later: tuple[float, float] | None,
        n_threads: int,
    ) -> Self:
        """Price a fit's traffic, and the time that its passes keep `n_threads` threads.

        Parameters
        ----------
        prices : Prices
        traffic : Traffic
        first, later : (float, float) or None
            Seconds of the first pass and of each later one, from and to.
        n_threads : int
        """
        hours = [
            None if span is None else (span[0] * n_threads / 3600, span[1] * n_threads / 3600)
            for span in (first, later)
        ]
        whole = None
        if hours[0] is not None and hours[1] is not None:
            more = traffic.reads - 1
            whole = hours[0][0] + more * hours[1][0], hours[0][1] + more * hours[1][1]
        return cls(
            prices.cost(traffic.first_read, hours[0]),
            prices.cost(traffic.later_read, hours[1]),
            prices.cost(traffic.fit, whole),
        )
