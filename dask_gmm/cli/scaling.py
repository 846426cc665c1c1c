"""What is said of the scaling that a mixture's rows had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

__all__ = ["scaling_facts", "scaling_json", "unscaled_json"]


def scaling_facts(
    scaling: Scaling | None, names: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Return what rows are scaled by, in words; nothing where they are not."""
    if scaling is None:
        return []
    from dask_gmm.scaling.words import in_words

    units = "the data's units" if scaling.linear else "units of the scaled rows"
    facts = [("scaled by", in_words(scaling, names)), ("means, widths", f"in {units}")]
    facts.append(("likelihoods", "of the scaled rows"))
    return facts


def scaling_json(scaling: Scaling | None) -> dict[str, Any]:
    """Return every number of a scaling under ``scaling``; nothing where there is none."""
    if scaling is None:
        return {}
    from dask_gmm.scaling.stored import arrays_of, described

    about = described(scaling)
    del about["arrays"]
    return {"scaling": {**about, **arrays_of(scaling)}}


def unscaled_json(parameters: MixtureParameters, scaling: Scaling | None) -> Mapping[str, Any]:
    """Return means in the data's units, and covariances where they have some."""
    if scaling is None:
        return {}
    from dask_gmm.scaling.original_units import in_original_units

    original = in_original_units(parameters, scaling)
    found = {"means_original": original.means}
    if scaling.linear:
        found["covariances_original"] = original.covariances
    return found
