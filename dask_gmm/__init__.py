"""Gaussian mixture models for data that does not fit in memory: exact, distributed EM on Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_gmm.estimators import (
        AnomalyThreshold,
        BayesianGaussianMixture,
        ComponentMatch,
        ComponentMerging,
        Criteria,
        Divergence,
        Drift,
        EqualPerArray,
        GaussianMixture,
        MixtureComparison,
        Selection,
        SelectionRow,
        StudentTMixture,
        compare,
        load_mixture,
        select_gaussian_mixture,
    )
    from dask_gmm.fitting.timeline import Timeline
    from dask_gmm.mixture.prior import Prior
    from dask_gmm.progress import ProgressBar

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
    "Prior",
    "ProgressBar",
    "Selection",
    "SelectionRow",
    "StudentTMixture",
    "Timeline",
    "compare",
    "load_mixture",
    "select_gaussian_mixture",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for.

    Workers import this package for their tasks and never an estimator: without scikit-learn each
    of their processes starts faster and about 60 MB smaller.
    """
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("dask-gmm")
        except PackageNotFoundError:  # a checkout on the path
            raise AttributeError("This dask_gmm is not installed, and has no version.") from None
    if name == "ProgressBar":
        from dask_gmm.progress import ProgressBar

        return ProgressBar
    if name == "Prior":
        from dask_gmm.mixture.prior import Prior

        return Prior
    if name == "Timeline":
        from dask_gmm.fitting.timeline import Timeline

        return Timeline
    if name in __all__:
        from dask_gmm import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
