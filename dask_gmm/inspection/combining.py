"""The reads that combine components into clusters: the entropy that each pair of them shares.

A block is looked at in tiles, of which the kernel says responsibilities. What a tile adds to the
gain of a pair of clusters comes from rows that both have a part in, and most pairs share few: which
ones do is one product of small matrices, and only of those logarithms are taken.
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
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

__all__ = ["Combined", "CombiningJob", "CombiningSums", "combine"]

#: What is less is in no digit of a sum: t log t of it is below 1e-14 nats.
_NOTHING = 2.0**-52
#: Of a pair that shares more rows of a tile than this part all rows are taken, without picking.
_MANY = 0.25
#: A row that has less of a third component says nothing of three clusters to a guess.
_THIRD = 2.0**-20
_TILE_ENTRIES, _FEWEST_ROWS, _MOST_ROWS = 2**16, 256, 4096
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
    def _n_nodes(self) -> int:
        return self.parameters.n_components + len(self.merges)

    @property
    def tile_rows(self) -> int:
        """Rows that are looked at together."""
        rows = _TILE_ENTRIES // max(self._n_nodes, self.parameters.n_features)
        return int(max(_FEWEST_ROWS, min(_MOST_ROWS, rows)))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        kept = self.most * (8 * self.parameters.n_features + BESIDE_BYTES)
        return int(8 * (len(self.pairs) + len(self.merges) + 4) + kept)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        p, t, n = self.parameters, self.tile_rows, self._n_nodes
        kernel = self.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        # Of each node its share, logarithms twice, whether it is there, as a number too.
        tile = t * (8 * (p.n_components + 3 * n + 2 * p.n_features + 12) + 5 * n)
        pairs = 16 * len(self.pairs) + 4 * n * n + n * p.n_components
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
        self._k, self._merges, self._pairs = job.parameters.n_components, job.merges, job.pairs
        self._held = nodes_of(job.merges, self._k)
        self.gains, self.merged = np.zeros(len(self._pairs)), np.zeros(len(job.merges))

    def add(self, posteriors: Floats, weights: Floats | None) -> None:
        """Add what some rows have, (t, K) and (t,)."""
        shares = np.empty((len(self._held), len(posteriors)))
        shares[: self._k] = posteriors.T
        for m, (a, b) in enumerate(self._merges.tolist()):
            np.add(shares[a], shares[b], out=shares[self._k + m])
        self._add_gains(shares, weights)
        if len(self._merges):
            self._add_merged(shares, weights)

    def _add_gains(self, shares: Floats, weights: Floats | None) -> None:
        there = shares >= _NOTHING
        own = np.maximum(shares, _TINY)
        np.log(own, out=own)
        own *= shares
        counts = there.astype(np.float32)
        together = counts @ counts.T  # whole numbers up to 2²⁴, so exact
        many = _MANY * shares.shape[1]
        a, b = self._pairs.T
        for p in np.flatnonzero(together[a, b]).tolist():
            i, j = self._pairs[p].tolist()
            if together[i, j] > many:
                both, alone, w = shares[i] + shares[j], own[i] + own[j], weights
            else:
                rows = np.flatnonzero(there[i] & there[j])
                both = shares[i, rows] + shares[j, rows]
                alone = own[i, rows] + own[j, rows]
                w = None if weights is None else weights[rows]
            terms = np.log(np.maximum(both, _TINY))
            terms *= both
            terms -= alone
            self.gains[p] += float(terms.sum() if w is None else w @ terms)

    def _add_merged(self, shares: Floats, weights: Floats | None) -> None:
        k = self._k
        labels, largest = shares[:k].argmax(axis=0), shares[:k].max(axis=0)
        certain = largest >= 0.5  # whatever else is merged, the label goes with the component
        counted = np.bincount(labels[certain], None if weights is None else weights[certain], k)
        self.merged += self._held[k:] @ counted
        (rest,) = np.nonzero(~certain)
        if not rest.size:
            return
        w = None if weights is None else weights[rest]
        alive, mine = list(range(k)), shares[:, rest]
        for m, (a, b) in enumerate(self._merges.tolist()):
            winners = np.array(alive)[mine[alive].argmax(axis=0)]
            self.merged[m] += _total((winners == a) | (winners == b), w)
            alive = [k + m if node == min(a, b) else node for node in alive if node != max(a, b)]


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
