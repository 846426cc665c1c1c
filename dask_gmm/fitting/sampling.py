"""A bounded sample of rows, spread over the whole array, for the starting parameters.

The first chunks of an array are rarely typical of it: rows are sorted by time, by tile, by patient.
So the rows come from blocks spaced evenly over all of them, and from each block at random, by a
generator keyed with (seed, block index): the same rows whoever reads them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.taking_part import nothing_left
from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.fitting.gappy_starts import FilledRowsJob, means_of_present, rows_to_start_from
from dask_gmm.mixture.gaps import has_gaps
from dask_gmm.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.execution.backend import Backend, Passes, PassResult
    from dask_gmm.execution.jobs import BlockJob

__all__ = [
    "Drawn",
    "Sample",
    "SampleJob",
    "SampleRecipe",
    "automatic_size",
    "bounded_size",
    "draw_enough",
    "draw_sample",
    "enough",
    "sample_blocks",
    "sample_job",
]

_MIN_BLOCKS = 64
_MOST_TARGETS = 2**22  # blocks that count for less than a part of all are not looked for
_MIN_ROWS = 100_000
_ROWS_PER_PARAMETER = 50
_MAX_BYTES = 256 * 2**20
_PROBED = 1024
# Where weights of zero leave less than this part of a sample, more is read, so much more at a time.
_ENOUGH = 0.25
_MOST_MORE = 8


def automatic_size(n_parameters: int, n_features: int) -> int:
    """Rows that a start deserves: 50 per free parameter, at least 100,000, at most 256 MiB."""
    return bounded_size(max(_MIN_ROWS, _ROWS_PER_PARAMETER * n_parameters), n_features)


def bounded_size(wanted: int, n_features: int) -> int:
    """So many rows, but no more than 256 MiB of them."""
    return max(1, min(wanted, _MAX_BYTES // (8 * n_features)))


def sample_blocks(source: Source, size: int, more: int = 1) -> tuple[int, ...]:
    """Choose the blocks to draw `size` rows from, evenly spaced over the rows, in order.

    `more` asks for so many times the rows and the places.

    All blocks when all rows fit; otherwise those in which evenly spaced rows lie: at least 64
    such rows, and as many as it takes until the blocks hold `size` rows. A block is therefore
    chosen by how much of the data it holds, and empty ones never are. Where blocks are known to
    count for more or less than their rows, that is what is spaced evenly. Chunks of unknown sizes
    can only be spaced by their number.
    """
    n, total, size = source.n_blocks, source.n_rows, size * more
    if total is not None and total <= size:
        return tuple(range(n))
    if total is None:
        count = min(n, _MIN_BLOCKS * more)
        return tuple(int((i + 0.5) * n / count) for i in range(count))
    rows = np.array([source.block(i).rows or 0 for i in range(n)])
    weights = source.block_weights()
    ends = np.cumsum(rows if weights is None else weights)
    some = n if weights is None else int(np.count_nonzero(weights))
    count = _MIN_BLOCKS * more
    while True:
        targets = (np.arange(count) + 0.5) * (ends[-1] / count)
        chosen = np.unique(np.searchsorted(ends, targets, side="right"))
        chosen = chosen[chosen < n]  # a sum of weights is rounded
        if rows[chosen].sum() >= size or len(chosen) >= some or count >= _MOST_TARGETS:
            return tuple(int(i) for i in chosen)
        count *= 2


@dataclass(frozen=True)
class SampleRecipe:
    """How a sample is drawn: the same rows again from the same source.

    Attributes
    ----------
    size : int
        Rows wanted.
    seed : int
        Keys the draw; unused when all rows are taken.
    """

    size: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a source.

    Attributes
    ----------
    rows : Rows
        In the order of the blocks; values float32 or float64 as in the source, integers as float64.
        Weights are those of the rows that each one stands for.
    complete : bool
        Whether these are all rows of the source.
    stands_for : float
        Σ_n w_n of all rows, as far as the blocks drawn from tell.
    """

    rows: Rows
    complete: bool
    stands_for: float

    @cached_property
    def to_start_from(self) -> Rows:
        """Complete rows: these, or where values are missing what stands for them in a start."""
        return rows_to_start_from(self.rows)

    @property
    def standing_for_all(self) -> Rows:
        """The rows, weighing together as much as all those that they stand for."""
        return self.rows.weighing(self.stands_for)

    @property
    def complete_rows(self) -> Rows | None:
        """Those that miss no value; None where they are too few to start from."""
        rows = self.to_start_from
        if self.rows.complete or len(rows) < len(self.rows):
            return rows
        return None if has_gaps(self.rows.values) else rows

    def filling(self, source: Source) -> Callable[[BlockJob[Any]], BlockJob[Any]]:
        """Return what makes a job that knows complete rows only one over rows of the source."""
        if source.missing != "marginalize":
            return lambda job: job
        means = means_of_present(self.rows)
        return lambda job: FilledRowsJob(job, means, source.block_bytes)

    def digest(self) -> str:
        """What tells these rows and weights from any others: SHA-256 of their bytes, as hex."""
        values, weights = self.rows.values, self.rows.weights
        found = hashlib.sha256(f"{values.dtype.str} {values.shape}".encode())
        for array in (values, weights):
            if array is not None:
                found.update(np.ascontiguousarray(array).data.cast("B"))
        return found.hexdigest()

    def below(self, deviation: float) -> tuple[int, ...]:
        """Features that vary, but by less than this standard deviation, on every 1,000th row or so.

        Parameters
        ----------
        deviation : float
        """
        probed = self.rows.values[:: max(1, len(self.rows) // _PROBED)].astype(np.float64)
        probed = probed[~np.isnan(probed).any(axis=1)]
        if not len(probed):
            return ()
        middle = 0.5 * probed.max(axis=0) + 0.5 * probed.min(axis=0)
        probed -= middle
        reach = np.abs(probed).max(axis=0)  # so that no square under- or overflows
        widths = reach * np.std(probed / np.where(reach > 0.0, reach, 1.0), axis=0)
        return tuple(np.flatnonzero((widths > 0.0) & (widths < deviation)).tolist())


@dataclass(frozen=True)
class Drawn:
    """What blocks gave; `+` keeps the parts apart, so that they are joined once, at the end."""

    parts: tuple[Rows, ...]
    rows: int

    def __add__(self, other: Drawn) -> Drawn:
        return Drawn(self.parts + other.parts, self.rows + other.rows)

    def sample(self, source: Source, blocks: Sequence[int]) -> Sample:
        """Return the sample that some blocks of a source gave."""
        rows = _joined(self.parts, source.n_features)
        complete = len(blocks) == source.n_blocks and self.rows == len(rows)
        # Weights drawn add up to those of their blocks, or of all blocks of each of many arrays.
        met = float(self.rows) if rows.weights is None else rows.total_weight
        if source.n_rows is None:
            met *= source.n_blocks / max(len(blocks), 1)
        elif not complete and (source.block_weights() is None or not is_many(source)):
            held = sum(source.block(i).rows or 0 for i in blocks)
            met *= source.n_rows / max(held, 1)
        return Sample(rows, complete, met)


@dataclass(frozen=True)
class SampleJob:
    """What a task does with each chosen block: draw a share of its rows.

    Attributes
    ----------
    share : float
        The part of a block's rows to draw, rounded up; 1 takes every row.
    most : int
        Never more rows of one block than this.
    seed : int
    n_features : int
    gaps : bool
        Whether NaN is a missing value, and no error.
    shares : mapping of int to (float, float), optional
        The part of each block's rows and the factor of their weights, where blocks count for more
        or less than their rows.
    """

    share: float
    most: int
    seed: int
    n_features: int
    gaps: bool = False
    shares: Mapping[int, tuple[float, float]] | None = None

    def open(self) -> Self:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Rows, block: BlockRef) -> Drawn:
        """Return the drawn rows in the order of the block."""
        values, weights, n = rows.values, rows.weights, len(rows)
        share, scale = (self.share, 1.0) if self.shares is None else self.shares[block.index]
        if weights is not None and scale != 1.0:
            weights = weights * scale
        wanted = min(n, self.most, ceil(share * n))
        chosen = np.arange(n)
        if wanted < n:
            rng = np.random.default_rng((self.seed, block.index))
            if weights is None:
                chosen = np.sort(rng.choice(n, wanted, replace=False, shuffle=False))
            else:
                chosen, weights = _drawn_by_weight(weights, wanted, rng)
            values = values[chosen]
        kept = np.float32 if values.dtype == np.float32 else np.float64
        drawn: NDArray[np.floating[Any]] = np.array(values, dtype=kept, order="C")
        bad = np.isinf(drawn) if self.gaps else ~np.isfinite(drawn)
        if bad.any():
            row, feature = (int(i) for i in np.argwhere(bad)[0])
            raise NonFiniteError(int(chosen[row]), feature, float(drawn[row, feature]))
        return Drawn((Rows(drawn, weights),), n)

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        return 8 * (self.n_features + 1) * self.most

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        return 8 * self.most


def _drawn_by_weight(
    weights: NDArray[np.float64], wanted: int, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Draw rows with probabilities as their weights; what each one then stands for.

    A row whose share is a whole draw or more is drawn for certain and keeps its weight; the others
    are drawn systematically in random order (Madow 1949) with probability π_n ∝ w_n, and stand for
    w_n / π_n (Horvitz & Thompson 1952), which is the same for all of them. So a few heavy rows
    are not missed, the drawn weights add up to those of the block, and no light row is carried.

    Parameters
    ----------
    weights : (n,) float64
        Positive.
    wanted : int
        Less than n.
    rng : numpy.random.Generator

    Returns
    -------
    chosen : (wanted,) integer
        In order.
    weights : (wanted,) float64
    """
    heaviest = np.argsort(-weights, kind="stable")
    ordered = weights[heaviest] / weights[heaviest[0]]
    rest = np.cumsum(ordered[::-1])[::-1]  # Σ of each and all that are lighter
    left = wanted - np.arange(wanted)
    whole = ordered[:wanted] * left >= rest[:wanted]
    certain = wanted if whole.all() else int(np.argmin(whole))
    others = rng.permutation(heaviest[certain:])
    steps = np.cumsum(weights[others])
    share = steps[-1] / max(wanted - certain, 1)
    targets = (rng.random() + np.arange(wanted - certain)) * share
    drawn = others[np.minimum(np.searchsorted(steps, targets, side="right"), len(others) - 1)]
    chosen = np.concatenate([heaviest[:certain], drawn])
    standing = np.concatenate([weights[heaviest[:certain]], np.full(len(drawn), share)])
    order = np.argsort(chosen)
    return chosen[order], standing[order]


def _shares(
    source: Source, blocks: Sequence[int], size: int
) -> dict[int, tuple[float, float]] | None:
    """Return how to draw from each block where arrays of many count for other than their rows.

    The blocks chosen of an array stand for all of it, and of each as many rows are drawn as it
    stands for, so that the weights of drawn rows are about the same.

    Returns
    -------
    dict of int to (float, float)
        The part of a block's rows to draw, and the factor of their weights.
    """
    weights = source.block_weights()
    if weights is None or not is_many(source):
        return None
    arrays = np.array([source.array_of(i) for i in range(source.n_blocks)])
    chosen = np.array(blocks)
    own, totals = weights[chosen], np.bincount(arrays, weights)
    met = np.bincount(arrays[chosen], own, minlength=len(totals))
    scales = (totals / np.where(met > 0.0, met, 1.0))[arrays[chosen]]
    standing = own * scales
    wanted = size * standing / max(standing.sum(), np.finfo(float).tiny)
    rows = [max(1, source.block(i).rows or 0) for i in blocks]
    parts = np.minimum(1.0, wanted / rows)
    drawn = zip(parts.tolist(), np.where(scales > 0.0, scales, 1.0).tolist(), strict=True)
    return dict(zip(blocks, drawn, strict=True))


def _joined(parts: tuple[Rows, ...], n_features: int) -> Rows:
    if not parts:
        return Rows(np.empty((0, n_features)))
    weights = [part.weights for part in parts if part.weights is not None]
    values = np.concatenate([part.values for part in parts])
    return Rows(values, np.concatenate(weights) if weights else None)


def enough(sample: Sample, source: Source, size: int) -> bool:
    """Whether a sample that was to have `size` rows does for a start."""
    return not source.selects or sample.complete or len(sample.rows) >= _ENOUGH * size


def draw_enough(
    source: Source,
    backend: Backend,
    size: int,
    seed: int,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]] = lambda job: job,
) -> tuple[Sample, tuple[PassResult[Any], ...]]:
    """Draw about `size` rows; more blocks are read where too few of their rows have a weight.

    Who masks most of the data, all land or all sea, is to have as good a start as who leaves it
    out. Each draw reads up to eight times as much as the one before, at most everything, and that
    once more where the rows met last are but few of those that have a weight.

    Parameters
    ----------
    source : Source
    backend : Backend
    size, seed, wrap
        See `draw_sample`.

    Returns
    -------
    Sample
    tuple of PassResult
        What was read for it.

    Raises
    ------
    NonFiniteError
        A drawn row holds NaN or infinity.
    InputError
        There is no row, or none has a weight.
    """
    more = 1
    results: list[PassResult[Any]] = []
    while True:
        with backend.open(source, blocks=sample_blocks(source, size, more)) as passes:
            sample, result = draw_sample(passes, size, seed, wrap, more)
        results.append(result)
        found = len(sample.rows)
        if enough(sample, source, size):
            break
        times = -(-size // found) if found else _MOST_MORE
        # Once everything is read the part that has a weight is known; before it is a guess.
        more *= times if result.blocks == source.n_blocks else min(times, _MOST_MORE)
    if not found:
        if source.selects and source.n_rows != 0:
            raise nothing_left(source)
        raise InputError(
            f"Found array with 0 sample(s) (shape=(0, {source.n_features})) while a minimum of 1 "
            f"is required: {source.name} holds no rows in the {result.blocks} blocks that were "
            f"read."
        )
    if more > 1 and found >= 2 * size:  # those with a weight lie together, and much was met at once
        some = sample.rows.take(slice(None, None, found // size))
        sample = Sample(some, False, sample.stands_for)
    return sample, tuple(results)


def draw_sample(
    passes: Passes,
    size: int,
    seed: int,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]] = lambda job: job,
    more: int = 1,
) -> tuple[Sample, PassResult[Drawn]]:
    """Draw up to `size` rows from the blocks of a pass.

    Parameters
    ----------
    passes : Passes
        Over `sample_blocks(source, size, more)`.
    size : int
        Rows wanted; the sample may be up to one row a block larger.
    seed : int
        Keys the draw; unused when all rows are taken.
    wrap : callable
        Makes what runs on each block of the job that draws; to leave rows out, for example.
    more : int, default=1
        One in so many rows is expected to have a weight.

    Raises
    ------
    NonFiniteError
        A drawn row holds NaN or infinity.
    """
    blocks = tuple(passes.blocks)
    job = sample_job(passes.source, blocks, size, seed, more)
    result: PassResult[Drawn] = passes.run(wrap(job))
    return result.value.sample(passes.source, blocks), result


def sample_job(
    source: Source, blocks: Sequence[int], size: int, seed: int, more: int = 1
) -> SampleJob:
    """Return what draws a sample from some blocks; see `draw_sample`."""
    if source.n_rows is None:
        share, most = 1.0, max(1, -(-size * more // len(blocks)))
    else:
        held = sum(source.block(i).rows or 0 for i in blocks)
        share = min(1.0, size * more / held) if held else 1.0
        most = min(size, ceil(share * (source.max_block_rows or 1)))
    gaps = source.missing == "marginalize"
    shares = None if share == 1.0 else _shares(source, blocks, size * more)
    if shares is not None:
        most = max(ceil(part * (source.block(i).rows or 0)) for i, (part, _) in shares.items())
    return SampleJob(share, max(1, most), seed, source.n_features, gaps, shares)
