"""The compiled kernel: what `Kernel` promises, by programs made for the shape of the problem.

Candidates of one form whose rows are centred and computed alike go through a program together:
each tile is loaded once for all of them. Which centre, which precision and which tile depends on
the candidate alone, so that its statistics have the same bits in any company.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.mixture.kernels.base import (
    Candidate,
    EStep,
    Kernel,
    Predictor,
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
from dask_gmm.mixture.kernels.compiled.run import (
    RowsOutOfRangeError,
    Run,
    bytes_needed,
    room,
    weight_exponent,
)
from dask_gmm.mixture.kernels.features import common_centre
from dask_gmm.mixture.low_rank import LowRank
from dask_gmm.mixture.rounding import far_apart
from dask_gmm.mixture.statistics import SufficientStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["CompiledKernel"]

MOST_NEIGHBOURS = {"float64": 3.0, "float32": 12.0}
"""Components sharing in a row (`packing.neighbours`) from which the moments of a tied mixture are
faster as matrix products: BLAS takes each row once, the program once per component. For all other
forms the program was faster in every shape measured, from D = 4 to 1,024 and K = 2 to 1,024."""

_EPS_SINGLE = float(np.finfo(np.float32).eps)
_log = logging.getLogger(__name__)


@cache
def _say_once(message: str) -> None:
    _log.info(message)


@dataclass(frozen=True)
class CompiledKernel(Kernel):
    """Vector code for this CPU and this shape of problem; several times the speed of BLAS.

    Parameters
    ----------
    width : int, optional
        Bits of the vectors; the CPU's widest by default.
    single : bool, default True
        Whether float32 rows may be computed in float32.
    """

    width: int | None = None
    single: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        """The kernel's name: compiled."""
        return "compiled"

    def e_step(self, candidates: Sequence[Candidate]) -> CompiledEStep:
        """Prepare for statistics; see `Kernel.e_step`."""
        return CompiledEStep(self, candidates)

    def predictor(self, parameters: MixtureParameters) -> CompiledPredictor:
        """Prepare for predictions; see `Kernel.predictor`."""
        return CompiledPredictor(self, parameters)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds; see `Kernel.workspace_bytes`."""
        return sum(
            max(_bytes(self.width, n_features, k, form) for form in kinds)
            for k, kinds in possible_forms(n_components, forms)
        )

    def exact(self) -> CompiledKernel:
        """The same kernel in float64 alone."""
        return replace(self, single=False)

    def design(self, form: str, d: int, k: int, single_rows: bool, single: bool) -> Design:
        """The program for a shape of problem on this CPU."""
        return _design(self.width, form, d, k, single_rows, single)

    def plan(self, parameters: MixtureParameters, *, single_rows: bool) -> tuple[Design, Array]:
        """How to compute rows, float32 or not, for these parameters: arithmetic and centre."""
        centre = common_centre(parameters)
        single = False
        if single_rows and self.single:
            rounded = centre.astype(np.float32).astype(np.float64)
            if _suits_single(parameters, rounded):
                single, centre = True, rounded
            else:
                _say_once(
                    f"float32 rows are computed in float64 where float32 would lose more than "
                    f"{LARGEST_SINGLE_ERROR:.0e} of a log-density or a covariance"
                )
        k, d = parameters.means.shape
        return self.design(parameters.form.name, d, k, single_rows, single), centre


@dataclass(frozen=True, eq=False)
class _Members:
    """Candidates that share their tiles.

    Attributes
    ----------
    places : tuple of int
        Which of the E-step's candidates they are.
    single : bool
        Whether their arithmetic is float32.
    run : Run
    """

    places: tuple[int, ...]
    single: bool
    run: Run


@dataclass(frozen=True, eq=False)
class _Prepared:
    """How the candidates of an E-step are taken: some by BLAS, the others in company."""

    by_blas: tuple[tuple[int, EStep], ...]
    members: tuple[_Members, ...]


class CompiledEStep(EStep):
    """Packed candidates and the memory of their runs.

    Packing, predicting the rounding and finding memory take longer than the rows of a small block;
    they are done when the first rows come, which say whether they are float32.

    Parameters
    ----------
    kernel : CompiledKernel
    candidates : sequence of Candidate
    """

    def __init__(self, kernel: CompiledKernel, candidates: Sequence[Candidate]) -> None:
        self._kernel = kernel
        self._candidates = tuple(candidates)
        self._prepared: dict[bool, _Prepared] = {}
        self._in_doubles: dict[int, CompiledEStep] = {}

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        """Statistics of the rows for each candidate; see `EStep.statistics`."""
        return self._statistics(rows, [])

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        """Statistics and log-densities; see `EStep.with_log_densities`."""
        wanted: list[Array | None] = [None]
        found = self._statistics(rows, wanted)
        assert wanted[0] is not None
        return found, wanted[0]

    def _statistics(self, rows: Rows, kept: list[Array | None]) -> tuple[SufficientStatistics, ...]:
        """The statistics; where `kept` has a place, the first candidate's log-densities go there.

        They belong to what comes first in whatever company, so that they come with it.
        """
        for candidate in self._candidates:
            checked_values(rows.values, candidate.parameters.n_features)
        found: dict[int, SufficientStatistics] = {}
        prepared = self._prepare(single_rows=rows.values.dtype == np.float32)
        for j, e_step in prepared.by_blas:
            if kept and j == 0:
                (found[j],), kept[0] = e_step.with_log_densities(rows)
            else:
                found[j] = e_step.statistics(rows)[0]
        for members in prepared.members:
            own = kept if 0 in members.places else []
            found.update(zip(members.places, self._gather(rows, members, own), strict=True))
        return tuple(found[j] for j in range(len(self._candidates)))

    @property
    def held_bytes(self) -> int | None:
        """Bytes of the runs; what BLAS prepares is of one call."""
        total = 0
        for prepared in self._prepared.values():
            total += sum(members.run.nbytes for members in prepared.members)
        return total + sum(other.held_bytes or 0 for other in self._in_doubles.values())

    def _prepare(self, *, single_rows: bool) -> _Prepared:
        """What these candidates need before rows of a kind are read."""
        found = self._prepared.get(single_rows)
        if found is not None:
            return found
        by_blas = []
        groups: dict[tuple[Design, bytes], list[int]] = {}
        members = []
        with np.errstate(all="ignore"):
            for j, candidate in enumerate(self._candidates):
                if isinstance(candidate.parameters.form, LowRank):
                    by_blas.append((j, BlasKernel().e_step([candidate])))
                    continue
                design, centre = self._kernel.plan(candidate.parameters, single_rows=single_rows)
                if _slower_than_blas(design, candidate.parameters, centre):
                    by_blas.append((j, BlasKernel().e_step([candidate])))
                    continue
                groups.setdefault((design, centre.tobytes()), []).append(j)
            for (design, bits), places in groups.items():
                run = Run(design, [self._candidates[j] for j in places], np.frombuffer(bits))
                members.append(_Members(tuple(places), design.lanes.single, run))
        prepared = self._prepared[single_rows] = _Prepared(tuple(by_blas), tuple(members))
        return prepared

    def _gather(
        self, rows: Rows, members: _Members, kept: list[Array | None]
    ) -> list[SufficientStatistics]:
        """Statistics of candidates that share their tiles."""
        run, single = members.run, members.single
        values, weights, exponent = rows.values, rows.weights, weight_exponent(rows)
        entry, output = "statistics", None
        if kept:
            entry, output = "statistics_and_log_densities", run.output(len(rows))
        try:
            run.go(entry, values, weights=weights, exponent=exponent, output=output)
        except RowsOutOfRangeError:
            if kept:
                self._gather_in_doubles(rows, 0)
                kept[0] = self._in_doubles[0].with_log_densities(rows)[1]
            return [self._gather_in_doubles(rows, place) for place in members.places]
        if output is not None:
            kept[0] = output[: len(rows)]
        weight = rows.total_weight
        results = []
        # All of them first: who goes apart takes the place of the others' sums.
        finished = [run.finish(j) for j in range(len(members.places))]
        for j, place in enumerate(members.places):
            sums, said = finished[j]
            if said & SHARED and said & (NARROW_FOR_SHARED | NOT_FINITE):
                run.go("statistics", values, weights=weights, exponent=exponent, apart=j)
                sums, said = run.finish(j)
            if single and said & (NARROW_FOR_SINGLE | NOT_FINITE):
                results.append(self._gather_in_doubles(rows, place))
                continue
            if said & NOT_FINITE:
                raise beyond_range(values, 0, np.zeros(len(values), dtype=bool))
            if exponent:
                np.ldexp(sums, exponent, out=sums)
            sums[1] = weight
            candidate = self._candidates[place]
            form, reference = candidate.parameters.form, candidate.reference
            results.append(SufficientStatistics.around(form, reference, len(rows), sums))
        return results

    def _gather_in_doubles(self, rows: Rows, place: int) -> SufficientStatistics:
        """Statistics of a candidate that float32 loses; its memory lies beside that of float32."""
        if place not in self._in_doubles:
            self._in_doubles[place] = self._kernel.exact().e_step([self._candidates[place]])
        return self._in_doubles[place].statistics(rows)[0]


class CompiledPredictor(Predictor):
    """A packed mixture and the memory of its runs.

    Parameters
    ----------
    kernel : CompiledKernel
    parameters : MixtureParameters
    """

    def __init__(self, kernel: CompiledKernel, parameters: MixtureParameters) -> None:
        self._kernel = kernel
        self._parameters = parameters
        self._prepared: dict[bool, tuple[Design, Run] | Predictor] = {}
        self._in_doubles: CompiledPredictor | None = None

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Log-densities log p(x_n); see `Predictor.log_densities`."""
        return self._predict("log_densities", values, np.float64)

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Responsibilities; see `Predictor.posteriors`."""
        return self._predict("posteriors", values, np.float64, self._parameters.n_components)

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Most probable components; see `Predictor.labels`."""
        return self._predict("labels", values, np.int64).astype(np.intp, copy=False)

    @property
    def held_bytes(self) -> int | None:
        """Bytes of the runs; what BLAS prepares is of one call."""
        runs = [p[1] for p in self._prepared.values() if not isinstance(p, Predictor)]
        total = sum(run.nbytes for run in runs)
        return total + (0 if self._in_doubles is None else self._in_doubles.held_bytes or 0)

    def _predict(
        self, entry: str, values: NDArray[Any], dtype: type, *columns: int
    ) -> NDArray[Any]:
        values = checked_values(values, self._parameters.n_features)
        prepared = self._prepare(single_rows=values.dtype == np.float32)
        if isinstance(prepared, Predictor):
            found: NDArray[Any] = getattr(prepared, entry)(values)
            return found
        design, run = prepared
        output: NDArray[Any] = np.empty((room(len(values), design), *columns), dtype=dtype)
        try:
            run.go(entry, values, output=output)
        except RowsOutOfRangeError:
            if self._in_doubles is None:
                self._in_doubles = self._kernel.exact().predictor(self._parameters)
            return self._in_doubles._predict(entry, values, dtype, *columns)
        return output[: len(values)]

    def _prepare(self, *, single_rows: bool) -> tuple[Design, Run] | Predictor:
        """A run for rows of a kind, or BLAS where that is the better one."""
        found = self._prepared.get(single_rows)
        if found is None and isinstance(self._parameters.form, LowRank):
            found = self._prepared[single_rows] = BlasKernel().predictor(self._parameters)
        if found is None:
            with np.errstate(all="ignore"):
                design, centre = self._kernel.plan(self._parameters, single_rows=single_rows)
                if _worse_than_blas(design, self._parameters, centre):
                    found = BlasKernel().predictor(self._parameters)
                else:
                    found = design, Run(design, [Candidate(self._parameters)], centre)
            self._prepared[single_rows] = found
        return found


def _design(
    width: int | None, form: str, d: int, k: int, single_rows: bool, single: bool
) -> Design:
    cpu = this_cpu()
    lanes = cpu.lanes(width or cpu.widths[0], single=single)
    return Design(form, d, single_rows, lanes, tile_rows(d, k), cpu.registers)


@lru_cache(maxsize=64)
def _bytes(width: int | None, d: int, k: int, form: CovarianceForm) -> int:
    """Most bytes for a candidate of that form; every pass asks."""
    if isinstance(form, LowRank):  # whose products are BLAS's own business
        return BlasKernel().workspace_bytes(d, [k], [form])
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
