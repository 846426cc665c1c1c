"""What a fit is asked to do, as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dask_gmm.execution.machine import single_threaded_blas

if TYPE_CHECKING:
    from dask_gmm.data.source import Source
    from dask_gmm.fitting.sampling import Sample
    from dask_gmm.fitting.starts import GivenParameters
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling, ScalingRequest

__all__ = ["FitSettings", "WarmStart"]


@dataclass(frozen=True)
class FitSettings:
    """What a fit is asked to do; `GaussianMixture` documents each field.

    `cache` are bytes per process, None for "auto".
    """

    n_components: int
    model: MixtureModel
    tol: float
    max_iter: int
    n_init: int
    init_params: str
    init_size: int | None
    kernel: Kernel
    given: GivenParameters
    cache: int | None = None
    on_collapse: str = "stop"
    acceleration: str | None = None
    stopping: str = "auto"
    max_passes: int | None = None
    max_bytes: int | None = None
    missing: str = "error"
    scaling: ScalingRequest | None = None
    search: str | int = "off"

    def n_features(self, source: Source) -> int:
        """Features of the rows that a mixture is fitted to; at most so many if data decide."""
        d = source.n_features
        return d if self.scaling is None else self.scaling.n_outputs(d)

    def settled(self, sample: Sample | None) -> FitSettings:
        """The same with what the model leaves to the data, by the sample that has been drawn."""
        if sample is None:
            return self
        with single_threaded_blas():  # the last bits must not depend on how many threads there are
            model = self.model.settled(sample.rows).of_all(sample.stands_for)
        return replace(self, model=model)

    def of_family(self, family: CovarianceFamily) -> FitSettings:
        """The same of mixtures of another family."""
        return replace(self, model=self.model.of_family(family))

    @property
    def pinned(self) -> int | None:
        """Bytes to pin in each process, None for "auto"; 0 where nothing is read twice."""
        return 0 if self.max_iter <= 1 or self.max_passes == 1 else self.cache


@dataclass(frozen=True)
class WarmStart:
    """Where an earlier fit of the same estimator ended.

    Attributes
    ----------
    parameters : MixtureParameters
    lower_bound : float
        With which the first one is compared; -inf where they do not compare.
    scaling : Scaling or None
    kept : KeptStatistics or None
        Of the earlier fit's rows, where the mixture is to stand for these as well: they are not
        read, and those that are read come to them.
    """

    parameters: MixtureParameters
    lower_bound: float
    scaling: Scaling | None = None
    kept: KeptStatistics | None = None
