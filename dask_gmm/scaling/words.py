"""What a scaling does, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dask_gmm.scaling.elementwise import Elementwise
    from dask_gmm.scaling.scaling import Scaling

__all__ = ["in_words"]


def in_words(scaling: Scaling, names: Sequence[str] | None = None) -> str:
    """Return what rows are scaled by.

    Parameters
    ----------
    scaling : Scaling
    names : sequence of str, optional
        Of its features.
    """
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
    return "; ".join(said)


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
