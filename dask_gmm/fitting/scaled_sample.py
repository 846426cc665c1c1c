"""Where a scaling comes from: the sample that the start draws anyway, or all rows in the same read.

Rows are drawn as their transforms make them, and what is estimated from them is then applied to the
sample in memory. From all rows, each block gives its moments as well, and those blocks that the
sample is drawn from its rows: one read serves both.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.scaled_source import scaled
from dask_gmm.errors import FillValueWarning, MemoryPlanError, NonFiniteError
from dask_gmm.execution.machine import machine_memory
from dask_gmm.fitting.sampling import Drawn, Sample, draw_enough, enough, sample_blocks, sample_job
from dask_gmm.fitting.state import saved
from dask_gmm.rows import Rows
from dask_gmm.scaling.elementwise import Elementwise
from dask_gmm.scaling.estimate import FeatureMoments, estimated, estimated_from_rows
from dask_gmm.scaling.linear import Principal, Standard
from dask_gmm.scaling.scaling import Scaling, scaled_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.execution.backend import Backend, PassResult
    from dask_gmm.execution.jobs import BlockJob, OpenJob
    from dask_gmm.fitting.sampling import SampleRecipe
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.scaling import ScalingRequest

    Wrap = Callable[[BlockJob[Any]], BlockJob[Any]]

__all__ = ["DrawnRows", "draw_rows", "sample_reads", "scaled_block_bytes"]

for _cls in (Scaling, Elementwise, Standard, Principal):
    saved(_cls)

_CHECKED_AT_ONCE = 2**16
_COVARIANCES = 4  # that are held while principal components are found


def sample_reads(settings: FitSettings, source: Source, size: int) -> int:
    """Reads of all rows that a scaling takes: one if it is estimated from them all, else none."""
    request = settings.scaling
    if request is None or request.source != "all":
        return 0
    return 0 if source.n_rows is not None and source.n_rows <= size else 1


def scaled_block_bytes(source: Source, settings: FitSettings) -> int:
    """Bytes of the largest block, scaled or not."""
    if settings.scaling is None:
        return source.block_bytes
    size = scaled_dtype(source.dtype).itemsize
    return max(source.block_bytes, (source.max_block_rows or 0) * (source.n_features * size + 16))


@dataclass(frozen=True)
class DrawnRows:
    """A sample, scaled, with what it was scaled by and the reads that it took."""

    sample: Sample
    scaling: Scaling | None
    results: tuple[PassResult[Any], ...]


def draw_rows(
    source: Source,
    backend: Backend,
    recipe: SampleRecipe,
    settings: FitSettings,
    wrap: Wrap,
    scaling: Scaling | None = None,
    check: Callable[[Sample], None] = lambda _: None,
) -> DrawnRows:
    """Draw a sample and, unless there is one, estimate the scaling.

    Parameters
    ----------
    source : Source
        Of the rows as they are.
    backend : Backend
    recipe : SampleRecipe
    settings : FitSettings
    wrap : callable
        Makes of a job over all rows one over those trained on.
    scaling : Scaling, optional
        The one that the fit began with.
    check : callable
        Refuses a sample, before anything is estimated from it.

    Raises
    ------
    InputError
        Nothing can be drawn, or no such scaling be estimated.
    NonFiniteError
        A row holds NaN or infinity.
    """
    request = settings.scaling
    if request is None:
        sample, results = draw_enough(source, backend, recipe.size, recipe.seed, wrap)
        check(sample)
        return DrawnRows(sample, None, results)
    begun = request.begin(source.n_features, source.feature_names) if scaling is None else scaling
    rows = scaled(source, begun.without_estimates)
    _check_memory(request, source)
    moments = None
    if scaling is None and sample_reads(settings, source, recipe.size):
        sample, moments, results = _draw_with_moments(rows, backend, recipe, request, wrap)
    else:
        sample, results = draw_enough(rows, backend, recipe.size, recipe.seed, wrap)
    check(sample)
    if request.n_pca is not None:
        _warn_of_fill(rows, sample)
    if scaling is None:
        names = source.feature_names
        scaling = begun
        if moments is not None:
            scaling = estimated(begun, request, moments, rows.dtype, names)
        elif request.estimates:
            scaling = estimated_from_rows(begun, request, sample.rows, rows.dtype, names)
    return DrawnRows(_scaled_sample(sample, scaling), scaling, results)


def _scaled_sample(sample: Sample, scaling: Scaling) -> Sample:
    rows = sample.rows
    if scaling.estimated is None:
        return sample
    values = scaling.estimated.apply(rows.values)
    scaled_rows = Rows(values, rows.weights, complete=rows.complete)
    return Sample(scaled_rows, sample.complete, sample.stands_for)


def _check_memory(request: ScalingRequest, source: Source) -> None:
    """Refuse principal components of so many features that their covariances do not fit."""
    d, limit = source.n_features, machine_memory()
    needed = _COVARIANCES * 8 * d * d
    if request.n_pca is not None and needed > limit:
        raise MemoryPlanError(
            f"n_pca needs the covariances of {d:,} features, about {needed / 1e9:,.1f} GB in this "
            f"process, which has {limit / 1e9:,.1f} GB. Axis {source.feature_axis} of "
            f"{source.name} was taken for the features: give feature_axis if it is another one."
        )


def _warn_of_fill(source: Source, sample: Sample) -> None:
    """Warn of a fill value in the sample, which no pass sees once rows are projected."""
    fill = source.fill
    held = 0 if fill is None else int(fill.held_by(sample.rows.values).sum())
    if held:
        warnings.warn(
            f"{held:,} of {len(sample.rows):,} rows of the sample of {source.name} hold the "
            f"array's {fill.origin if fill else ''}, and no attribute says whether it stands for "
            f"missing values. They were taken for measurements. If they are none, make them NaN "
            f"by `{fill.code if fill else ''}`, and leave such rows out by missing='drop'.",
            FillValueWarning,
            stacklevel=2,
        )


def _draw_with_moments(
    source: Source, backend: Backend, recipe: SampleRecipe, request: ScalingRequest, wrap: Wrap
) -> tuple[Sample, FeatureMoments, tuple[PassResult[Any], ...]]:
    """Read all rows once for their moments, and draw the sample from some of the blocks."""
    blocks = sample_blocks(source, recipe.size)
    draw = sample_job(source, blocks, recipe.size, recipe.seed)
    job = MomentsJob(draw, frozenset(blocks), request.n_pca is not None, source.n_features)
    with backend.open(source) as passes:
        result: PassResult[_Looked] = passes.run(wrap(job))
    sample = result.value.drawn.sample(source, blocks)
    results: tuple[PassResult[Any], ...] = (result,)
    if not enough(sample, source, recipe.size) or not len(sample.rows):
        sample, more = draw_enough(source, backend, recipe.size, recipe.seed, wrap)
        results += more
    return sample, result.value.moments, results


@dataclass(frozen=True)
class _Looked:
    """What blocks gave: their moments, and rows for the sample."""

    moments: FeatureMoments
    drawn: Drawn

    def __add__(self, other: _Looked) -> _Looked:
        return _Looked(self.moments + other.moments, self.drawn + other.drawn)


@dataclass(frozen=True)
class MomentsJob:
    """What a task does with each block: take its moments, and draw rows from some.

    Attributes
    ----------
    draw : SampleJob
        Draws rows.
    blocks : frozenset of int
        From these.
    full : bool
        Whether moments are those between features too.
    n_features : int
    """

    draw: Any
    blocks: frozenset[int]
    full: bool
    n_features: int

    def open(self) -> OpenMomentsJob:
        """Open the draw."""
        return OpenMomentsJob(self, self.draw.open())

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns, at most."""
        moments = FeatureMoments.nbytes(self.n_features, full=self.full)
        return moments + int(self.draw.value_bytes)

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block and its result."""
        moments = FeatureMoments.workspace_bytes(self.n_features, full=self.full)
        return moments + int(self.draw.workspace_bytes)


@dataclass(frozen=True)
class OpenMomentsJob:
    """An open `MomentsJob`."""

    job: MomentsJob
    draw: OpenJob[Drawn]

    def __call__(self, rows: Rows, block: BlockRef) -> _Looked:
        """Return the block's moments, and the rows that are drawn from it.

        Raises
        ------
        NonFiniteError
        """
        self._check(rows)
        drawn = self.draw(rows, block) if block.index in self.job.blocks else Drawn((), 0)
        return _Looked(FeatureMoments.of(rows, full=self.job.full), drawn)

    def _check(self, rows: Rows) -> None:
        step = max(1, _CHECKED_AT_ONCE // max(1, self.job.n_features))
        for start in range(0, len(rows), step):
            tile = rows.values[start : start + step]
            if np.isfinite(tile).all():
                continue
            bad = np.isinf(tile) if self.job.draw.gaps else ~np.isfinite(tile)
            if bad.any():
                row, feature = (int(i) for i in np.argwhere(bad)[0])
                raise NonFiniteError(start + row, feature, float(tile[row, feature]))
