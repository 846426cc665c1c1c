"""What a task does with a block when some features of its rows are expected from others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import NonFiniteError, RowError, TransformError
from dask_gmm.fitting.fields import PIECE_ARRAYS, PIECE_BYTES, Field, FieldsFunction, in_pieces
from dask_gmm.fitting.prediction import OpenRowFunction
from dask_gmm.mixture.gaps import Pattern, has_gaps, split
from dask_gmm.mixture.regression import TargetMoments, regressed
from dask_gmm.mixture.restricted import marginal_mixture
from dask_gmm.scaling.features import UnscaledMoments, rescale, scaling_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.data.source import BlockRef
    from dask_gmm.mixture.kernels import Predictor
    from dask_gmm.mixture.regression import Unscale
    from dask_gmm.scaling import Scaling
    from dask_gmm.scaling.linear import Standard

__all__ = ["Regressed"]


@dataclass(frozen=True)
class Regressed(FieldsFunction):
    """E[t | x_o] of targets given other features, and perhaps how far they spread about it.

    The mixture is of the features that are given and then the targets.

    Attributes
    ----------
    targets : tuple of str
        Their names.
    columns : tuple of int or None
        Where the given features are in rows that have others too; None for rows of these alone.
    scaling : Scaling or None
        Of the mixture's features; rows are as they are, and so is what is expected.
    spread : {"", "std", "cov"}
    missing : {"error", "drop", "marginalize"}
        What becomes of rows that lack a given feature.
    """

    targets: tuple[str, ...] = ()
    columns: tuple[int, ...] | None = None
    scaling: Scaling | None = None
    spread: str = ""
    missing: str = "error"

    @property
    def n_given(self) -> int:
        """How many features are given."""
        return self.parameters.n_features - len(self.targets)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Means, and what spreads about them."""
        t, names, kind = len(self.targets), self.targets, np.dtype(self.dtype).name
        found = [Field("mean", kind, (t,), ("target",), names, names)]
        if self.spread == "std":
            widths = tuple(f"{name}_std" for name in names)
            found.append(Field("std", kind, (t,), ("target",), widths, names))
        elif self.spread == "cov":
            both = tuple(f"cov_{one}_{other}" for one in names for other in names)
            axes = ("target", "target_too")
            found.append(Field("cov", kind, (t, t), axes, both, names))
        return tuple(found)

    def described(self) -> dict[str, Any]:
        """What is expected of what."""
        columns = None if self.columns is None else list(self.columns)
        return {"targets": list(self.targets), "columns": columns, "spread": self.spread}

    def open(self) -> OpenRowFunction:
        """Prepare the kernel for the mixture of the given features."""
        return _OpenRegressed.of(self)

    def values(self, predictor: Predictor, rows: NDArray[np.generic]) -> NDArray[Any]:
        """Return the moments of the targets, side by side."""
        return self.open()(rows)

    def workspace_bytes(self, n_rows: int) -> int:
        """Bytes for a piece, and of the mixture given a pattern."""
        k, d = self.parameters.means.shape
        pattern = 8 * 6 * k * d * d if self.parameters.form.dense_factors else 0
        return PIECE_ARRAYS * PIECE_BYTES + pattern + self.parameters.nbytes


@dataclass(frozen=True, eq=False)
class _OpenRegressed(OpenRowFunction):
    """A `Regressed` with what all blocks have in common.

    Attributes
    ----------
    function : Regressed
    predictor : Predictor
        Of the given features.
    complete : TargetMoments
        Given all of them.
    columns : (g,) integer or None
    scaling : Scaling or None
        Of the given features.
    standard : Standard or None
        Of the targets, where no more is done to them.
    unscale : callable or None
        For the targets, where there is.
    """

    function: Regressed
    complete: TargetMoments
    columns: NDArray[np.intp] | None
    scaling: Scaling | None
    standard: Standard | None
    unscale: Unscale | None

    @classmethod
    def of(cls, function: Regressed) -> _OpenRegressed:
        """Prepare a function."""
        p, g = function.parameters, function.n_given
        given = marginal_mixture(p, np.arange(g))
        targets = scaling_of(function.scaling, np.arange(g, p.n_features))
        affine = targets is not None and targets.linear
        return cls(
            function,
            function.kernel.predictor(given),
            TargetMoments(p, len(function.targets), np.ones(g, dtype=bool)),
            None if function.columns is None else np.array(function.columns, dtype=np.intp),
            scaling_of(function.scaling, np.arange(g)),
            targets.standard if targets is not None and affine else None,
            None if targets is None or affine else UnscaledMoments(targets),
        )

    def __call__(self, rows: NDArray[np.generic], block: BlockRef | None = None) -> NDArray[Any]:
        """Return the moments of the targets of each row, side by side; (n, n_outputs)."""
        own = self.function
        k, d = own.parameters.means.shape
        # What every component says of the targets, and how they differ.
        t = len(own.targets) * (len(own.targets) if own.spread == "cov" else 1)
        numbers = 2 * k + 2 * d + 3 * own.n_outputs + k * (t if own.scaling is None else 2 * t)
        numbers += 2 * k * len(own.targets)
        found = in_pieces(self._piece, rows, own.n_outputs, numbers)
        if self.standard is not None:
            rescale(found, self.standard, own.spread)
        return found.astype(own.dtype, copy=False)

    def _piece(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        given = rows if self.columns is None else rows[:, self.columns]
        if self.function.missing != "drop" or not has_gaps(given):
            return self._moments(given)
        complete, _ = split(given)
        found = np.full((len(rows), self.function.n_outputs), np.nan)
        try:
            found[complete] = self._moments(given[complete])
        except RowError as error:
            raise error.at(error.where, int(complete[error.row])) from None
        return found

    def _moments(self, given: NDArray[Any]) -> NDArray[np.float64]:
        """Return the moments of rows of the given features alone."""
        own = self.function
        try:
            some = given if self.scaling is None else self.scaling.apply(given)
            posteriors = self.predictor.posteriors(some)
        except (NonFiniteError, TransformError) as error:  # of which of the row's features
            feature = error.feature if self.columns is None else int(self.columns[error.feature])
            raise type(error)(error.row, feature, error.value, error.where) from None
        values = np.ascontiguousarray(some, dtype=np.float64)  # BLAS rounds by the layout
        if own.missing != "marginalize" or not has_gaps(values):
            return regressed(self.complete, values, posteriors, own.spread, self.unscale)
        found = np.empty((len(given), own.n_outputs))
        complete, patterns = split(values)
        whole = Pattern(np.ones(own.n_given, dtype=bool), complete)
        for pattern in (whole, *patterns):
            rows = pattern.rows
            moments = (
                self.complete
                if pattern is whole
                else TargetMoments(own.parameters, len(own.targets), pattern.present)
            )
            seen = values[np.ix_(rows, moments.seen)]
            found[rows] = regressed(moments, seen, posteriors[rows], own.spread, self.unscale)
        return found
