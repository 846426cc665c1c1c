"""A kernel whose arithmetic is elsewhere: it prepares, and moves arrays, and leaves a trace of it.

What a kernel for a graphics card would be, with BLAS in the place of the card.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from dask_gmm.mixture.kernels import EStep, Kernel, Predictor, get_kernel
from dask_gmm.rows import Rows
from tests.execution.fakes import leave_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.kernels import Candidate
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.mixture.statistics import SufficientStatistics

BLAS = get_kernel("blas")

OPEN: WeakSet[Device] = WeakSet()
"""What this process has prepared and not let go of."""


class Device:
    """Memory elsewhere that belongs to one thread at a time.

    Its traces are "prepared", and "moved" for each block.
    """

    def __init__(self, trail: str) -> None:
        self._trail = trail
        self._busy = threading.Lock()
        leave_trace(trail, "prepared")
        OPEN.add(self)

    @contextmanager
    def moved(self, values: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """Lend a copy of a block."""
        assert self._busy.acquire(blocking=False), "two threads at a time"
        try:
            leave_trace(self._trail, "moved")
            yield np.array(values)
        finally:
            self._busy.release()


@dataclass(frozen=True)
class DeviceKernel(Kernel):
    """BLAS, by way of a device."""

    trail: str

    @property
    def name(self) -> str:
        return "device"

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        return _DeviceEStep(Device(self.trail), BLAS.e_step(candidates))

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        return _DevicePredictor(Device(self.trail), BLAS.predictor(parameters))

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        return BLAS.workspace_bytes(n_features, n_components, forms)


@dataclass(frozen=True)
class _DeviceEStep(EStep):
    device: Device
    there: EStep

    def statistics(self, rows: Rows) -> tuple[SufficientStatistics, ...]:
        with self.device.moved(rows.values) as values:
            return self.there.statistics(Rows(values, rows.weights))

    def with_log_densities(
        self, rows: Rows
    ) -> tuple[tuple[SufficientStatistics, ...], NDArray[np.float64]]:
        with self.device.moved(rows.values) as values:
            return self.there.with_log_densities(Rows(values, rows.weights))


@dataclass(frozen=True)
class _DevicePredictor(Predictor):
    device: Device
    there: Predictor

    def log_densities(self, values: NDArray[Any]) -> NDArray[np.float64]:
        with self.device.moved(values) as moved:
            return self.there.log_densities(moved)

    def posteriors(self, values: NDArray[Any]) -> NDArray[np.float64]:
        with self.device.moved(values) as moved:
            return self.there.posteriors(moved)

    def labels(self, values: NDArray[Any]) -> NDArray[np.intp]:
        with self.device.moved(values) as moved:
            return self.there.labels(moved)
