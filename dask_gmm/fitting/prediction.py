"""What a task does with a block when a fitted mixture is applied to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.kernels import get_kernel

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.sink import BlockWriter
    from dask_gmm.data.source import BlockRef
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

__all__ = ["Labels", "LogDensities", "Posteriors", "RowFunction", "WriteJob", "Written"]


@dataclass(frozen=True)
class RowFunction(ABC):
    """Something computed for each row of a block, with nothing shared between rows.

    Attributes
    ----------
    parameters : MixtureParameters
        The fitted mixture.
    kernel : str
        What computes it.
    dtype : dtype
        Type of the values.
    """

    parameters: MixtureParameters
    kernel: str = "auto"
    dtype: DTypeLike = np.float64

    def __call__(self, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return one value, or K values, for each of the (n, D) rows."""
        return self._values(get_kernel(self.kernel), rows).astype(self.dtype, copy=False)

    @abstractmethod
    def _values(self, kernel: Kernel, rows: NDArray[np.generic]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Labels(RowFunction):
    """The index of the most probable component; (n,) of `dtype`."""

    dtype: DTypeLike = np.int64

    def _values(self, kernel: Kernel, rows: NDArray[np.generic]) -> NDArray[Any]:
        return kernel.labels(rows, self.parameters)


@dataclass(frozen=True)
class Posteriors(RowFunction):
    """The responsibilities r_nk, which add up to one in each row; (n, K) of `dtype`."""

    def _values(self, kernel: Kernel, rows: NDArray[np.generic]) -> NDArray[Any]:
        return kernel.posteriors(rows, self.parameters)


@dataclass(frozen=True)
class LogDensities(RowFunction):
    """log p(x_n), in nats; (n,) of `dtype`."""

    def _values(self, kernel: Kernel, rows: NDArray[np.generic]) -> NDArray[Any]:
        return kernel.log_densities(rows, self.parameters)


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
    """

    function: RowFunction
    writer: BlockWriter
    output_bytes: int

    def __call__(self, rows: Rows, block: BlockRef) -> Written:
        """Write the block's values and return how many rows they belong to."""
        self.writer.write(block, self.function(rows.values))
        return Written(len(rows))

    @property
    def value_bytes(self) -> int:
        """Bytes of what one call returns."""
        return 8

    @property
    def workspace_bytes(self) -> int:
        """Bytes one call needs besides the block: the kernel's tiles and the block of output."""
        p = self.function.parameters
        kernel = get_kernel(self.function.kernel)
        tiles = kernel.workspace_bytes(p.n_features, [p.n_components], [p.form])
        return p.nbytes + tiles + 2 * self.output_bytes
