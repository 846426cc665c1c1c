"""Kernels that need more than NumPy: each process answers for itself whether it has them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dask_gmm.errors import InputError
from dask_gmm.mixture.kernels.base import Kernel
from dask_gmm.mixture.kernels.blas import BlasKernel
from dask_gmm.mixture.kernels.student import StudentKernel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.mixture.form import CovarianceForm
    from dask_gmm.mixture.kernels.base import Candidate, EStep, Predictor
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["COMPILED", "FASTEST", "STUDENT", "InstalledKernel"]


@dataclass(frozen=True)
class InstalledKernel(Kernel):
    """The compiled kernel wherever it is prepared, or what stands for it there.

    A worker may lack what the driver has. So this is what travels, and what it stands for is found
    where it is opened: once in each thread of a pass.

    Attributes
    ----------
    or_blas : bool
        Whether BLAS will do where llvmlite is not installed.

    Raises
    ------
    InputError
        llvmlite is not installed here, and nothing else will do.
    """

    or_blas: bool = True

    @property
    def name(self) -> str:
        """The name of the kernel that it is here."""
        return self.here().name

    def here(self) -> Kernel:
        """Return the kernel that it is in this process."""
        if find_spec("llvmlite") is None:
            if self.or_blas:
                return BlasKernel()
            raise InputError(
                "kernel='compiled' needs the package llvmlite, which is not installed; install "
                "it, or choose kernel='auto' or 'blas'."
            )
        from dask_gmm.mixture.kernels.compiled import CompiledKernel

        return CompiledKernel()

    def e_step(self, candidates: Sequence[Candidate]) -> EStep:
        """Prepare for statistics; see `Kernel.e_step`."""
        return self.here().e_step(candidates)

    def predictor(self, parameters: MixtureParameters) -> Predictor:
        """Prepare for predictions; see `Kernel.predictor`."""
        return self.here().predictor(parameters)

    def workspace_bytes(
        self,
        n_features: int,
        n_components: Sequence[int],
        forms: Sequence[CovarianceForm] | None = None,
    ) -> int:
        """Most bytes that an `e_step` holds here; see `Kernel.workspace_bytes`."""
        return self.here().workspace_bytes(n_features, n_components, forms)


@dataclass(frozen=True)
class InstalledStudentKernel(InstalledKernel):
    """The same for mixtures of t distributions."""

    def here(self) -> Kernel:
        """Return the kernel that it is in this process."""
        if find_spec("llvmlite") is None:
            return StudentKernel()
        from dask_gmm.mixture.kernels.compiled.student import CompiledStudentKernel

        return CompiledStudentKernel()


COMPILED = InstalledKernel(or_blas=False)
FASTEST = InstalledKernel()
STUDENT = InstalledStudentKernel()
