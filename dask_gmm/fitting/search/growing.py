"""More components from fewer: the best splits, without a read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dask_gmm.fitting.search.parts import Draft, climb_together
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
    model = model.of_sample(ground.fitted.rows.total_weight)
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
    draft = Draft(parameters)
    for split in splits:
        k, halves = split.component, split.halves
        share = draft.weights[k]
        for half, place in enumerate((k, len(draft.weights))):
            draft.put(place, share * halves.weights[half], halves, half)
    return draft.mixture()
