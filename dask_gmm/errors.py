"""Every exception and warning of the package.

A message says what happened, where, and what to do about it. All exceptions take one finished
message, so they survive the trip from a worker to the driver unchanged; `NonFiniteError`, which
learns its location on the way up, carries its parts and says how to rebuild itself.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Self

__all__ = [
    "ArrayNotFoundError",
    "CheckpointError",
    "CheckpointWarning",
    "ClusterError",
    "CollapsedComponentError",
    "CollapsedComponentWarning",
    "CorruptChunkError",
    "DaskGMMError",
    "DataChangedError",
    "FeaturesWarning",
    "FencedError",
    "FillValueWarning",
    "IncompletePassError",
    "InputError",
    "ManifestError",
    "MemoryPlanError",
    "MissingChunkError",
    "MissingPackageError",
    "MissingValueError",
    "MixedClusterWarning",
    "ModelFileError",
    "NoWorkersError",
    "NonFiniteError",
    "OutputExistsError",
    "PassInterruptedError",
    "PassLostError",
    "ProgressWarning",
    "ResumedElsewhereWarning",
    "RowError",
    "SampleWeightError",
    "SchedulerLostError",
    "StateError",
    "StaysHereWarning",
    "StoreError",
    "StoreNotFoundError",
    "TransformError",
    "UnitFailedError",
    "UnitsWarning",
    "VersionsDifferError",
]


class DaskGMMError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(DaskGMMError, ValueError):
    """The data or the arguments are not what a fit can use; the message names the remedy."""


class RowError(InputError):
    """A row cannot be used. Whoever finds it knows the row; its place is filled in on the way up.

    Subclasses take what they know and, last, the place, which is "" until somebody knows it.

    Attributes
    ----------
    row : int
        Index of the row inside the block that was being read.
    where : str
        The row's place in the whole input.
    """

    def __init__(self, message: str, where: str, row: int, *known: Any) -> None:
        super().__init__(message)
        self.row = row
        self.where = where
        self._known = (row, *known)

    def at(self, where: str, row: int | None = None) -> Self:
        """Return the same error with the row's place in the input spelled out.

        `row` is its index in the block, where whoever met the row had only some of the block's.
        """
        known = self._known if row is None else (row, *self._known[1:])
        return type(self)(*known, where)

    def after(self, rows: int) -> Self:
        """Return the same error, of a row that lies so many rows further on."""
        known = self.row + rows, *self._known[1:]
        return type(self)(*known, self.where)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self._known, self.where)


class NonFiniteError(RowError):
    """A row holds NaN or infinity.

    Parameters
    ----------
    row : int
        Index of the row inside the block that was being read.
    feature : int
        Index of the first offending feature of that row.
    value : float
        The offending value (NaN or ±infinity).
    where : str, optional
        The row's place in the whole input.
    """

    def __init__(self, row: int, feature: int, value: float, where: str = "") -> None:
        self.feature = feature
        self.value = value
        # scikit-learn's own wording opens the message: users and its test suite look for it.
        kind = "NaN" if value != value else "infinity or a value too large for dtype('float64')"  # noqa: PLR0124
        place = where or f"row {row} of the block"
        remedy = (
            "Its square is too large for float64: scale the data."
            if isfinite(value)
            else "A mixture has no density there: "
            + (
                "leave such rows out by missing='drop', take them with the values that they have "
                "by missing='marginalize', or impute them before the fit."
                if value != value  # noqa: PLR0124  NaN
                else "drop or mask such rows before the fit."
            )
        )
        super().__init__(
            f"Input X contains {kind}.\nFeature {feature} of {place} is {value}. {remedy}",
            where,
            row,
            feature,
            value,
        )


class MissingValueError(NonFiniteError):
    """A row holds NaN where, by the array's metadata, the stored value is no measurement.

    Parameters
    ----------
    row : int
        Index of the row inside the block that was being read.
    feature : int
        Index of the first offending feature of that row.
    value : float or int
        The value as it is stored.
    why : str
        Which metadata say so.
    remedy : str
        One sentence.
    where : str, optional
        The row's place in the whole input.
    """

    def __init__(
        self, row: int, feature: int, value: float, why: str, remedy: str, where: str = ""
    ) -> None:
        place = where or f"row {row} of the block"
        self.feature = feature
        self.value = value
        message = f"Feature {feature} of {place} is {value}, {why}. {remedy}"
        RowError.__init__(self, message, where, row, feature, value, why, remedy)


class TransformError(RowError):
    """An element has no logarithm: log1p is of numbers above −1.

    Parameters
    ----------
    row : int
        Index of the row inside the block that was being read.
    feature : int
        Index of the first such feature of that row.
    value : float
    where : str, optional
        The row's place in the whole input.
    """

    def __init__(self, row: int, feature: int, value: float, where: str = "") -> None:
        self.feature = feature
        self.value = value
        super().__init__(
            f"feature_transform='log1p' takes numbers above -1 only: feature {feature} of "
            f"{where or f'row {row} of the block'} is {value:g}. If it is a measurement, use "
            f"feature_transform='arcsinh', which takes all; else leave such rows out by where=, a "
            f"mask.",
            where,
            row,
            feature,
            value,
        )

    def of_feature(self, feature: int) -> TransformError:
        """Return the same error about another feature."""
        return TransformError(self.row, feature, self.value, self.where)


class SampleWeightError(RowError):
    """The weight of a row is none.

    Parameters
    ----------
    row : int
        Index of the row inside the block that was being read.
    value : float
        Its weight.
    why : str, optional
        What is wrong with it, where the number alone does not say.
    remedy : str, optional
        One sentence, with `why`.
    where : str, optional
        The row's place in the whole input.
    """

    def __init__(
        self, row: int, value: float, why: str = "", remedy: str = "", where: str = ""
    ) -> None:
        self.value = value
        advice = remedy
        if not why:
            advice = (
                "Weights lie between 1e-100 and 1e100, or are 0: divide all of them by one number, "
                "such as their mean."
                if isfinite(value) and value > 0.0
                else "Weights are finite and not negative: a row to leave out has weight 0."
            )
        place = where or f"row {row} of the block"
        message = f"The sample weight of {place} is {value}{why and ', '}{why}. {advice}"
        super().__init__(message, where, row, value, why, remedy)


class WhereError(RowError):
    """A mask that says which rows take part holds something else than true and false.

    Parameters
    ----------
    row : int
        Index of the row inside the block that was being read.
    value : float
        What it holds.
    where : str, optional
        The row's place in the whole input.
    """

    def __init__(self, row: int, value: float, where: str = "") -> None:
        self.value = value
        place = where or f"row {row} of the block"
        super().__init__(
            f"where is {value} at {place}; it is to be true (1) for a row that takes part and "
            f"false (0) for one that does not. Of flags of other kinds make such a mask first, by "
            f"a comparison with those that are good.",
            where,
            row,
            value,
        )


class MissingPackageError(DaskGMMError, ImportError):
    """An optional package is not installed; the message says how to install it."""


class CollapsedComponentError(DaskGMMError, ValueError):
    """A component's covariance is not positive definite; the message names the component."""


class StoreError(DaskGMMError, OSError):
    """A store could not be read or written."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """Nothing was found at a path or URL."""


class ArrayNotFoundError(StoreError, FileNotFoundError):
    """The store exists but does not hold the array that was asked for."""


class MissingChunkError(StoreError):
    """A chunk that the array's metadata promises is not in the store."""


class CorruptChunkError(StoreError):
    """A chunk is there but cannot be decoded: truncated, or its checksum does not hold."""


class DataChangedError(StoreError):
    """What is stored was written anew while it was being read."""


class OutputExistsError(StoreError, FileExistsError):
    """The output is already there and overwriting was not asked for."""


class ModelFileError(StoreError, ValueError):
    """What was found is not a model file that this version can read."""


class CheckpointError(StoreError):
    """A checkpoint could not be written, or what was found is none that this fit can go on from."""


class FencedError(CheckpointError):
    """Another fit has taken over this fit's checkpoint, so this one must write no more."""


class ManifestError(StoreError, ValueError):
    """What was found is not a manifest that this version can read."""


class StateError(DaskGMMError, ValueError):
    """What was found is no state of a fit that this version can go on from."""


class MemoryPlanError(DaskGMMError, MemoryError):
    """A pass would need more memory than a worker has; found before any work is submitted."""


class IncompletePassError(DaskGMMError, RuntimeError):
    """A pass read another number of rows than the plan holds: the input changed under the fit."""


class PassInterruptedError(DaskGMMError, RuntimeError):
    """A pass was told to stop before it was through."""


class ClusterError(DaskGMMError, RuntimeError):
    """The Dask cluster could not do what was asked."""


class VersionsDifferError(ClusterError):
    """Workers run other versions than the driver of what decides the bits of a result."""


class PassLostError(ClusterError):
    """The cluster could not end a pass; what earlier passes have found is still true."""

    def saying(self, sentence: str) -> Self:
        """Return the same error with one more sentence, of what is left to begin again from."""
        more = type(self)(f"{self} {sentence}").with_traceback(self.__traceback__)
        more.__cause__ = self.__cause__
        return more


class NoWorkersError(PassLostError):
    """The scheduler has no workers that answer, and none came within the timeout."""


class SchedulerLostError(PassLostError):
    """The connection to the scheduler broke, and it did not come back within the timeout."""


class UnitFailedError(PassLostError):
    """One unit of work kept losing its worker, more often than chance explains."""


class FeaturesWarning(UserWarning):
    """By its name what was taken for features is none: an axis of places, or an identifier."""


class FillValueWarning(UserWarning):
    """Rows hold the store's fill value, of which nobody has said whether it means "missing"."""


class CollapsedComponentWarning(UserWarning):
    """A component collapsed during a fit, which ended at the last parameters before that."""


class DriftWarning(UserWarning):
    """An update has moved components so far that rows which it has not read would change hands."""


class HeywoodWarning(UserWarning):
    """Factors explain all of a feature, whose noise ended at its bound: they are too many."""


class StaysHereWarning(UserWarning):
    """The input cannot travel to the workers of a cluster, so this process does the work alone."""


class CheckpointWarning(UserWarning):
    """A commit was damaged, so an older one is used; or not written, and the fit goes on."""


class ResumedElsewhereWarning(UserWarning):
    """A fit goes on with another CPU or other packages than it began with: last bits may differ."""


class UnitsWarning(UserWarning):
    """The data's units are too small for `reg_covar`, or their integers too large for float64."""


class ModelFileWarning(UserWarning):
    """What a model file says of how its mixture was fitted is damaged; the mixture is whole."""


class MixedClusterWarning(UserWarning):
    """Workers differ in CPU or packages: results may differ in their last bits between runs."""


class ProgressWarning(UserWarning):
    """The display of a fit's progress failed and is gone; the fit goes on."""


class FamilyWarning(UserWarning):
    """A mixture made of another is not of its covariance family, which has none of such."""
