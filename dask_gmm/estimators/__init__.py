"""The estimators: scikit-learn's surface over sources, backends and fits."""

from dask_gmm.data.concatenated_weights import EqualPerArray
from dask_gmm.estimators.bayesian import BayesianGaussianMixture
from dask_gmm.estimators.comparison import (
    ComponentMatch,
    Divergence,
    MixtureComparison,
    compare,
)
from dask_gmm.estimators.fitted import Criteria
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.estimators.loading import load_mixture
from dask_gmm.estimators.merging import ComponentMerging
from dask_gmm.estimators.selection import select_gaussian_mixture
from dask_gmm.estimators.selection_table import Selection, SelectionRow
from dask_gmm.estimators.student_mixture import StudentTMixture
from dask_gmm.fitting.anomalies import AnomalyThreshold
from dask_gmm.fitting.drift import Drift

__all__ = [
    "AnomalyThreshold",
    "BayesianGaussianMixture",
    "ComponentMatch",
    "ComponentMerging",
    "Criteria",
    "Divergence",
    "Drift",
    "EqualPerArray",
    "GaussianMixture",
    "MixtureComparison",
    "Selection",
    "SelectionRow",
    "StudentTMixture",
    "compare",
    "load_mixture",
    "select_gaussian_mixture",
]
