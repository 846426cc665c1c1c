"""What is said of the scaling that a mixture's rows had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling
    from dask_gmm.scaling.elementwise import Elementwise

__all__ = ["scaling_facts", "scaling_json", "unscaled_json"]


def scaling_facts(
    scaling: Scaling | None, names: Sequence[str] | None = None
) -> list[tuple[str, str]]:
    """Return what rows are scaled by, in words; nothing where they are not."""
    if scaling is None:
        return []
    said = []
    if scaling.elementwise is not None:
        said += _transforms(scaling.elementwise, names)
    if scaling.standard is not None:
        robust = scaling.standard.robust
        said.append("medians and interquartile ranges" if robust else "means and deviations")
    p = scaling.principal
    if p is not None:
        whitened = ", whitened" if (p.scale != 1.0).any() else ""
        share = f"{100 * float(p.share.sum()):.1f} % of the variance"
        said.append(f"{len(p.components)} principal components ({share}{whitened})")
    units = "the data's units" if scaling.linear else "units of the scaled rows"
    facts = [("scaled by", "; ".join(said)), ("means, widths", f"in {units}")]
    facts.append(("likelihoods", "of the scaled rows"))
    return facts


def _transforms(elementwise: Elementwise, names: Sequence[str] | None) -> list[str]:
    """Say each transform with its features."""
    features: dict[str, list[int]] = {}
    pairs = zip(elementwise.kinds, elementwise.cofactors.tolist(), strict=True)
    for i, (kind, cofactor) in enumerate(pairs):
        if kind:
            what = kind if cofactor == 1.0 else f"{kind} with cofactor {cofactor:g}"
            features.setdefault(what, []).append(i)
    d = len(elementwise.kinds)
    return [
        f"{what} of {'all features' if len(which) == d else _listed(which, names)}"
        for what, which in features.items()
    ]


def _listed(which: Sequence[int], names: Sequence[str] | None) -> str:
    called = [f"feature {i}" if names is None else names[i] for i in which[:4]]
    more = f" and {len(which) - 4} more" if len(which) > 4 else ""
    return ", ".join(called) + more


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
