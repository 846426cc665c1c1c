"""What figures need of a fitted mixture, and the units that they show it in."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Chosen", "Fitted", "Traced"]


class Fitted(Protocol):
    """A fitted mixture: an estimator, or anything else with scikit-learn's fitted attributes.

    `history_`, `record_`, `scaling_`, `feature_names_in_` and `tol` are used where they are there.
    """

    covariance_type: Any
    weights_: Any
    means_: Any
    covariances_: Any


class Chosen(Protocol):
    """What came of a selection."""

    @property
    def criterion(self) -> str: ...

    @property
    def table(self) -> tuple[Any, ...]: ...

    @property
    def best(self) -> Any: ...


class Traced(Protocol):
    """An observer of a fit that has kept what its threads did when."""

    @property
    def passes(self) -> list[Any]: ...

    @property
    def stages(self) -> list[tuple[str, float, float]]: ...
