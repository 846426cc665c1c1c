"""k-means||: a start that has looked at every row (Bahmani et al., "Scalable k-means++", 2012).

A sample misses what is rare: a component of one row in ten thousand is not in it, and EM from a
start without it never finds it. k-means|| draws rows from *all* of the data, in a few rounds, with
a probability that grows as the square of the distance to the rows drawn so far, which is how the
rare and far are found. Weighted k-means on the few rows drawn then gives the centres.

Each round is one read of all blocks and draws exactly `OVERSAMPLING` · K rows without replacement,
by the keys log(u)/(w d²) of Efraimidis & Spirakis (2006): the largest keys of two sets of rows are
those of their union, so a round needs neither the sum of the distances nor a second read. u comes
from a generator keyed with (seed, round, restart, block): the same rows whoever reads them. A last
read gathers the moments of the rows nearest to each drawn row, so that weights and covariances of
the start are those of all rows too. Restarts, families and numbers of components share the reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.fitting.events import StartRead
from dask_gmm.fitting.kmeans_scaling import exponent_of
from dask_gmm.fitting.starts import cluster_weighted, spread_out
from dask_gmm.mixture.kernels.base import check_finite, checked_values
from dask_gmm.mixture.merging import group_components, take_components
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.execution.backend import Passes
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["READS", "ROUNDS", "DrawnPlaces", "draw_places"]

ROUNDS = 3
"""Rounds that draw; the paper finds that few are needed."""
READS = ROUNDS + 1
OVERSAMPLING = 2

_TILE_ROWS = 4096
_PURPOSE = 0x4B_50


@dataclass(frozen=True)
class DrawnPlaces:
    """The rows drawn for one restart, with the moments of the rows nearest to each.

    Attributes
    ----------
    moments : mapping of form to SufficientStatistics
        A component for each row drawn, about that row.
    """

    moments: dict[CovarianceForm, SufficientStatistics]

    def start(
        self,
        n_components: int,
        model: MixtureModel,
        random_state: np.random.RandomState,
    ) -> MixtureParameters:
        """Cluster the rows drawn and return the parameters of the clusters.

        Raises
        ------
        InputError
            Fewer different rows were drawn than components are wanted.
        CollapsedComponentError
            A cluster has no covariance.
        """
        moments = self.moments[model.family.form]
        held = np.flatnonzero(moments.counts > 0.0)  # a row drawn twice is nearest to none once
        if len(held) < n_components:
            raise InputError(
                f"k-means|| found {len(held)} different row(s), too few for {n_components} "
                f"components: use fewer components."
            )
        moments = take_components(moments, held.tolist())
        labels, centres = cluster_weighted(
            moments.reference, moments.counts, n_components, random_state
        )
        with np.errstate(over="ignore", invalid="ignore"):  # `update` says whose squares overflow
            return model.update(group_components(moments, labels, centres))


def draw_places(
    passes: Passes,
    sample: Rows,
    *,
    n_components: int,
    forms: Sequence[CovarianceForm],
    n_init: int,
    random_state: np.random.RandomState,
    notify: Observer,
    wrap: Callable[[BlockJob[Any]], BlockJob[Any]] = lambda job: job,
) -> list[DrawnPlaces]:
    """Run the rounds: `READS` passes.

    Parameters
    ----------
    passes : Passes
        Over all blocks of the source.
    sample : Rows
        Rows in memory; k-means++ chooses the first K places among them.
    n_components : int
        K; the largest, where starts of several sizes are wanted.
    forms : sequence of CovarianceForm
        Of the second moments to gather.
    n_init : int
        Restarts, each with places of its own.
    random_state : numpy.random.RandomState
    notify : Observer
    wrap : callable
        Makes what runs on each block of a job; to leave rows out, for example.
    """
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    places = [
        np.asarray(spread_out(sample, n_components, random_state), dtype=np.float64)
        for _ in range(n_init)
    ]

    def read(job: BlockJob[Any], number: int) -> Any:
        result = passes.run(wrap(job))
        notify(
            StartRead(
                number=number,
                reads=READS,
                places=sum(len(p) for p in places),
                rows=result.rows,
                blocks=result.blocks,
                bytes_read=result.bytes_read,
                seconds=result.seconds,
            )
        )
        return result.value

    for number in range(1, ROUNDS + 1):
        size, block_rows = OVERSAMPLING * n_components, passes.source.max_block_rows or 0
        found = read(_DrawJob(tuple(places), size, seed, number, block_rows), number)
        places = [
            np.concatenate([p, drawn.rows]) for p, drawn in zip(places, found.parts, strict=True)
        ]
    moments = read(_MomentsJob(tuple(places), tuple(forms)), READS).parts
    return [DrawnPlaces(dict(zip(forms, one.parts, strict=True))) for one in moments]


@dataclass(frozen=True)
class _Drawn:
    """The rows with the largest keys, largest first, and where they lie."""

    size: int
    keys: Array
    blocks: NDArray[np.int64]
    index: NDArray[np.int64]
    rows: Array

    def __add__(self, other: _Drawn) -> _Drawn:
        keys, blocks, index, rows = (
            np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("keys", "blocks", "index", "rows")
        )
        order = np.lexsort((index, blocks, -keys))[: self.size]
        return _Drawn(self.size, keys[order], blocks[order], index[order], rows[order])


@dataclass(frozen=True)
class _Parts:
    """Something for each restart; `+` adds them one by one."""

    parts: tuple[Any, ...]

    def __add__(self, other: _Parts) -> _Parts:
        return _Parts(tuple(a + b for a, b in zip(self.parts, other.parts, strict=True)))


@dataclass(frozen=True)
class _DrawJob:
    """A round's draw from each block, for every restart."""

    places: tuple[Array, ...]
    size: int
    seed: int
    round: int
    block_rows: int

    def open(self) -> Self:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Rows, block: BlockRef) -> _Parts:
        """Return the rows with the largest keys."""
        values = checked_values(rows.values, self.places[0].shape[1])
        drawn = []
        for restart, places in enumerate(self.places):
            key = (_PURPOSE, self.seed, self.round, restart, block.index)
            logs = np.log1p(-np.random.default_rng(key).random(len(values)))
            keys = np.full(len(values), -np.inf)
            with np.errstate(over="ignore", invalid="ignore"):  # a key of −∞ is never drawn
                for where, squares, _ in _nearest(values, places):
                    far = squares > 0.0
                    costs = squares if rows.weights is None else squares * rows.weights[where]
                    keys[where][far] = logs[where][far] / costs[far]
            chosen = np.lexsort((-keys,))[: self.size]
            chosen = chosen[np.isfinite(keys[chosen])]
            drawn.append(
                _Drawn(
                    self.size,
                    keys[chosen],
                    np.full(len(chosen), block.index),
                    chosen.astype(np.int64),
                    np.asarray(values[chosen], dtype=np.float64),
                )
            )
        return _Parts(tuple(drawn))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return len(self.places) * self.size * 8 * (3 + int(self.places[0].shape[1]))

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block: the rows' keys, with what sorting them takes."""
        return _tile_bytes(self.places) + 48 * self.block_rows


@dataclass(frozen=True)
class _MomentsJob:
    """The moments of the rows nearest to each place, for every restart and form."""

    places: tuple[Array, ...]
    forms: tuple[CovarianceForm, ...]

    def open(self) -> Self:
        """Nothing to prepare."""
        return self

    def __call__(self, rows: Rows, block: BlockRef) -> _Parts:
        """Return statistics about the places, a `_Parts` of forms for each restart."""
        values = checked_values(rows.values, self.places[0].shape[1])
        with np.errstate(over="ignore", invalid="ignore"):  # the start says whose squares overflow
            return _Parts(
                tuple(self._moments(values, rows.weights, places) for places in self.places)
            )

    def _moments(self, values: NDArray[Any], weights: Array | None, places: Array) -> _Parts:
        m, d = places.shape
        counts, first = np.zeros(m), np.zeros((m, d))
        seconds = [np.zeros(form.second_moment_shape(m, d)) for form in self.forms]
        for where, _, labels in _nearest(values, places):
            offsets = values[where].astype(np.float64) - places[labels]
            own = None if weights is None else weights[where]
            counts += np.bincount(labels, own, minlength=m)
            weighted = offsets if own is None else offsets * own[:, None]
            np.add.at(first, labels, weighted)
            for j in np.unique(labels).tolist():
                mine = labels == j
                left, right = weighted[mine], offsets[mine]
                for form, second in zip(self.forms, seconds, strict=True):
                    form.add_moment(second, j, form.component_moment(left, right))
        return _Parts(
            tuple(
                SufficientStatistics.create(
                    form,
                    places,
                    rows=len(values),
                    weight=len(values) if weights is None else float(weights.sum()),
                    log_likelihood=0.0,
                    counts=counts,
                    first=first,
                    second=second,
                )
                for form, second in zip(self.forms, seconds, strict=True)
            )
        )

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        m, d = sum(len(p) for p in self.places), int(self.places[0].shape[1])
        moments = sum(int(np.prod(f.second_moment_shape(m, d))) for f in self.forms)
        return 8 * (moments + len(self.forms) * (m + 2 * m * d))

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        return _tile_bytes(self.places) + self.value_bytes


def _tile_bytes(places: tuple[Array, ...]) -> int:
    m, d = max(len(p) for p in places), int(places[0].shape[1])
    return 8 * (_TILE_ROWS * (2 * m + 4 * d + 8) + 2 * m * d)


def _nearest(
    values: NDArray[Any], places: Array
) -> Iterator[tuple[slice, Array, NDArray[np.intp]]]:
    """Tile by tile, each row's squared distance to the nearest place, and which one that is.

    The distances are in units in which their squares are neither too large nor too small.
    """
    middle = places.mean(axis=0)
    centred = places - middle
    exponent = exponent_of(centred)
    centred = np.ldexp(centred, -exponent)
    squares = np.vecdot(centred, centred)
    for start in range(0, len(values), _TILE_ROWS):
        where = slice(start, min(start + _TILE_ROWS, len(values)))
        check_finite(values[where], start)
        x = values[where].astype(np.float64) - middle
        if exponent:
            np.ldexp(x, -exponent, out=x)
        labels = np.argmin(squares - 2.0 * (x @ centred.T), axis=1)
        # From the differences: a row that is a place must be at a distance of nothing at all.
        x -= centred[labels]
        yield where, np.vecdot(x, x), labels
