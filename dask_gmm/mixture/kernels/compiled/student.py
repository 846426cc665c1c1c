"""The compiled kernel of mixtures of t distributions: Gaussian programs with tails (`tails`).

All arithmetic is float64. Where the program's common centre would cost digits, the kernel on BLAS
(`kernels/student.py`) whitens differences to the locations instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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
from dask_gmm.mixture.kernels.compiled.compiler import this_cpu
from dask_gmm.mixture.kernels.compiled.design import Design, tile_rows
from dask_gmm.mixture.kernels.compiled.moments import NOT_FINITE
from dask_gmm.mixture.kernels.compiled.run import Run, bytes_needed, room, weight_exponent
from dask_gmm.mixture.kernels.features import common_centre
from dask_gmm.mixture.kernels.student import StudentKernel, student
from dask_gmm.mixture.parameters import frozen_array
from dask_gmm.mixture.rounding import far_apart
from dask_gmm.mixture.statistics import SufficientStatistics
from dask_gmm.mixture.student import StudentStatistics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.rows import Rows

    Array = NDArray[np.float64]

__all__ = ["CompiledStudentKernel"]


@dataclass(frozen=True)
class CompiledStudentKernel(Kernel):
    """Vector code for this CPU and this shape of problem, for `StudentParameters`.

    Parameters
    ----------
    width : int, optional
        Bits of the vectors; the CPU's widest by default.
    """

    width: int | None = None

    @property
    def name(self) -> str:
        """The kernel's name: compiled."""
        return "compiled"

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Prepare for statistics; see `Kernel.e_step`."""
        return _EStep(self, candidates)

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Prepare for predictions; see `Kernel.predictor`."""
        return _Predictor(self, parameters)

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

    def run(self, candidate: Candidate, *, single_rows: bool) -> Run | None:
        """A run for a candidate; None where BLAS has to do it."""
        parameters = student(candidate.parameters)
        centre = common_centre(parameters)
        if far_apart(parameters, centre):
            return None
        k, d = parameters.means.shape
        return Run(
            _design(self.width, parameters.form.name, d, k, single_rows), [candidate], centre
        )


class _EStep(EStep):
    """Each candidate's run, made when the first rows say whether they are float32."""

    def __init__(self, kernel: CompiledStudentKernel, candidates: Sequence[Candidate]) -> None:
        self._kernel = kernel
        self._candidates = tuple(candidates)
        self._prepared: dict[tuple[int, bool], Run | EStep] = {}
        for candidate in candidates:
            student(candidate.parameters)

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        return tuple(self._of(j, rows, None) for j in range(len(self._candidates)))

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        kept = np.empty(len(rows))
        first = self._of(0, rows, kept)
        others = (self._of(j, rows, None) for j in range(1, len(self._candidates)))
        return (first, *others), kept

    @property
    def held_bytes(self) -> int | None:
        runs = self._prepared.values()
        return sum(run.nbytes for run in runs if isinstance(run, Run))

    def _of(self, j: int, rows: Rows, kept: Array | None) -> SufficientStatistics:
        candidate = self._candidates[j]
        checked_values(rows.values, candidate.parameters.n_features)
        prepared = self._prepare(j, single_rows=rows.values.dtype == np.float32)
        if isinstance(prepared, EStep):
            (found,), densities = prepared.with_log_densities(rows)
            if kept is not None:
                kept[:] = densities
            return found
        return _gathered(prepared, candidate, rows, kept)

    def _prepare(self, j: int, *, single_rows: bool) -> Run | EStep:
        key = (j, single_rows)
        if key not in self._prepared:
            candidate = self._candidates[j]
            with np.errstate(all="ignore"):
                run = self._kernel.run(candidate, single_rows=single_rows)
            self._prepared[key] = run or StudentKernel().e_step([candidate])
        return self._prepared[key]


class _Predictor(Predictor):
    """A mixture's run, made when the first rows come."""

    def __init__(self, kernel: CompiledStudentKernel, parameters: MixtureParameters) -> None:
        self._kernel = kernel
        self._parameters = student(parameters)
        self._prepared: dict[bool, Run | Predictor] = {}

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self._predict("log_densities", values, np.float64)

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self._predict("posteriors", values, np.float64, self._parameters.n_components)

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        return self._predict("labels", values, np.int64).astype(np.intp, copy=False)

    @property
    def held_bytes(self) -> int | None:
        return sum(run.nbytes for run in self._prepared.values() if isinstance(run, Run))

    def _predict(
        self, entry: str, values: NDArray[Any], dtype: type, *columns: int
    ) -> NDArray[Any]:
        values = checked_values(values, self._parameters.n_features)
        single = values.dtype == np.float32
        if single not in self._prepared:
            candidate = Candidate(self._parameters)
            with np.errstate(all="ignore"):
                run = self._kernel.run(candidate, single_rows=single)
            self._prepared[single] = run or StudentKernel().predictor(self._parameters)
        prepared = self._prepared[single]
        if isinstance(prepared, Predictor):
            found: NDArray[Any] = getattr(prepared, entry)(values)
            return found
        output: NDArray[Any] = np.empty((room(len(values), prepared.design), *columns), dtype=dtype)
        prepared.go(entry, values, output=output)
        return output[: len(values)]


def _gathered(run: Run, candidate: Candidate, rows: Rows, kept: Array | None) -> StudentStatistics:
    """A candidate's statistics, and log-densities of the rows where they are `kept`."""
    values, exponent = rows.values, weight_exponent(rows)
    entry, output = "statistics", None
    if kept is not None:
        entry, output = "statistics_and_log_densities", run.output(len(rows))
    run.go(entry, values, weights=rows.weights, exponent=exponent, output=output)
    if kept is not None and output is not None:
        kept[:] = output[: len(rows)]
    sums, said = run.finish(0)
    if said & NOT_FINITE:
        raise beyond_range(values, 0, np.zeros(len(values), dtype=bool))
    scaled, logs = run.tails(0)
    if exponent:
        sums, scaled, logs = (np.ldexp(part, exponent) for part in (sums, scaled, logs))
    sums[1] = rows.total_weight
    form, reference = candidate.parameters.form, candidate.reference
    gathered = SufficientStatistics.around(form, reference, len(rows), sums)
    return StudentStatistics.carrying(
        gathered, scaled_counts=frozen_array(scaled), log_scales=frozen_array(logs)
    )


def _design(width: int | None, form: str, d: int, k: int, single_rows: bool) -> Design:
    cpu = this_cpu()
    lanes = cpu.lanes(width or cpu.widths[0], single=False)
    return Design(form, d, single_rows, lanes, tile_rows(d, k), cpu.registers, tails=True)


@lru_cache(maxsize=64)
def _bytes(width: int | None, d: int, k: int, form: CovarianceForm) -> int:
    """Most bytes for a candidate of that form; every pass asks."""
    most = bytes_needed(_design(width, form.name, d, k, False), k) + 256 * k * d
    if form.dense_factors:
        most += 64 * k * d * d
    return max(most, StudentKernel().workspace_bytes(d, [k], [form]))
