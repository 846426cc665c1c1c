"""What a user asks of a scaling, checked, as a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_gmm.errors import InputError
from dask_gmm.scaling.elementwise import KINDS, Elementwise
from dask_gmm.scaling.linear import Principal, Standard
from dask_gmm.scaling.scaling import Scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FROM", "ScalingRequest"]

FROM = ("sample", "all")


@dataclass(frozen=True)
class ScalingRequest:
    """What is to be done to rows before a mixture sees them; estimates are yet to be made.

    Use `ScalingRequest.of`.

    Attributes
    ----------
    transforms : tuple of (feature, kind, cofactor)
        A feature's name or index, or None for all; "log1p" or "arcsinh".
    standardize : {"", "moments", "robust"}
    n_pca : int, float or None
        Principal components to keep, or the part of the variance that they are to have.
    whiten : bool
        Whether their deviations become 1.
    source : {"sample", "all"}
        The rows that estimates are made from.
    """

    transforms: tuple[tuple[str | int | None, str, float], ...] = ()
    standardize: str = ""
    n_pca: int | float | None = None
    whiten: bool = True
    source: str = "sample"

    @classmethod
    def of(
        cls,
        feature_transform: Any = None,
        standardize: Any = False,
        n_pca: Any = None,
        *,
        whiten: bool = True,
        scaling_from: str = "sample",
        missing: str = "error",
    ) -> ScalingRequest | None:
        """Check what is asked for; None if that is nothing.

        Parameters
        ----------
        feature_transform : str, (str, number), mapping of features to such, or None
            "log1p", "arcsinh", or ("arcsinh", cofactor).
        standardize : bool or "robust"
        n_pca : int, float or None
        whiten : bool
        scaling_from : {"sample", "all"}
        missing : str
            What becomes of rows with gaps.

        Raises
        ------
        InputError
            It is not understood, or does not go together.
        """
        if scaling_from not in FROM:
            raise InputError(
                f"scaling_from={scaling_from!r} is unknown; choose one of {', '.join(FROM)}."
            )
        found = cls(
            _transforms(feature_transform), _standardize(standardize), _n_pca(n_pca), bool(whiten)
        )
        if found == cls(whiten=found.whiten):
            return None
        if found.n_pca is not None and missing == "marginalize":
            raise InputError(
                "n_pca does not go with missing='marginalize': of a row with a gap no principal "
                "component is known. Leave such rows out by missing='drop', or leave n_pca out."
            )
        if found.standardize == "robust" and scaling_from == "all":
            raise InputError(
                "standardize='robust' takes quantiles, which are those of the sample: leave "
                "scaling_from='all' out and raise init_size, or use standardize=True."
            )
        source = scaling_from if found.estimates else "sample"
        return cls(found.transforms, found.standardize, found.n_pca, found.whiten, source)

    @property
    def estimates(self) -> bool:
        """Whether something is to be estimated from rows."""
        return bool(self.standardize) or self.n_pca is not None

    def n_outputs(self, n_features: int) -> int:
        """Return the features of scaled rows; at most so many where the data are to decide."""
        return n_features if self.n_pca is None else min(n_features, _most(self.n_pca, n_features))

    def made(self, scaling: Scaling, names: Sequence[str] | None = None) -> bool:
        """Whether a scaling is one that this asks for, by whatever rows it was estimated."""
        begun = self.begin(scaling.n_features, names)
        mine, its = begun.elementwise, scaling.elementwise
        if mine is not None and its is not None:
            alike = mine.kinds == its.kinds and np.array_equal(mine.cofactors, its.cofactors)
        else:
            alike = mine is its
        standard = scaling.standard
        if standard is not None:
            alike &= self.standardize == ("robust" if standard.robust else "moments")
        alike &= bool(self.standardize) == (standard is not None)
        principal = scaling.principal
        if self.n_pca is None or principal is None:
            return alike and (self.n_pca is None) == (principal is None)
        whitened = np.sqrt(principal.variance)
        wanted = whitened if self.whiten else np.ones_like(whitened)
        alike &= np.array_equal(principal.scale, wanted)
        if isinstance(self.n_pca, int):
            return alike and scaling.n_outputs == self.n_pca
        reached = np.cumsum(principal.share)
        # Less than that is what rounding has left of no variance: there were no more components.
        whole = 1.0 - scaling.n_features**2 * np.finfo(np.float64).eps
        enough = reached >= min(self.n_pca, whole)
        return bool(alike and enough[-1] and not enough[:-1].any())

    def begin(self, n_features: int, names: Sequence[str] | None = None) -> Scaling:
        """Return the scaling without what is to be estimated.

        Parameters
        ----------
        n_features : int
        names : sequence of str, optional
            Of the features.

        Raises
        ------
        InputError
            A feature is not there, or is named twice; or there are more components than features.
        """
        if self.n_pca is not None and _most(self.n_pca, n_features) > n_features:
            raise InputError(
                f"n_pca={self.n_pca} is more than the {n_features} features: leave it out, or give "
                f"a number from 1 to {n_features}."
            )
        if not self.transforms:
            return Scaling(n_features)
        kinds, cofactors = [""] * n_features, np.ones(n_features)
        for feature, kind, cofactor in self.transforms:
            for i in _indices(feature, n_features, names):
                if kinds[i]:
                    raise InputError(f"feature_transform says twice what becomes of feature {i}.")
                kinds[i], cofactors[i] = kind, cofactor
        return Scaling(n_features, Elementwise(tuple(kinds), cofactors))

    def unestimated(self, n_features: int, names: Sequence[str] | None = None) -> Scaling:
        """Return a scaling that costs what the one asked for does, and changes no unit.

        Raises
        ------
        InputError
            As by `begin`.
        """
        found = self.begin(n_features, names)
        zeros, ones = np.zeros(n_features), np.ones(n_features)
        if self.standardize:
            found = replace(found, standard=Standard(zeros, ones))
        if self.n_pca is not None:
            p = self.n_outputs(n_features)
            some = np.full(p, 1.0 / n_features)
            principal = Principal(zeros, np.eye(p, n_features), np.ones(p), np.ones(p), some)
            found = replace(found, principal=principal)
        return found


def _most(n_pca: float, n_features: int) -> int:
    return int(n_pca) if isinstance(n_pca, int) else n_features


def _transforms(transform: Any) -> tuple[tuple[str | int | None, str, float], ...]:
    if transform is None:
        return ()
    if not isinstance(transform, Mapping):
        return ((None, *_kind(transform)),)
    found: list[tuple[str | int | None, str, float]] = []
    for feature, asked in transform.items():
        named = isinstance(feature, str | Integral) and not isinstance(feature, bool)
        if not named:
            raise InputError(
                f"feature_transform has {feature!r} for a feature: give its name or its index."
            )
        if asked is not None:
            found.append((feature if isinstance(feature, str) else int(feature), *_kind(asked)))
    return tuple(found)


def _kind(asked: Any) -> tuple[str, float]:
    if isinstance(asked, str) and asked in KINDS:
        return asked, 1.0
    if isinstance(asked, tuple | list) and len(asked) == 2 and asked[0] == "arcsinh":
        cofactor = asked[1]
        number = isinstance(cofactor, Real) and not isinstance(cofactor, bool)
        if number and 1e-30 < float(cofactor) < 1e30:
            return "arcsinh", float(cofactor)
        raise InputError(
            f"feature_transform has the cofactor {cofactor!r}: give a positive number, such as 150."
        )
    raise InputError(
        f"feature_transform={asked!r} is unknown: give 'log1p', 'arcsinh' or ('arcsinh', "
        f"cofactor), or a dict of these by feature."
    )


def _standardize(asked: Any) -> str:
    if isinstance(asked, bool | np.bool_):
        return "moments" if asked else ""
    if isinstance(asked, str) and asked == "robust":
        return "robust"
    raise InputError(f"standardize={asked!r} is unknown: give True, False or 'robust'.")


def _n_pca(asked: Any) -> int | float | None:
    if asked is None:
        return None
    if isinstance(asked, bool):
        pass
    elif isinstance(asked, Integral):
        if int(asked) >= 1:
            return int(asked)
    elif isinstance(asked, Real) and 0.0 < float(asked) < 1.0:
        return float(asked)
    raise InputError(
        f"n_pca={asked!r} says no number of principal components: give a whole number from 1 on, "
        f"or the part of the variance that they are to have, such as 0.95."
    )


def _indices(
    feature: str | int | None, n_features: int, names: Sequence[str] | None
) -> Sequence[int]:
    """The features that are meant: by a variable's name, TEMP, all its levels, TEMP[depth=10.0]."""
    if feature is None:
        return range(n_features)
    if isinstance(feature, int):
        if -n_features <= feature < n_features:
            return [feature % n_features]
        raise InputError(
            f"feature_transform names feature {feature}, but features are numbered from 0 to "
            f"{n_features - 1}."
        )
    if names is None:
        raise InputError(
            f"feature_transform names the feature {feature!r}, but the features of these data have "
            f"no names: give its index, from 0 to {n_features - 1}."
        )
    found = [i for i, name in enumerate(names) if name == feature]
    found = found or [i for i, name in enumerate(names) if name.startswith(f"{feature}[")]
    if found:
        return found
    shown = ", ".join(list(names)[:20]) + (", ..." if len(names) > 20 else "")
    raise InputError(f"feature_transform names the feature {feature!r}; the features are {shown}.")
