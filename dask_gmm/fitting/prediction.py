"""What a task does with a block when a fitted mixture is applied to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.data.missing import in_their_places, no_label
from dask_gmm.execution.opened import Opened
from dask_gmm.mixture.kernels import FASTEST
from dask_gmm.mixture.low_rank import expected_factors

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.output_fields import FieldsWriter, OpenFieldsWriter
    from dask_gmm.data.sink import BlockWriter, OpenBlockWriter
    from dask_gmm.data.source import BlockRef
    from dask_gmm.data.tables.writer import OpenTableWriter, TableWriter
    from dask_gmm.mixture.kernels import Kernel, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows
    from dask_gmm.scaling import Scaling

__all__ = [
    "FactorScores",
    "Labels",
    "LogDensities",
    "Posteriors",
    "RowFunction",
    "SharedRowFunction",
    "UnscaledLogDensities",
    "WriteJob",
    "Written",
    "unscaled_log_densities",
]


_AT_ONCE = 256


@dataclass(frozen=True)
class RowFunction(ABC):
    """Something computed for each row of a block, with nothing shared between rows.

    Attributes
    ----------
    parameters : MixtureParameters
        The fitted mixture.
    kernel : Kernel
        What computes it.
    dtype : dtype
        Type of the values.
    """

    parameters: MixtureParameters
    kernel: Kernel = FASTEST
    dtype: DTypeLike = np.float64

    def open(self) -> OpenRowFunction:
        """Prepare the kernel for the mixture."""
        return OpenRowFunction(self, self.kernel.predictor(self.parameters))

    @property
    def absent(self) -> float:
        """The value of a row that takes no part, which has none: NaN."""
        return float("nan")

    @property
    def n_outputs(self) -> int | None:
        """How many values there are of each row; None for one, without an axis of its own."""
        return None

    @property
    def known_by(self) -> str:
        """What tells the mixture, and what is asked of it, from others, for outputs to go on."""
        return self.parameters.fingerprint

    @abstractmethod
    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return what the predictor says of the rows."""

    def values_at(
        self, predictor: Predictor, rows: NDArray[np.generic], block: BlockRef
    ) -> NDArray[Any]:
        """Return what the predictor says of the rows of a block, wherever that lies."""
        return self.values(predictor, rows)

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for so many rows, besides what it returns and what its kernel needs."""
        return 0


@dataclass(frozen=True)
class OpenRowFunction:
    """A `RowFunction` with its kernel prepared; one thread's at a time."""

    function: RowFunction
    predictor: Predictor

    def __call__(self, rows: NDArray[np.generic], block: BlockRef | None = None) -> NDArray[Any]:
        """Return one value, or K values, for each of the (n, D) rows of a block."""
        if block is None:
            values = self.function.values(self.predictor, rows)
        else:
            values = self.function.values_at(self.predictor, rows, block)
        return values.astype(self.function.dtype, copy=False)


class SharedRowFunction:
    """A `RowFunction` for the tasks of a graph, which any thread may call.

    It holds what they open of it, and a copy or a pickle is without.

    Parameters
    ----------
    function : RowFunction
    """

    def __init__(self, function: RowFunction) -> None:
        self._function = function
        self._opened: Opened[OpenRowFunction] = Opened(function.open)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._function,)

    def __dask_tokenize__(self) -> object:
        return type(self), self._function

    def __call__(self, rows: NDArray[np.generic], block: BlockRef | None = None) -> NDArray[Any]:
        """Return one value, or K values, for each of the (n, D) rows of a block."""
        with self._opened.one() as function:
            return function(rows, block)


@dataclass(frozen=True)
class Labels(RowFunction):
    """The index of the most probable component; (n,) of `dtype`."""

    dtype: DTypeLike = np.int64

    @property
    def absent(self) -> int:
        """What stands for no label."""
        return no_label(self.dtype)

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the labels."""
        return predictor.labels(rows)


@dataclass(frozen=True)
class Posteriors(RowFunction):
    """The responsibilities r_nk, which add up to one in each row; (n, K) of `dtype`."""

    @property
    def n_outputs(self) -> int:
        """K."""
        return self.parameters.n_components

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the responsibilities."""
        return predictor.posteriors(rows)


@dataclass(frozen=True)
class FactorScores(RowFunction):
    """E[z | x_n, k] of the most probable component k, which is β_k (x_n − μ_k); (n, q) of `dtype`.

    Of mixtures of factor analysers (`mixture.factors`).
    """

    @property
    def n_outputs(self) -> int:
        """Numbers of each row: q."""
        return int(self.parameters.precisions_cholesky.shape[2]) - 1

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the expected factors."""
        p, labels = self.parameters, predictor.labels(rows)
        found = np.empty((len(rows), p.precisions_cholesky.shape[2] - 1))
        for k, factor in enumerate(p.precisions_cholesky):
            beta = expected_factors(factor)
            mine = np.flatnonzero(labels == k)
            for start in range(0, len(mine), _AT_ONCE):
                part = mine[start : start + _AT_ONCE]
                found[part] = (rows[part].astype(np.float64) - p.means[k]) @ beta
        return found

    def workspace_bytes(self, n_rows: int) -> int:
        """The labels, which rows have one, and rows as differences, some at a time."""
        d = self.parameters.n_features
        return 8 * (
            3 * n_rows + 3 * _AT_ONCE * d + int(self.parameters.precisions_cholesky[0].size)
        )


@dataclass(frozen=True)
class LogDensities(RowFunction):
    """log p(x_n), in nats; (n,) of `dtype`."""

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the log-densities."""
        return predictor.log_densities(rows)


@dataclass(frozen=True)
class UnscaledLogDensities(RowFunction):
    """log p(x_n) of rows as they are, where the mixture is one of scaled rows; (n,) of `dtype`.

    Attributes
    ----------
    scaling : Scaling
    """

    scaling: Scaling | None = None

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the scaled rows' log-densities and log |dz/dx|."""
        return unscaled_log_densities(predictor, self.scaling, rows)


def unscaled_log_densities(
    predictor: Predictor, scaling: Scaling | None, rows: NDArray[Any]
) -> NDArray[np.float64]:
    """Return log-densities of rows as they are: of scaled ones, and what scaling does to volumes.

    Raises
    ------
    InputError
        The scaling leaves something of the rows out.
    """
    if scaling is None:
        return predictor.log_densities(rows)
    return predictor.log_densities(scaling.apply(rows)) + scaling.log_jacobian(rows)


@dataclass(frozen=True)
class Written:
    """How much has been written."""

    rows: int

    def __add__(self, other: Written) -> Written:
        return Written(self.rows + other.rows)


@dataclass(frozen=True)
class WriteJob:
    """Apply a function to each block and write what it returns to the block's place in a sink.

    Writing a block twice writes the same bytes twice: a retry is harmless.

    Attributes
    ----------
    function : RowFunction
    writer : BlockWriter, FieldsWriter or TableWriter
    output_bytes, n_rows : int
        Of the largest block.
    """

    function: RowFunction
    writer: BlockWriter | FieldsWriter | TableWriter
    output_bytes: int
    n_rows: int = 0

    def open(self) -> OpenWriteJob:
        """Open the function and the output."""
        return OpenWriteJob(self.function.open(), self.writer.open())

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return 8

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block: the kernel's tiles and the block of output."""
        p = self.function.parameters
        tiles = self.function.kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        own = self.function.workspace_bytes(self.n_rows)
        return p.nbytes + tiles + own + 2 * self.output_bytes


@dataclass(frozen=True)
class OpenWriteJob:
    """A `WriteJob` with its function and its output open."""

    function: OpenRowFunction
    writer: OpenBlockWriter | OpenFieldsWriter | OpenTableWriter

    def __call__(self, rows: Rows, block: BlockRef) -> Written:
        """Write the block's values and return how many rows they belong to."""
        values = in_their_places(
            self.function(rows.values, block), rows, self.function.function.absent
        )
        self.writer.write(block, values)
        return Written(rows.n_read)
