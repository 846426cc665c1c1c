"""The estimators: scikit-learn's surface over sources, backends and fits."""

from dask_gmm.estimators.fitted import Criteria
from dask_gmm.estimators.gaussian_mixture import GaussianMixture

__all__ = ["Criteria", "GaussianMixture"]
