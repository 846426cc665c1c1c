"""What every kernel is: rows and candidates in, sufficient statistics out.

A kernel is a value: equal to another that computes alike, and small in a pickle. What it prepares
for some candidates (packed parameters, buffers, memory of a device) is an object of its own, an
`EStep` or a `Predictor`, which one thread at a time calls with block after block, and which goes
with whoever holds it. None keeps anything of the rows between two calls; each takes a block's rows
once per call whatever number of candidates there are, and holds no array with as many entries as
rows times components (unless that is the answer, as of `Predictor.posteriors`). The laws that all
kernels obey are in `tests/conformance/test_kernels.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError, NonFiniteError
from dask_gmm.mixture.form import FORMS
from dask_gmm.mixture.parameters import MixtureParameters, frozen_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.statistics import SufficientStatistics
    from dask_gmm.rows import Rows

__all__ = [
    "Candidate",
    "EStep",
    "Kernel",
    "Predictor",
    "beyond_range",
    "check_finite",
    "checked_values",
    "possible_forms",
]


@dataclass(frozen=True, eq=False)
class Candidate:
    """Parameters to evaluate in a pass, and the points about which to gather the moments.

    Attributes
    ----------
    parameters : MixtureParameters
        θ, at which the responsibilities are computed.
    reference : (K, D) float64
        c_k; the means of `parameters` unless something better is known.
    """

    parameters: MixtureParameters
    reference: NDArray[np.float64]

    def __init__(self, parameters: MixtureParameters, reference: ArrayLike | None = None) -> None:
        about = parameters.means if reference is None else frozen_array(reference)
        if about.shape != parameters.means.shape:
            raise InputError(
                f"A candidate's reference should have the shape {parameters.means.shape} of its "
                f"means, but got {about.shape}."
            )
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "reference", about)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Candidate):
            return NotImplemented
        return self.parameters == other.parameters and np.array_equal(
            self.reference, other.reference
        )

    def __hash__(self) -> int:
        return hash(self.parameters)


class EStep(ABC):
    """A kernel that is prepared for some candidates: rows in, sufficient statistics out.

    Prepared memory stays within `Kernel.workspace_bytes`, together with what a call takes. One
    thread at a time may call it; what it returns depends on the rows of that call alone.
    """

    @abstractmethod
    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        """Statistics of the rows for each candidate, each about its own reference.

        A row of weight w counts for w rows, also where that is no whole number.

        A candidate's statistics have the same bits whatever other candidates come with it.
        """

    @abstractmethod
    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        """`statistics`, to the bit, and the log-densities of the rows under the first candidate.

        They are `Predictor.log_densities` up to rounding, shape (n,), and are had for little: what
        they take is computed anyway.
        """

    @property
    def held_bytes(self) -> int | None:
        """Bytes that it holds between two calls; None where nobody has counted them."""
        return None


class Predictor(ABC):
    """A kernel that is prepared for one mixture: values of rows in, a value for each row out.

    As an `EStep`, it is one thread's at a time.
    """

    @abstractmethod
    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Log-densities log p(x_n) in nats, shape (n,)."""

    @abstractmethod
    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Responsibilities r_nk, shape (n, K); each row sums to one."""

    @abstractmethod
    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """The most probable component of each row, shape (n,); the lowest index of equals."""

    def with_log_densities(
        self, values: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`posteriors` and `log_densities` of the rows, to the bit.

        In one go where a kernel has both at hand.
        """
        return self.posteriors(values), self.log_densities(values)

    @property
    def held_bytes(self) -> int | None:
        """Bytes that it holds between two calls; None where nobody has counted them."""
        return None


class Kernel(ABC):
    """The E-step over one block of rows after another; a value that any thread may use.

    Values of rows are an (n, D) array of any real dtype (floating, integer, boolean) with any
    strides; n may be 0. Arithmetic is float64 or better, but for float32 rows that lose less
    than 1e-4 of a log-density or a covariance in float32. The same block gives the same bits each
    time on the same kind of CPU, in whatever memory layout it comes.

    A pass prepares once in each thread, by `e_step` or `predictor`; the methods that take rows and
    parameters together prepare anew for each call.

    Raises
    ------
    NonFiniteError
        A row holds NaN or infinity, or lies so far out (about 1e154 standard deviations, or units
        where moments are asked for) that its square is no float64; the error names its index in
        the block.
    InputError
        The values are no (n, D) array of real numbers.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What `get_kernel` calls this kernel."""

    @abstractmethod
    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Prepare for statistics of block after block about these candidates."""

    @abstractmethod
    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Prepare for predictions of block after block by this mixture."""

    @abstractmethod
    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds while it is called, its result included.

        Parameters
        ----------
        n_features : int
            D.
        n_components : sequence of int
            K of each candidate.
        forms : sequence of CovarianceForm, optional
            Family of each candidate; by default, whichever needs most.
        """

    def statistics(
        self, rows: Rows, candidates: Sequence[Candidate]
    ) -> tuple[SufficientStatistics, ...]:
        """`EStep.statistics` of one block."""
        return self.e_step(candidates).statistics(rows)

    def log_densities(
        self, values: NDArray[Any], parameters: MixtureParameters
    ) -> NDArray[np.float64]:
        """`Predictor.log_densities` of one block."""
        return self.predictor(parameters).log_densities(values)

    def posteriors(
        self, values: NDArray[Any], parameters: MixtureParameters
    ) -> NDArray[np.float64]:
        """`Predictor.posteriors` of one block."""
        return self.predictor(parameters).posteriors(values)

    def labels(self, values: NDArray[Any], parameters: MixtureParameters) -> NDArray[np.intp]:
        """`Predictor.labels` of one block."""
        return self.predictor(parameters).labels(values)


def possible_forms(
    n_components: Sequence[int], forms: Sequence[CovarianceForm] | None
) -> list[tuple[int, tuple[CovarianceForm, ...]]]:
    """K of each candidate with the forms it may be of; see `Kernel.workspace_bytes`.

    Raises
    ------
    ValueError
        The two sequences are not of the same length.
    """
    if forms is None:
        return [(k, FORMS) for k in n_components]
    return [(k, (form,)) for k, form in zip(n_components, forms, strict=True)]


def checked_values(values: NDArray[Any], n_features: int) -> NDArray[Any]:
    """Check that `values` is an (n, D) array of real numbers and return it untouched.

    Raises
    ------
    InputError
        It is not; the message says what it is.
    """
    array = np.asarray(values)
    if array.ndim != 2 or array.shape[1] != n_features:
        raise InputError(
            f"A block of rows should have the shape (n, {n_features}) for this mixture of "
            f"{n_features} features, but got {array.shape}."
        )
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"Rows should be real numbers, but their dtype is {array.dtype}; convert them to a "
            f"floating or integer dtype first."
        )
    return array


def check_finite(tile: NDArray[Any], start: int) -> None:
    """Raise for the first row of `tile` that holds NaN or infinity.

    Parameters
    ----------
    tile : (t, D) real
    start : int
        Index in the block of the tile's first row.

    Raises
    ------
    NonFiniteError
        There is such a row.
    """
    bad = ~np.isfinite(tile)
    if bad.any():
        row, feature = (int(i) for i in np.argwhere(bad)[0])
        raise NonFiniteError(start + row, feature, float(tile[row, feature]))


def beyond_range(rows: NDArray[Any], start: int, bad: NDArray[np.bool_]) -> NonFiniteError:
    """The error for finite rows whose squared distances are too large for float64.

    Parameters
    ----------
    rows : (n, D) real
    start : int
        Index in the block of the first row.
    bad : (n,) bool
        Which rows; the first of them is named, or the outermost row if none is marked.
    """
    row = int(np.argmax(bad)) if bad.any() else _outermost(rows)
    feature = int(np.argmax(np.abs(rows[row].astype(np.float64))))
    return NonFiniteError(start + row, feature, float(rows[row, feature]))


def _outermost(rows: NDArray[Any]) -> int:
    """The row with the largest entry, found a piece at a time: a block may be large."""
    sizes = np.empty(len(rows))
    for begin in range(0, len(rows), 256):
        piece = rows[begin : begin + 256].astype(np.float64)
        np.max(np.abs(piece, out=piece), axis=1, out=sizes[begin : begin + 256])
    return int(np.argmax(sizes))
