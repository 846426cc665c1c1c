"""More components from fewer: the best splits, without a read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dask_gmm.fitting.search.parts import climb_together, mixture
from dask_gmm.fitting.search.search import splits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.fitting.search.ground import Ground
    from dask_gmm.fitting.search.splits import Split
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["grown", "with_halves"]

# EM steps after each turn of splits.
_STEPS = 10


def grown(
    ground: Ground, parameters: MixtureParameters, n_components: int, model: MixtureModel
) -> MixtureParameters | None:
    """Split the components whose rows two explain best, until there are `n_components`.

    Parameters
    ----------
    ground : Ground
        For so many components.
    parameters : MixtureParameters
        Of fewer.
    n_components : int
    model : MixtureModel

    Returns
    -------
    MixtureParameters or None
        None where no component can be split.
    """
    while (lacking := n_components - parameters.n_components) > 0:
        splits = sorted(splits_of(ground, parameters, model), key=lambda split: -split.gain)
        larger = with_halves(parameters, splits[:lacking]) if splits else None
        if larger is None:
            return None
        (end,) = climb_together(ground.fitted.each, [larger], model, _STEPS)
        if end is None:
            return None
        parameters = end.parameters
    return parameters


def with_halves(parameters: MixtureParameters, splits: Sequence[Split]) -> MixtureParameters | None:
    """Put the halves of some components in their place, the second ones at the end."""
    weights, means = list(parameters.weights), list(parameters.means)
    covariances = list(parameters.covariances)
    for split in splits:
        k, halves = split.component, split.halves
        weights.append(weights[k] * halves.weights[1])
        weights[k] *= halves.weights[0]
        means.append(halves.means[1])
        means[k] = halves.means[0]
        if not parameters.form.shared:
            covariances.append(halves.covariances[1])
            covariances[k] = halves.covariances[0]
    return mixture(parameters, np.array(weights), np.array(means), np.array(covariances))
