"""A model file as the estimator that it is of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.estimators.bayesian import BayesianGaussianMixture
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.mixture.variational import VariationalPosterior
from dask_gmm.model_file import load_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["load_mixture"]


def load_mixture(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> GaussianMixture | BayesianGaussianMixture:
    """Load what `GaussianMixture.save` or `BayesianGaussianMixture.save` has written.

    Raises
    ------
    StoreNotFoundError, ModelFileError
        As `GaussianMixture.load`.
    """
    model = load_model(url, storage_options=storage_options)
    kind: type[GaussianMixture | BayesianGaussianMixture] = (
        BayesianGaussianMixture
        if isinstance(model.parameters, VariationalPosterior)
        else GaussianMixture
    )
    return kind._of_file(model, str(url))
