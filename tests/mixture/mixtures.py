"""Small mixtures of every form, to hold formulas against."""

from __future__ import annotations

import numpy as np

from dask_gmm.mixture.parameters import MixtureParameters

FORMS = ("full", "tied", "diag", "spherical")


def made(form: str, k: int, d: int, seed: int, spread: float = 2.0) -> MixtureParameters:
    """K components of D features, of a few widths, that lie about so many of them apart."""
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(k, d, d)) * 0.5
    dense = half @ half.transpose(0, 2, 1) + 0.4 * np.eye(d)
    diagonals = np.diagonal(dense, axis1=1, axis2=2)
    covariances = {
        "full": dense,
        "tied": dense[0],
        "diag": diagonals,
        "spherical": diagonals[:, 0],
    }[form]
    means = rng.normal(scale=spread, size=(k, d))
    return MixtureParameters.create(form, rng.dirichlet(np.full(k, 3.0)), means, covariances)


def moved(mixture: MixtureParameters, matrix: np.ndarray, shift: np.ndarray) -> MixtureParameters:
    """The mixture of the rows A x + b."""
    dense = mixture.form.dense(mixture.covariances, *mixture.means.shape)
    covariances = matrix @ dense @ matrix.T
    means = mixture.means @ matrix.T + shift
    return MixtureParameters.create("full", mixture.weights, means, covariances)
