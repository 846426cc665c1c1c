"""A fitted estimator from a model file, whichever of the estimators has saved it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_gmm.errors import ModelFileError
from dask_gmm.estimators.bayesian import BayesianGaussianMixture
from dask_gmm.estimators.conversion import restore
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.estimators.student_mixture import StudentTMixture
from dask_gmm.model_file import load_model

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from dask_gmm.estimators.fitting import FittingMixture

__all__ = ["load_mixture"]

_ESTIMATORS: dict[str, type[FittingMixture]] = {
    kind: cls
    for cls in (GaussianMixture, BayesianGaussianMixture, StudentTMixture)
    for kind in cls._kinds
}
"""The estimator of each kind of parameters (`MixtureParameters.kind`)."""


def load_mixture(
    url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> FittingMixture:
    """Load a mixture that an estimator or ``dask-gmm fit --output`` has saved, of whatever kind.

    Parameters
    ----------
    url : path or URL
        Of a model file.
    storage_options : mapping, optional
        How to reach it; see `GaussianMixture`.

    Returns
    -------
    estimator
        Fitted; of the class that has saved it, as its own ``load`` returns it.

    Raises
    ------
    StoreNotFoundError (a FileNotFoundError)
        Nothing is there.
    ModelFileError (a ValueError)
        What is there is no model, a newer one, an incomplete one, or one that is not as it was
        saved.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture, load_mixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> GaussianMixture(2, random_state=0).fit(X).save("model.zarr", overwrite=True)
    >>> load_mixture("model.zarr")
    GaussianMixture(n_components=2, random_state=0)
    """
    model = load_model(url, storage_options=storage_options)
    kind = model.parameters.kind
    if kind not in _ESTIMATORS:
        raise ModelFileError(
            f"The model at {url} is a {kind} mixture, which no estimator of this version of "
            f"dask_gmm loads: use the version that has saved it, or a newer one."
        )
    estimator = _ESTIMATORS[kind]()
    restore(estimator, model, str(url))
    return estimator
