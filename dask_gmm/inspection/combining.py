"""The reads that combine components into clusters: the entropy that each pair of them shares.

A block is looked at in tiles, of which the kernel says responsibilities. What a tile adds to the
gain of a pair of clusters comes from rows that both have a part in: for each cluster those rows are
taken that it has some of, and not all, and logarithms of these alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import RowError
from dask_gmm.fitting.keyed import keys_of
from dask_gmm.inspection.kept import BESIDE_BYTES, Keeping, KeptRows
from dask_gmm.mixture.combining import (
    KnownGains,
    entropies_along,
    first_pairs,
    greedy_merges,
    nodes_of,
    pairs_along,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Combined", "CombiningJob", "CombiningSums", "combine"]

#: A part that is less, or lacks less to be all, is none: a gain from it is below 2.1e-8 nats.
_NOTHING = 2.0**-30
#: Where fewer pairs than that of a row and a cluster are something these alone are taken.
_FEW = 0.3
#: A row that has less of a third component says nothing of three clusters to a guess.
_THIRD = 2.0**-20
_TILE_ENTRIES, _FEWEST_ROWS, _MOST_ROWS = 2**17, 256, 8192
_SAMPLE_ROWS, _SAMPLE_BYTES = 4096, 2 * 2**20
_KEYS, _PART = 2.0**64, 16.0  # of the rows so many times as many as are kept may be
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class CombiningSums:
    """Sums over some rows.

    Attributes
    ----------
    rows : int
    weight : float
        Σ w_n.
    several : float
        Σ w_n of the rows that three components or more have a part in.
    gains : (P,) float64
        Of the job's pairs, in nats.
    merged : (M,) float64
        Σ w_n of the rows that are labelled as one of the two clusters which each merge joins, just
        before it.
    sample : KeptRows or None
        Of the rows that three components or more have a part in.
    """

    rows: int
    weight: float
    several: float
    gains: Floats
    merged: Floats
    sample: KeptRows | None

    def __add__(self, other: CombiningSums) -> CombiningSums:
        def both(name: str) -> Any:
            one = getattr(self, name)
            return None if one is None else one + getattr(other, name)

        return CombiningSums(**{f.name: both(f.name) for f in fields(self)})


@dataclass(frozen=True, eq=False)
class CombiningJob:
    """What a task does with each block to combine components.

    Attributes
    ----------
    parameters : MixtureParameters
        Of the rows that the source has.
    kernel : Kernel
    merges : (M, 2) int64
        The hierarchy along which pairs are looked at; none in the first read, which looks at the
        pairs of components and keeps a sample.
    most : int
        Rows of the sample.
    below : int or None
        Only rows of keys below it may be in the sample, where it is known how many rows there are.
    """

    parameters: MixtureParameters
    kernel: Kernel
    merges: Integers
    most: int = 0
    below: int | None = None

    @classmethod
    def first(cls, parameters: MixtureParameters, kernel: Kernel, source: Source) -> CombiningJob:
        """The job of the first read of a source."""
        none = np.empty((0, 2), dtype=np.int64)
        if parameters.n_components < 3:  # nothing is left to guess
            return cls(parameters, kernel, none)
        most = _SAMPLE_BYTES // (8 * parameters.n_features + BESIDE_BYTES)
        most = max(1, min(_SAMPLE_ROWS, most))
        n = None if source.selects else source.n_rows
        part = _PART * most / n if n else 1.0
        return cls(parameters, kernel, none, most, int(part * _KEYS) if part < 1.0 else None)

    @property
    def pairs(self) -> Integers:
        """The pairs of nodes whose gains are added up, (P, 2)."""
        k = self.parameters.n_components
        return pairs_along(self.merges, k) if len(self.merges) else first_pairs(k)

    def open(self) -> OpenCombiningJob:
        """Prepare the kernel for the mixture."""
        return OpenCombiningJob(self, self.kernel.predictor(self.parameters))

    @property
    def tile_rows(self) -> int:
        """Rows that are looked at together."""
        rows = _TILE_ENTRIES // max(self.parameters.means.shape)
        return int(max(_FEWEST_ROWS, min(_MOST_ROWS, rows)))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        kept = self.most * (8 * self.parameters.n_features + BESIDE_BYTES)
        return int(8 * (len(self.pairs) + len(self.merges) + 4) + kept)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        p, t, k = self.parameters, self.tile_rows, self.parameters.n_components
        kernel = self.kernel.workspace_bytes(p.n_features, [k], [p.form])
        # Responsibilities, a copy and logarithms of them, those of pairs three times, and of the
        # nodes where nothing is certain.
        tile = 8 * t * (6 * k + k + len(self.merges) + 2 * p.n_features + 16)
        pairs = 16 * len(self.pairs) + 9 * k * (k + len(self.merges))
        return int(kernel + p.nbytes + tile + pairs + 72 * (3 * self.most + 2 * t))


@dataclass(frozen=True, eq=False)
class OpenCombiningJob:
    """A `CombiningJob` with its kernel prepared."""

    job: CombiningJob
    predictor: Predictor

    def __call__(self, rows: Rows, block: BlockRef) -> CombiningSums:
        """Return the sums of a block."""
        job = self.job
        found = _BlockSums(job)
        highest = int(_KEYS) - 1  # the key of rows that are not to be kept
        kept = Keeping(job.most, np.uint64, highest if job.below is None else job.below)
        weight = several = 0.0
        for start in range(0, len(rows), job.tile_rows):
            values = rows.values[start : start + job.tile_rows]
            weights = None if rows.weights is None else rows.weights[start : start + len(values)]
            try:
                posteriors = self.predictor.posteriors(values)
            except RowError as error:  # which knows the place in the tile
                raise error.after(start) from None
            weight += len(values) if weights is None else float(weights.sum())
            if job.most:
                chosen = np.count_nonzero(posteriors >= _THIRD, axis=1) > 2
                several += _total(chosen, weights)
                places = np.arange(start, start + len(values))
                places = places if rows.places is None else rows.places[places]
                keys = np.where(chosen, keys_of(block.index, places), np.uint64(highest))
                kept.add(start, keys, np.zeros(len(values), np.intp))
            found.add(posteriors, weights)
        sample = kept.kept(rows, block.index) if job.most else None
        return CombiningSums(len(rows), weight, several, found.gains, found.merged, sample)


def _total(chosen: NDArray[np.bool_], weights: Floats | None) -> float:
    """Σ w_n of some rows."""
    return float(np.count_nonzero(chosen)) if weights is None else float(weights @ chosen)


class _BlockSums:
    """The gains and the merged rows of a block, to which tiles are added one after another."""

    def __init__(self, job: CombiningJob) -> None:
        self._k, self._merges = job.parameters.n_components, job.merges
        self._held = nodes_of(job.merges, self._k)
        self.gains, self.merged = np.zeros(len(job.pairs)), np.zeros(len(job.merges))

    def add(self, posteriors: Floats, weights: Floats | None) -> None:
        """Add what some rows have, (t, K) and (t,)."""
        largest = posteriors.max(axis=1)
        if len(self._merges):
            self._add_merged(posteriors, largest, weights)
        (shared,) = np.nonzero(largest <= 1.0 - _NOTHING)  # of others no pair gains anything
        if not shared.size:
            return
        shares = posteriors[shared].astype(np.float64, copy=False)
        own = weights if weights is None else weights[shared]
        found = (self._along if len(self._merges) else self._of_pairs)(shares, own)
        start = 0
        for gains in found:
            self.gains[start : start + len(gains)] += gains
            start += len(gains)

    def _of_pairs(self, shares: Floats, weights: Floats | None) -> Iterator[Floats]:
        """Yield the gains of each component with those behind it, as `first_pairs` has them."""
        logs = _times_log(shares)
        for k in range(self._k - 1):
            yield _gains(shares[:, k:], logs[:, k:], 0, weights)[1:]

    def _along(self, shares: Floats, weights: Floats | None) -> Iterator[Floats]:
        """Yield the gains of each new cluster with those beside it, as `pairs_along` has them.

        A cluster takes the column of its first part. That of the other is zero, which gains
        nothing, until half of them are, and those that are left move together.
        """
        logs = _times_log(shares)
        alive, column = list(range(self._k)), list(range(self._k + len(self._merges)))
        for m, (a, b) in enumerate(self._merges.tolist()):
            place, gone = column[a], column[b]
            shares[:, place] += shares[:, gone]
            logs[:, place] = _times_log(shares[:, place])
            shares[:, gone] = logs[:, gone] = 0.0
            column[self._k + m] = place
            alive = [node for node in alive if node not in (a, b)]
            yield _gains(shares, logs, place, weights)[[column[node] for node in alive]]
            alive.append(self._k + m)
            if 2 * len(alive) <= shares.shape[1]:
                left = [column[node] for node in alive]
                shares, logs = shares[:, left], logs[:, left]
                for place, node in enumerate(alive):
                    column[node] = place

    def _add_merged(self, posteriors: Floats, largest: Floats, weights: Floats | None) -> None:
        k = self._k
        labels = posteriors.argmax(axis=1)
        certain = largest >= 0.5  # whatever else is merged, the label goes with the component
        counted = np.bincount(labels[certain], None if weights is None else weights[certain], k)
        self.merged += self._held[k:] @ counted
        (rest,) = np.nonzero(~certain)
        if not rest.size:
            return
        w = None if weights is None else weights[rest]
        shares = posteriors[rest] @ self._held.T.astype(np.float64)
        alive = list(range(k))
        for m, (a, b) in enumerate(self._merges.tolist()):
            winners = np.array(alive)[shares[:, alive].argmax(axis=1)]
            self.merged[m] += _total((winners == a) | (winners == b), w)
            alive = [k + m if node == min(a, b) else node for node in alive if node != max(a, b)]


def _gains(shares: Floats, logs: Floats, one: int, weights: Floats | None) -> Floats:
    """The gains of a cluster with each, from the rows that it has a part in; with itself nothing.

    Parameters
    ----------
    shares, logs : (t, C) float64
        t and t log t.
    one : int
    weights : (t,) float64 or None

    Returns
    -------
    (C,) float64
    """
    mine = shares[:, one]
    (rows,) = np.nonzero((mine >= _NOTHING) & (mine <= 1.0 - _NOTHING))
    if not rows.size:
        return np.zeros(shares.shape[1])
    both, own = shares[rows], logs[rows, one]
    there = both >= _NOTHING
    if np.count_nonzero(there) < _FEW * there.size:
        row, column = np.nonzero(there)
        terms = both[row, column] + mine[rows][row]
        terms *= np.log(terms)
        terms -= logs[rows[row], column]
        terms -= own[row]
        if weights is not None:
            terms *= weights[rows[row]]
        sums: Any = np.bincount(column, terms, shares.shape[1])
        few: Floats = sums
        return few
    both += mine[rows, None]
    terms = np.log(both)
    terms *= both
    terms -= logs[rows]
    terms -= own[:, None]
    found: Floats = (np.ones(rows.size) if weights is None else weights[rows]) @ terms
    return found


def _times_log(values: Floats) -> Floats:
    """Return t log t, 0 at 0."""
    found = np.maximum(values, _TINY)
    np.log(found, out=found)
    found *= values
    return found


@dataclass(frozen=True, eq=False)
class Combined:
    """A hierarchy of clusters, and what it is worth over all rows.

    Attributes
    ----------
    merges : (K − 1, 2) int64
        Nodes: the components, and K + m for what merge m makes.
    gains : (K − 1,) float64
        By which each merge lowers the entropy, in nats.
    merged : (K − 1,) float64
        Σ w_n of the rows labelled as one of the two clusters that each merge joins.
    n_greedy : int
        The number of first merges of which each is the best of all pairs, over all rows.
    n_rows : int
    weight : float
    n_passes : int
        Reads that it took.
    """

    merges: Integers
    gains: Floats
    merged: Floats
    n_greedy: int
    n_rows: int
    weight: float
    n_passes: int

    @property
    def entropies(self) -> Floats:
        """The entropy of 1 ... K clusters, (K,), in nats."""
        return entropies_along(self.gains)


def combine(
    first: CombiningJob,
    run: Callable[[CombiningJob], CombiningSums],
    max_passes: int,
) -> Combined:
    """Merge components by the largest gain, over all rows, in few reads.

    Parameters
    ----------
    first : CombiningJob
        That of the first read.
    run : callable
        Reads all rows.
    max_passes : int
        Most reads, 2 at least. Where they do not suffice to confirm the hierarchy, its last merges
        are a sample's choice, along which entropies are those of all rows all the same.
    """
    p, k = first.parameters, first.parameters.n_components
    known, seen = KnownGains(k), run(first)
    known.add(first.pairs, seen.gains, first.merges)
    posteriors, weights = _sampled(first, seen)
    merges, gains, certain = greedy_merges(known, posteriors, weights)
    passes, merged, walked = 1, np.full(min(k - 1, 1), seen.weight), first.merges
    if k < 3:
        return Combined(merges, gains, merged, certain, seen.rows, seen.weight, passes)
    while passes < max_passes and not np.array_equal(merges, walked):
        job = CombiningJob(p, first.kernel, merges)
        told = run(job)
        known.add(job.pairs, told.gains, merges)
        passes, merged, walked = passes + 1, told.merged, merges
        merges, gains, certain = greedy_merges(known, posteriors, weights)
    if not np.array_equal(merges, walked):
        # The last read was along another way: what it has told of that is exact.
        same = (merges == walked).all(axis=1)
        certain = int(np.argmin(same))
        merges, gains = walked, _gains_along(known, walked, k)
    return Combined(merges, gains, merged, certain, seen.rows, seen.weight, passes)


def _gains_along(known: KnownGains, merges: Integers, n_components: int) -> Floats:
    bits = [
        sum(1 << int(c) for c in np.flatnonzero(node)) for node in nodes_of(merges, n_components)
    ]
    found = [known.get(bits[a], bits[b]) for a, b in merges.tolist()]
    return np.array(found, dtype=np.float64)


def _sampled(job: CombiningJob, seen: CombiningSums) -> tuple[Floats, Floats]:
    """Responsibilities of the sample's rows, and how many rows each stands for."""
    sample = seen.sample
    if sample is None or not len(sample):
        return np.empty((0, job.parameters.n_components)), np.empty(0)
    posteriors = job.kernel.predictor(job.parameters).posteriors(sample.values)
    total = float(sample.weights.sum())
    return posteriors.astype(np.float64, copy=False), sample.weights * (seen.several / total)
