"""The compiled kernel: what `Kernel` promises, by programs made for the shape of the problem.

Candidates of one form whose rows are centred and computed alike go through a program together:
each tile is loaded once for all of them. Which centre, which precision and which tile depends on
the candidate alone, so that its statistics have the same bits in any company.
"""

from __future__ import annotations

import logging
import math
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.kernels.base import (
    Candidate,
    beyond_range,
    checked_values,
    possible_forms,
)
from dask_gmm.mixture.kernels.blas import BlasKernel, whitening_bytes
from dask_gmm.mixture.kernels.compiled import packing
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.kernels.compiled.design import Design, tile_rows
from dask_gmm.mixture.kernels.compiled.moments import (
    LARGEST_SINGLE_ERROR,
    LEAST_SINGLE_VARIANCE,
    NARROW_FOR_SHARED,
    NARROW_FOR_SINGLE,
    NOT_FINITE,
    SHARED,
)
from dask_gmm.mixture.kernels.compiled.prepared import Members, Prepared, keep
from dask_gmm.mixture.kernels.compiled.run import RowsOutOfRangeError, Run, bytes_needed, room
from dask_gmm.mixture.kernels.features import common_centre
from dask_gmm.mixture.rounding import far_apart
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]
    ByBlas = Callable[[Design, MixtureParameters, Array], bool]

__all__ = ["CompiledKernel"]

MOST_NEIGHBOURS = {"float64": 3.0, "float32": 12.0}
"""Components sharing in a row (`packing.neighbours`) from which the moments of a tied mixture are
faster as matrix products: BLAS takes each row once, the program once per component. For all other
forms the program was faster in every shape measured, from D = 4 to 1,024 and K = 2 to 1,024."""

_USUAL_WEIGHT = 8
"""Exponents of two up to which row weights are taken as they come."""

_EPS_SINGLE = float(np.finfo(np.float32).eps)
_log = logging.getLogger(__name__)


@cache
def _say_once(message: str) -> None:
    _log.info(message)


class CompiledKernel:
    """Vector code for this CPU and this shape of problem; several times the speed of BLAS.

    Parameters
    ----------
    width : int, optional
        Bits of the vectors; the CPU's widest by default.
    single : bool, default True
        Whether float32 rows may be computed in float32.
    """

    def __init__(self, width: int | None = None, *, single: bool = True) -> None:
        self._width = width
        self._single = single

    @property
    def name(self) -> str:
        """The kernel's name: compiled."""
        return "compiled"

    def statistics(
        self, rows: Rows, candidates: Sequence[Candidate]
    ) -> tuple[SufficientStatistics, ...]:
        """Statistics of the rows for each candidate; see `Kernel.statistics`."""
        for candidate in candidates:
            checked_values(rows.values, candidate.parameters.n_features)
        found: dict[int, SufficientStatistics] = {}
        prepared = self._prepare(rows.values, candidates, _slower_than_blas)
        for j in prepared.by_blas:
            found[j] = BlasKernel().statistics(rows, [candidates[j]])[0]
        for members in prepared.members:
            group = [candidates[j] for j in members.places]
            statistics = self._gather(rows, group, members)
            found.update(zip(members.places, statistics, strict=True))
        return tuple(found[j] for j in range(len(candidates)))

    def log_densities(
        self, values: NDArray[Any], parameters: MixtureParameters
    ) -> NDArray[np.float64]:
        """Log-densities log p(x_n); see `Kernel.log_densities`."""
        return self._predict("log_densities", values, parameters, np.float64)

    def posteriors(
        self, values: NDArray[Any], parameters: MixtureParameters
    ) -> NDArray[np.float64]:
        """Responsibilities; see `Kernel.posteriors`."""
        return self._predict("posteriors", values, parameters, np.float64, parameters.n_components)

    def labels(self, values: NDArray[Any], parameters: MixtureParameters) -> NDArray[np.intp]:
        """Most probable components; see `Kernel.labels`."""
        found = self._predict("labels", values, parameters, np.int64)
        return found.astype(np.intp, copy=False)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that `statistics` allocates; see `Kernel.workspace_bytes`."""
        return sum(
            max(_bytes(self._width, n_features, k, form) for form in kinds)
            for k, kinds in possible_forms(n_components, forms)
        )

    def _design(self, form: str, d: int, k: int, single_rows: bool, single: bool) -> Design:
        return _design(self._width, form, d, k, single_rows, single)

    def _plan(self, values: NDArray[Any], parameters: MixtureParameters) -> tuple[Design, Array]:
        """How to compute these rows for these parameters: arithmetic and centre."""
        centre = common_centre(parameters)
        single_rows = values.dtype == np.dtype(np.float32)
        single = False
        if single_rows and self._single:
            rounded = centre.astype(np.float32).astype(np.float64)
            if _suits_single(parameters, rounded):
                single, centre = True, rounded
            else:
                _say_once(
                    f"float32 rows are computed in float64 where float32 would lose more than "
                    f"{LARGEST_SINGLE_ERROR:.0e} of a log-density or a covariance"
                )
        k, d = parameters.means.shape
        return self._design(parameters.form.name, d, k, single_rows, single), centre

    def _prepare(
        self, values: NDArray[Any], candidates: Sequence[Candidate], blas: ByBlas
    ) -> Prepared:
        """What these candidates need before rows like these are read; from the last call if so."""
        settings = values.dtype == np.float32, self._width, self._single, blas
        return keep(settings, candidates, lambda: self._prepare_now(values, candidates, blas))

    def _prepare_now(
        self, values: NDArray[Any], candidates: Sequence[Candidate], blas: ByBlas
    ) -> Prepared:
        by_blas: list[int] = []
        groups: dict[tuple[Design, bytes], list[int]] = {}
        members = []
        with np.errstate(all="ignore"):
            for j, candidate in enumerate(candidates):
                design, centre = self._plan(values, candidate.parameters)
                if blas(design, candidate.parameters, centre):
                    by_blas.append(j)
                    continue
                groups.setdefault((design, centre.tobytes()), []).append(j)
            for (design, bits), places in groups.items():
                run = Run(design, [candidates[j] for j in places], np.frombuffer(bits))
                members.append(Members(tuple(places), design, run))
        return Prepared(tuple(candidates), tuple(by_blas), tuple(members))

    def _gather(
        self,
        rows: Rows,
        group: Sequence[Candidate],
        members: Members,
    ) -> list[SufficientStatistics]:
        """Statistics of candidates that share their tiles."""
        run, single = members.run, members.design.lanes.single
        values, weights, exponent = rows.values, rows.weights, _exponent(rows)
        try:
            run.go("statistics", values, weights=weights, exponent=exponent)
        except RowsOutOfRangeError:
            return self._gather_in_doubles(rows, group)
        weight = rows.total_weight
        results = []
        # All of them first: who goes apart takes the place of the others' sums.
        finished = [run.finish(j) for j in range(len(group))]
        for j, candidate in enumerate(group):
            sums, said = finished[j]
            if said & SHARED and said & (NARROW_FOR_SHARED | NOT_FINITE):
                run.go("statistics", values, weights=weights, exponent=exponent, apart=j)
                sums, said = run.finish(j)
            if single and said & (NARROW_FOR_SINGLE | NOT_FINITE):
                results += self._gather_in_doubles(rows, [candidate])
                continue
            if said & NOT_FINITE:
                raise beyond_range(values, 0, np.zeros(len(values), dtype=bool))
            if exponent:
                np.ldexp(sums, exponent, out=sums)
            sums[1] = weight
            form, reference = candidate.parameters.form, candidate.reference
            results.append(SufficientStatistics.around(form, reference, len(rows), sums))
        return results

    def _gather_in_doubles(
        self, rows: Rows, group: Sequence[Candidate]
    ) -> list[SufficientStatistics]:
        exact = CompiledKernel(self._width, single=False)
        return list(exact.statistics(rows, group))

    def _predict(
        self,
        entry: str,
        values: NDArray[Any],
        parameters: MixtureParameters,
        dtype: type,
        *columns: int,
    ) -> NDArray[Any]:
        values = checked_values(values, parameters.n_features)
        prepared = self._prepare(values, [Candidate(parameters)], _worse_than_blas)
        if prepared.by_blas:
            found: NDArray[Any] = getattr(BlasKernel(), entry)(values, parameters)
            return found
        (members,) = prepared.members
        n = room(len(values), members.design)
        output: NDArray[Any] = np.empty((n, *columns), dtype=dtype)
        try:
            members.run.go(entry, values, output=output)
        except RowsOutOfRangeError:
            exact = CompiledKernel(self._width, single=False)
            return exact._predict(entry, values, parameters, dtype, *columns)
        return output[: len(values)]


def _design(
    width: int | None, form: str, d: int, k: int, single_rows: bool, single: bool
) -> Design:
    cpu = this_cpu()
    lanes = cpu.lanes(width or cpu.widths[0], single=single)
    return Design(form, d, single_rows, lanes, tile_rows(d, k), cpu.registers)


@lru_cache(maxsize=64)
def _bytes(width: int | None, d: int, k: int, form: CovarianceForm) -> int:
    """Most bytes for a candidate of that form; every pass asks."""
    designs = [_design(width, form.name, d, k, single, single) for single in (False, True)]
    # Where float32 loses a component, its memory is kept beside that of float64.
    most = sum(bytes_needed(design, k) for design in designs)
    if form.dense_factors:
        most += 64 * k * d * d
    most += 256 * k * d
    most = max(most, whitening_bytes(d, k, form))
    if form.name == "tied":  # which may go through BLAS instead
        most = max(most, BlasKernel().workspace_bytes(d, [k], [form])) + 32 * k * k
    return most


def _suits_single(parameters: MixtureParameters, centre: Array) -> bool:
    """Whether float32 has the digits for these parameters about a centre, and the range."""
    variances = parameters.form.diagonals(parameters.covariances, *parameters.means.shape)
    if variances.min() < LEAST_SINGLE_VARIANCE:
        return False
    return packing.rounding(parameters, centre, _EPS_SINGLE) <= LARGEST_SINGLE_ERROR


def _exponent(rows: Rows) -> int:
    """The e by which a program reads row weights times 2^-e; 0 where they are near 1.

    Scaling by a power of two is exact. Else float32 could not hold the weights, and what a program
    makes of a component depends on how many rows it has.
    """
    if rows.weights is None or not len(rows):
        return 0
    exponent = math.frexp(rows.total_weight / len(rows))[1]
    return 0 if abs(exponent) <= _USUAL_WEIGHT else exponent


def _worse_than_blas(design: Design, parameters: MixtureParameters, centre: Array) -> bool:
    """Whether the program's common centre costs digits: BLAS whitens differences to the means."""
    return not design.lanes.single and far_apart(parameters, centre)


def _slower_than_blas(design: Design, parameters: MixtureParameters, centre: Array) -> bool:
    """Whether BLAS is the better one, or the quicker one where both are good."""
    if _worse_than_blas(design, parameters, centre):
        return True
    if design.form != "tied":
        return False
    arithmetic = "float32" if design.lanes.single else "float64"
    return packing.neighbours(parameters) > MOST_NEIGHBOURS[arithmetic]
