"""`Scaling`: a map from the rows of a source to those that a mixture is fitted to.

The order is: elementwise transforms, features minus a location and over a width, principal
components. All of it is estimated before the first pass and fixed from then on; it is a frozen
value that travels with the source, is saved with the model, and is applied wherever rows are read.

A block is scaled in tiles that stay in a core's cache from the first step to the last, in the
reader's own memory where types allow it. Rows keep their type, float32 or float64 (of others they
become float64; of float16 float32). What is subtracted from float32 rows is a float32 number, so
that a difference is rounded once; otherwise, where a mixture that was fitted to float64 rows is
applied to float32 ones, the steps are float64's and the result is rounded. Projections always are.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError, NonFiniteError, TransformError
from dask_gmm.scaling.affine_program import LANES, affine_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.scaling.elementwise import Elementwise
    from dask_gmm.scaling.linear import Principal, Standard

    Array = NDArray[np.float64]

__all__ = ["SCRATCH_BYTES", "Scaling", "scaled_dtype"]

TILE = 2**14
"""Elements that are scaled at a time: the calls cost little beside them, and they and what becomes
of them stay in a core's cache."""

SCRATCH_BYTES = 4 * 8 * TILE
"""Bytes that scaling takes for a moment, beside the rows and what becomes of them."""


def scaled_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type of scaled rows: float32 for rows of float32 or float16, else float64."""
    kind = np.dtype(dtype)
    return np.dtype(np.float32 if kind.kind == "f" and kind.itemsize <= 4 else np.float64)


@dataclass(frozen=True, eq=False)
class Scaling:
    """What is done to rows, one of these at least.

    Attributes
    ----------
    n_features : int
        D, of the rows as they are read.
    elementwise : Elementwise or None
    standard : Standard or None
    principal : Principal or None
    """

    n_features: int
    elementwise: Elementwise | None = None
    standard: Standard | None = None
    principal: Principal | None = None

    @property
    def n_outputs(self) -> int:
        """Features of the scaled rows: P principal components, or D."""
        return self.n_features if self.principal is None else len(self.principal.components)

    @property
    def linear(self) -> bool:
        """Whether it is an affine map."""
        return self.elementwise is None

    @property
    def invertible(self) -> bool:
        """Whether nothing is lost: there are as many components as features."""
        return self.n_outputs == self.n_features

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def __dask_tokenize__(self) -> object:
        return type(self).__name__, self.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of every number in it."""
        found = hashlib.sha256(f"{self.n_features}".encode())
        for part in (self.elementwise, self.standard, self.principal):
            found.update(type(part).__name__.encode())
            if part is not None:
                for field in fields(part):
                    value = getattr(part, field.name)
                    array = isinstance(value, np.ndarray)
                    found.update(value.tobytes() if array else repr(value).encode())
        return found.hexdigest()

    @cached_property
    def without_estimates(self) -> Scaling | None:
        """The part that needs no look at data; None where there is none."""
        return None if self.elementwise is None else replace(self, standard=None, principal=None)

    @cached_property
    def estimated(self) -> Scaling | None:
        """The part that is estimated from rows; None where there is none."""
        if self.standard is None and self.principal is None:
            return None
        return replace(self, elementwise=None)

    # -- rows ------------------------------------------------------------------------------------

    def transform(self, X: Any) -> NDArray[Any]:
        """Return scaled rows, (n, D) to (n, P), in memory of their own.

        Raises
        ------
        InputError
            `X` has another number of features.
        TransformError, NonFiniteError
            As by `apply`.
        """
        values = np.asarray(X)
        if values.ndim != 2 or values.shape[1] != self.n_features:
            raise InputError(
                f"X has shape {values.shape}, but the scaling was fitted to rows of "
                f"{self.n_features} features."
            )
        return self.apply(values)

    def apply(self, values: NDArray[Any], target: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return scaled rows.

        Parameters
        ----------
        values : (n, D) real
            In any memory layout.
        target : (n, P) array of `scaled_dtype`, optional
            Where they go: as `place` says; `values` themselves where nothing is projected.

        Raises
        ------
        TransformError
            An element has no logarithm; the row is that of `values`.
        NonFiniteError
            A row that is to be projected holds NaN or infinity.
        """
        if target is None:
            target = self.place(values, np.empty)
        # What is not finite is found here or by whoever computes with it.
        with np.errstate(invalid="ignore", over="ignore"):
            self._scale(values, target)
        return target

    def _scale(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        if self.principal is not None:
            self._project(values, target)
            return
        if self.elementwise is None and self._scaled_by_loop(values, target):
            return
        for start, part, there in _tiles(values, target):
            try:
                self._fill(part, there)
            except TransformError as error:
                raise error.at("", start + error.row) from None

    def place(
        self, values: NDArray[Any], empty: Callable[[int, np.dtype[Any]], NDArray[Any]]
    ) -> NDArray[Any]:
        """Return memory for scaled rows, laid out as `values` are.

        Parameters
        ----------
        values : (n, D) real
        empty : callable
            Makes an array of so many elements of a type.
        """
        n, p = len(values), self.n_outputs
        flat = empty(n * p, scaled_dtype(values.dtype))
        if self.principal is None and _by_feature(values):
            return flat.reshape(p, n).T
        return flat.reshape(n, p)

    def _fill(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        """Scale a tile, given as (D, n) or, rows one behind the other, as (D·m,) and so on."""
        if self.elementwise is not None:
            _of_features(self.elementwise.fill, values, target, self.n_features)
            values = target
        if self.standard is None:
            return
        single = target.dtype == np.float32
        if single and not self._single:
            wide = _minus_and_times(values, *self._numbers(np.float64, values), None)
            np.copyto(target, wide, casting="same_kind")
        else:
            _minus_and_times(values, *self._numbers(target.dtype, values), target)

    def _scaled_by_loop(self, values: NDArray[Any], target: NDArray[Any]) -> bool:
        """Scale rows, or features, that lie one behind the other, if there is a loop for it."""
        kind = target.dtype
        by_row = values.flags.c_contiguous and target.flags.c_contiguous
        by_feature = values.flags.f_contiguous and target.flags.f_contiguous
        plain = values.flags.aligned and values.dtype.isnative and values.size
        if not (plain and (by_row or by_feature)) or (kind == np.float32 and not self._single):
            return False
        loop = affine_loop(values.dtype.str[1:], kind.str[1:])
        center, factor = self._periods[kind.char]
        if loop is None or (by_row and not len(center)):
            return False
        if by_row:
            _run(loop, values.reshape(-1), target.reshape(-1), center, factor, self.n_features)
            return True
        for d in range(self.n_features):
            c, f = (np.full(LANES, vector[d]) for vector in self._vectors[kind.char])
            _run(loop, values[:, d], target[:, d], c, f, 1)
        return True

    @cached_property
    def _vectors(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """What is subtracted and multiplied by, (D,) both, in float32 and float64."""
        assert self.standard is not None
        center, factor = self.standard.center, 1.0 / self.standard.scale
        with np.errstate(over="ignore"):
            return {kind: (center.astype(kind), factor.astype(kind)) for kind in "fd"}

    @cached_property
    def _periods(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """The same as often as fills whole vectors; empty if that is too much."""
        length = math.lcm(self.n_features, LANES)
        times = 0 if length > TILE else length // self.n_features
        return {
            kind: (np.tile(both[0], times), np.tile(both[1], times))
            for kind, both in self._vectors.items()
        }

    @cached_property
    def _single(self) -> bool:
        """Whether what is subtracted is a float32 number, and the factors are in its range."""
        assert self.standard is not None
        center, factor = self.standard.center, 1.0 / self.standard.scale
        with np.errstate(over="ignore"):
            exact = np.array_equal(center.astype(np.float32).astype(np.float64), center)
            return exact and bool(np.isfinite(factor.astype(np.float32)).all())

    def _numbers(self, kind: DTypeLike, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """What is subtracted and multiplied by, in the shape of a tile."""
        center, factor = self._repeated[np.dtype(kind).char]
        if values.ndim == 1:
            return center[: values.size], factor[: values.size]
        d = self.n_features
        return center[:d, None], factor[:d, None]

    @cached_property
    def _repeated(self) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
        """Both vectors for a tile of rows one behind the other, in float32 and float64."""
        times = max(1, TILE // self.n_features)
        return {
            kind: (np.tile(both[0], times), np.tile(both[1], times))
            for kind, both in self._vectors.items()
        }

    def _project(self, values: NDArray[Any], target: NDArray[Any]) -> None:
        center, matrix = self._affine
        step, direct = max(64, TILE // self.n_features), target.dtype == np.float64
        offsets = np.empty((min(step, len(values)), self.n_features))
        for start in range(0, len(values), step):
            rows, there = values[start : start + step], target[start : start + step]
            if self.without_estimates is not None:
                try:
                    rows = self.without_estimates.apply(rows)
                except TransformError as error:
                    raise error.at("", start + error.row) from None
            mine = offsets[: len(rows)]
            np.subtract(rows, center, out=mine)
            found = np.matmul(mine, matrix, out=there if direct else None)
            if not np.isfinite(found.sum()):  # one that is not finite makes its row so
                _check_finite(mine, values, start)
            if not direct:
                there[...] = found

    @cached_property
    def _affine(self) -> tuple[Array, Array]:
        """What is subtracted from a row, (D,), and the matrix that it is multiplied by, (D, P)."""
        principal, standard = self.principal, self.standard
        assert principal is not None
        matrix = (principal.components / principal.scale[:, None]).T
        if standard is None:
            return principal.mean, np.ascontiguousarray(matrix)
        center = standard.center + standard.scale * principal.mean
        return center, np.ascontiguousarray(matrix / standard.scale[:, None])

    # -- back ------------------------------------------------------------------------------------

    def inverse(self, rows: NDArray[Any]) -> Array:
        """Return rows, (n, D), of which scaling makes these, (n, P).

        Of fewer components than features those nearest to the mean: what the others say is lost.
        """
        found = np.array(rows, dtype=np.float64)
        if self.principal is not None:
            found = (found * self.principal.scale) @ self.principal.components
            found += self.principal.mean
        if self.standard is not None:
            found *= self.standard.scale
            found += self.standard.center
        return found if self.elementwise is None else self.elementwise.inverse(found)

    @cached_property
    def unscaling(self) -> tuple[Array, Array]:
        """The affine part of `inverse`, as a matrix (D, P) and what is added, (D,)."""
        if self.principal is not None:
            matrix = self.principal.components.T * self.principal.scale
            offset = self.principal.mean
        else:
            matrix, offset = np.eye(self.n_features), np.zeros(self.n_features)
        if self.standard is not None:
            matrix = matrix * self.standard.scale[:, None]
            offset = self.standard.center + self.standard.scale * offset
        return matrix, offset

    def log_jacobian(self, values: NDArray[Any]) -> Array:
        """Return log |dz/dx| of each row x: what is added to a scaled row's log-density, (n,).

        Of a row with gaps over the features that it has: its marginal density goes with those.

        Raises
        ------
        InputError
            There are fewer components than features, and the density of the others is nowhere.
        """
        if not self.invertible:
            raise InputError(
                f"{self.n_outputs} principal components of {self.n_features} features have a "
                f"density of their own, which says nothing of the rows': leave original_units out, "
                f"or fit with n_pca={self.n_features}."
            )
        constant = np.zeros(self.n_features)
        if self.standard is not None:
            constant -= np.log(self.standard.scale)
        found = np.zeros(len(values))
        whole = 0.0
        if self.principal is not None:
            whole = -float(np.log(self.principal.scale).sum())
        step = max(64, TILE // self.n_features)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            if self.elementwise is not None:
                slopes = self.elementwise.log_slopes(part) + constant
            else:
                gaps = np.isnan(part) if part.dtype.kind == "f" else np.zeros(part.shape, bool)
                slopes = np.where(gaps, np.nan, constant)
            found[start : start + step] = np.nansum(slopes, axis=1)
        return found + whole


def _check_finite(offsets: Array, values: NDArray[Any], start: int) -> None:
    """Find what is not finite in a tile of rows that begins there; sums may have overflowed."""
    bad = np.argwhere(~np.isfinite(offsets))
    if len(bad):
        row, feature = (int(i) for i in bad[0])
        raise NonFiniteError(start + row, feature, float(values[start + row, feature]))


def _run(
    loop: Callable[[int, int, int, int, int, int], None],
    values: NDArray[Any],
    target: NDArray[Any],
    center: NDArray[Any],
    factor: NDArray[Any],
    n_features: int,
) -> None:
    """Scale elements that lie one behind the other: whole vectors by a loop, NumPy the rest."""
    whole = values.size // LANES * LANES
    if whole:
        numbers = center.ctypes.data, factor.ctypes.data, len(center)
        loop(values.ctypes.data, target.ctypes.data, whole, *numbers)
    if whole < values.size:
        place = np.arange(whole, values.size) % n_features
        _minus_and_times(values[whole:], center[place], factor[place], target[whole:])


def _minus_and_times(
    values: NDArray[Any],
    center: NDArray[Any],
    factor: NDArray[Any],
    target: NDArray[Any] | None,
) -> NDArray[Any]:
    found: NDArray[Any] = np.subtract(
        values, center, out=target, dtype=center.dtype, casting="unsafe"
    )
    np.multiply(found, factor, out=found)
    return found


def _of_features(
    function: Callable[[NDArray[Any], NDArray[Any]], None],
    values: NDArray[Any],
    target: NDArray[Any],
    n_features: int,
) -> None:
    """Call a function of (D, n) arrays with a tile."""
    if values.ndim == 1:
        values, target = (a.reshape(-1, n_features).T for a in (values, target))
    function(values, target)


def _by_feature(values: NDArray[Any]) -> bool:
    """Whether the values of a feature lie one behind the other."""
    return values.shape[1] > 1 and values.shape[0] > 1 and bool(values.flags.f_contiguous)


def _tiles(
    values: NDArray[Any], target: NDArray[Any]
) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """Yield pieces of rows, each with its first row, that hold no more than about a tile.

    As flat arrays where rows lie one behind the other, which NumPy walks in one loop; else as
    (D, n), whose last axis is a loop.
    """
    n, d = values.shape
    step = max(1, TILE // d)
    flat = bool(values.flags.c_contiguous and target.flags.c_contiguous) and d <= TILE
    for start in range(0, n, step):
        part, there = values[start : start + step], target[start : start + step]
        if flat:
            yield start, part.reshape(-1), there.reshape(-1)
        else:
            yield start, part.T, there.T
