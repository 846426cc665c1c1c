"""What one block takes: its reading and its E-step, timed on one thread."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.data.buffers import ReadBuffers
from dask_gmm.data.object_reads import objects_of_block
from dask_gmm.data.stores import read_counter
from dask_gmm.execution.opened import Opened
from dask_gmm.execution.unit import working
from dask_gmm.fitting.gappy_starts import rows_to_start_from
from dask_gmm.fitting.passes import StatisticsJob
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.kernels import FASTEST, Candidate, MarginalKernel
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef, Source
    from dask_gmm.data.stores import ReadCount

__all__ = ["BlockTimes", "job_for", "time_block"]


@dataclass(frozen=True)
class BlockTimes:
    """What one block took.

    Attributes
    ----------
    rows : int
    read, compute : float
        Seconds on one thread: reading and decoding; the E-step with its statistics.
    asked : ReadCount
        Requests for values that a block took, and the bytes that came.
    asked_beside : ReadCount
        The same of its weights and mask.
    objects : int or None
        Stored objects that those values lie in.
    """

    rows: int
    read: float
    compute: float
    asked: ReadCount
    asked_beside: ReadCount
    objects: int | None


def job_for(source: Source, n_components: int, covariance: str, n_init: int = 1) -> StatisticsJob:
    """Return a pass's job with parameters of the right shapes, spread over the block's rows later.

    How long an E-step takes hardly depends on the values, as long as they are those of a mixture
    that has to do with the rows; `time_block` sees to that.
    """
    zeros = np.zeros((n_components, source.n_features))
    parameters = _parameters(zeros, np.ones(source.n_features), covariance)
    kernel = MarginalKernel(FASTEST) if source.missing == "marginalize" else FASTEST
    return StatisticsJob((Candidate(parameters),) * n_init, kernel)


def _parameters(
    means: NDArray[np.float64], variances: NDArray[np.float64], covariance: str
) -> MixtureParameters:
    family, (k, d) = covariance_family(covariance), means.shape
    if isinstance(family, FactorFamily):
        family.check(d)
        shape = family.form.covariance_shape(k, d)
        spread = np.broadcast_to(np.sqrt(variances)[:, None], shape).copy()
        spread[..., 0] = variances
        spread = family.nearest(np.full(k, 1 / k), spread, d)
        return MixtureParameters.create(family, np.full(k, 1 / k), means, spread)
    second, axes = np.zeros(family.form.second_moment_shape(k, d)), np.diag(np.sqrt(variances))
    for j in range(k):
        family.form.add_moment(second, j, family.form.component_moment(axes, axes))
    covariances = family.estimate(np.ones(k), np.zeros((k, d)), second, 0.0)
    return MixtureParameters.create(family, np.full(k, 1 / k), means, covariances)


def time_block(source: Source, index: int, job: StatisticsJob) -> BlockTimes:
    """Read a block and compute its statistics once, after a warming-up; on one thread."""
    # The first read of a process opens the store and imports the codecs. It must not be of
    # the block that is timed: a disk would answer the second time from memory.
    # It is the one before: weights that several blocks share are decoded for one of them.
    buffers = ReadBuffers()
    other = source.block((index or source.n_blocks) - 1)
    asked = _asked_for_values(source, other, buffers)
    before = read_counter()
    if source.weights is not None:
        source.weights.read(other, buffers)
    beside = read_counter() - before
    counts = asked, beside, objects_of_block(source, other)
    block = source.block(index)
    begun = time.perf_counter()
    rows = source.read_into(block, buffers.beside())
    read = time.perf_counter() - begun
    if not len(rows):
        return BlockTimes(rows.n_read, read, 0.0, *counts)
    p = job.candidates[0].parameters
    rng = np.random.default_rng(0)
    values = rows.values
    if source.missing == "marginalize":
        values = rows_to_start_from(rows.take(slice(100_000))).values
    chosen = rng.integers(0, len(values), p.n_components)
    sample = np.asarray(values[:100_000], dtype=np.float64)
    variances = np.var(sample, axis=0) / max(p.n_components, 1) + 1e-12
    means = np.asarray(values[chosen], dtype=np.float64)
    spread = _parameters(means, variances, p.family.name)
    job = replace(job, candidates=(Candidate(spread),) * len(job.candidates))
    with working(Opened(job.open)) as opened:
        opened(rows.take(slice(1024)), block)
        begun = time.perf_counter()
        opened(rows, block)
        compute = time.perf_counter() - begun
    return BlockTimes(rows.n_read, read, compute, *counts)


def _asked_for_values(source: Source, block: BlockRef, buffers: ReadBuffers) -> ReadCount:
    """Read a block without its weights; return what that asked the store for."""
    bare = source.unscaled
    if bare.weights is not None:
        bare = replace(bare, weights=None)  # type: ignore[type-var]
    before = read_counter()
    bare.read_into(block, buffers)
    return read_counter() - before
