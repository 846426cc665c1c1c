"""Small fits to report on: one without a flaw, and such with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm import GaussianMixture
from dask_gmm.report import Evidence
from tests.inspected import inspected

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def clouds(seed: int = 0, n: int = 3000, k: int = 3, d: int = 2, apart: float = 8.0) -> Floats:
    """Return rows of k round clouds on a circle in each two features; each feature separates."""
    rng = np.random.default_rng(seed)
    turn = 2 * np.pi * np.arange(k)[:, None] / k + np.pi * np.arange(d) / d + 0.3
    centres = apart * np.sin(turn)
    labels = np.arange(n) % k
    rows: Floats = centres[labels] + rng.normal(size=(n, d))
    return rows


def known(X: Any, gm: GaussianMixture, **more: Any) -> Evidence:
    """Return all that is known of a mixture, and what a read of rows says of it."""
    return Evidence.of(gm, inspected(X, gm, n_sample=1000), **more)


def fitted(X: Any, n_components: int = 3, **settings: Any) -> Evidence:
    """Fit rows, quietly, and return all that is known of it."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gm = GaussianMixture(n_components, random_state=0, **settings).fit(X)
    return known(X, gm)


def given(weights: Any, means: Any, covariances: Any, **settings: Any) -> GaussianMixture:
    """Return a mixture of these parameters that nobody has fitted."""
    from sklearn.mixture import GaussianMixture as Sklearn

    from dask_gmm.mixture.parameters import MixtureParameters

    kind = settings.pop("covariance_type", "full")
    p = MixtureParameters.create(kind, weights, means, covariances)
    other = Sklearn(p.n_components, covariance_type=kind)
    other.weights_, other.means_, other.covariances_ = p.weights, p.means, p.covariances
    other.precisions_cholesky_, other.precisions_ = p.precisions_cholesky, p.precisions
    other.converged_, other.n_iter_, other.lower_bound_ = True, 5, -1.0
    other.lower_bounds_, other.n_features_in_ = [-1.0], p.n_features
    gm = GaussianMixture.from_sklearn(other)
    gm.set_params(**settings)
    gm.n_rows_ = 3000
    return gm
