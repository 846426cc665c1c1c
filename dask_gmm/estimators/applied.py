"""What a mixture says of each row, handed back: labels, posteriors, values it lacked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, overload

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.coordinates import labelled, labelled_rows
from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.taking_part import with_missing
from dask_gmm.errors import InputError
from dask_gmm.estimators.attributes import parameters_of
from dask_gmm.estimators.fields import handed_back
from dask_gmm.estimators.inputs import open_input
from dask_gmm.estimators.of_many import computed, of_each, proportions_of
from dask_gmm.execution import choose_backend
from dask_gmm.fitting.anomalies import Anomalies
from dask_gmm.fitting.cluster_prediction import ClusterLabels, ClusterPosteriors
from dask_gmm.fitting.events import PassAdvanced, PassStarted
from dask_gmm.fitting.fields import FieldsFunction
from dask_gmm.fitting.imputing import Imputed
from dask_gmm.fitting.passes import first_pass
from dask_gmm.fitting.prediction import (
    FactorScores,
    Labels,
    LogDensities,
    Posteriors,
    RowFunction,
    SharedRowFunction,
    UnscaledLogDensities,
)
from dask_gmm.fitting.regression import Regressed
from dask_gmm.fitting.verbose import VerboseObserver
from dask_gmm.mixture.kernels import MarginalKernel, get_kernel
from dask_gmm.mixture.kernels.marginal import refuse_factors
from dask_gmm.mixture.variational import VariationalPosterior
from dask_gmm.progress.observers import observed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import dask.array as da
    import xarray as xr
    import zarr
    from numpy.typing import NDArray

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import Backend, PassProgress
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.parameters import MixtureParameters
    from dask_gmm.scaling import Scaling

    Labelled: TypeAlias = xr.DataArray | xr.Dataset
    LazyData: TypeAlias = str | os.PathLike[str] | zarr.Array[Any] | zarr.Group | da.Array

__all__ = ["RESULTS", "AppliedMixture", "Watched", "for_each_row", "real_of"]

#: What is computed of the rows, by the name that it has as a DataArray, and in a group.
RESULTS: dict[type[RowFunction], str] = {
    Labels: "labels",
    Posteriors: "posteriors",
    ClusterLabels: "labels",
    ClusterPosteriors: "posteriors",
    FactorScores: "factor_scores",
    LogDensities: "log_density",
    UnscaledLogDensities: "log_density",
    Imputed: "imputed",
    Anomalies: "anomaly",
}


@dataclass(frozen=True)
class Watched:
    """Who runs something, and who watches it."""

    backend: Backend
    observers: tuple[Observer, ...]


class AppliedMixture(BaseEstimator):  # type: ignore[misc]
    """A mixture that is applied to rows, whatever fitted it.

    Constructor parameters are the subclass's; `GaussianMixture` documents them.
    """

    _kinds: ClassVar[tuple[str, ...]] = ("gaussian",)
    """Of its parameters (`MixtureParameters.kind`): which model files it loads."""

    covariance_type: str
    random_state: int | np.random.RandomState | None
    verbose: int
    verbose_interval: int
    kernel: str
    missing: str
    callbacks: Sequence[Observer] | None

    # -- applying --------------------------------------------------------------------------------

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, X: Labelled, *, where: Any = None
    ) -> xr.DataArray: ...

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, X: LazyData, *, where: Any = None
    ) -> da.Array: ...

    @overload
    def predict(self, X: object, *, where: Any = None) -> NDArray[np.int64]: ...

    def predict(self, X: Any, *, where: Any = None) -> NDArray[np.int64] | da.Array | xr.DataArray:
        """Label each sample with its most probable component.

        Parameters
        ----------
        X : as in `fit`
        where : as in `fit`, optional
            The label of a row that takes no part, by `where` or by `missing='drop'`, is -1.

        Returns
        -------
        ndarray, dask.array or DataArray of int64, shape of the samples
            Lazy, block by block, when `X` is lazy. Of xarray objects a DataArray with the
            dimensions of the samples and the coordinates along them; lazy if `X` is. Of many arrays
            a list of these, or a dict by names.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.predict([[0, 0], [12, 3]])
        array([1, 0])

        What is lazy stays lazy:

        >>> import dask.array as da
        >>> gm.predict(da.from_array(X, chunks=(2, 2))).chunks
        ((2, 2, 2),)
        """
        check_is_fitted(self)
        source = open_input(self, X, where=where, reset=False)
        function = Labels(self._parameters(), self._kernel())
        labels: NDArray[np.int64] | da.Array | xr.DataArray = self._map(X, source, function)
        return labels

    @overload
    def predict_proba(  # type: ignore[overload-overlap]
        self, X: Labelled, *, where: Any = None
    ) -> xr.DataArray: ...

    @overload
    def predict_proba(  # type: ignore[overload-overlap]
        self, X: LazyData, *, where: Any = None
    ) -> da.Array: ...

    @overload
    def predict_proba(self, X: object, *, where: Any = None) -> NDArray[np.floating[Any]]: ...

    def predict_proba(
        self, X: Any, *, where: Any = None
    ) -> NDArray[np.floating[Any]] | da.Array | xr.DataArray:
        """Return the posterior probability of each component; shape of the samples, then K.

        Of xarray objects a DataArray, K along the dimension ``component``; else as `predict`.
        float32 for float32 rows, as scikit-learn's, else float64; NaN for rows that take no part.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.predict_proba([[0, 0], [12, 3]]).round(3)
        array([[0., 1.],
               [1., 0.]])
        """
        check_is_fitted(self)
        source = open_input(self, X, where=where, reset=False)
        function = Posteriors(self._parameters(), self._kernel(), real_of(source))
        posteriors: NDArray[np.floating[Any]] | da.Array | xr.DataArray = self._map(
            X, source, function
        )
        return posteriors

    @overload
    def score_samples(  # type: ignore[overload-overlap]
        self, X: Labelled, *, where: Any = None, original_units: bool = False
    ) -> xr.DataArray: ...

    @overload
    def score_samples(  # type: ignore[overload-overlap]
        self, X: LazyData, *, where: Any = None, original_units: bool = False
    ) -> da.Array: ...

    @overload
    def score_samples(
        self, X: object, *, where: Any = None, original_units: bool = False
    ) -> NDArray[np.float64]: ...

    def score_samples(
        self, X: Any, *, where: Any = None, original_units: bool = False
    ) -> NDArray[np.float64] | da.Array | xr.DataArray:
        """Return the log-density of each sample, in nats; shape of the samples, float64.

        A DataArray, lazy or neither as of `predict`.
        Also of float32 rows, which may lie so far out that float32 has no number for it. NaN for
        rows that take no part.

        Where rows are scaled first it is the density of scaled rows, or with `original_units` that
        of the rows themselves; as of `criteria`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.score_samples([[1, 2], [1, 4]]).round(1)
        array([3.9, 3.1])
        """
        check_is_fitted(self)
        source = open_input(self, X, where=where, reset=False)
        parameters, scaling = self._parameters(), self._scaling
        function: RowFunction = LogDensities(parameters, self._kernel())
        if original_units and scaling is not None:
            scaling.log_jacobian(np.empty((0, source.n_features)))  # refuses what has none
            function = UnscaledLogDensities(parameters, self._kernel(), scaling=scaling)
        densities: NDArray[np.float64] | da.Array | xr.DataArray = self._map(X, source, function)
        return densities

    @overload
    def proportions(
        self, X: Any, *, sample_weight: Any = None, where: Any = None, counts: Literal[True]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...

    @overload
    def proportions(
        self, X: Any, *, sample_weight: Any = None, where: Any = None, counts: Literal[False] = ...
    ) -> NDArray[np.float64]: ...

    def proportions(
        self, X: Any, *, sample_weight: Any = None, where: Any = None, counts: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the part of each component in each array, from one read of the data.

        Of each array the mean of its rows' posteriors, Σ w r / Σ w: the shares of populations in
        samples. The hard labels of `counts` have sharper shares, biased where components overlap.

        Parameters
        ----------
        X : as in `fit`
            A list or dict of arrays; any other data are one.
        sample_weight : as in `fit`, optional
        where : as in `fit`, optional
        counts : bool, default=False
            Return also how many rows have each label, unweighted.

        Returns
        -------
        (n_arrays, K) float64
            Rows add up to one; beside noise they are parts of what is none. NaN for an array
            without rows that take part. In the order of the list, or of the dict's keys.
        (n_arrays, K) int64
            With `counts`; rows of the label -1 are in none.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.proportions([X, X[:4]])
        array([[0.5 , 0.5 ],
               [0.25, 0.75]])
        >>> gm.proportions([X, X[:4]], counts=True)[1]
        array([[3, 3],
               [1, 3]])
        """
        check_is_fitted(self)
        source = for_each_row(open_input(self, X, sample_weight, where, reset=False))
        found = proportions_of(source, self._parameters(), self._kernel(), self._run_scaled)
        return (found.proportions, found.counts) if counts else found.proportions

    @overload
    def impute(  # type: ignore[overload-overlap]
        self, X: Labelled, *, draw: bool = False
    ) -> xr.DataArray: ...

    @overload
    def impute(  # type: ignore[overload-overlap]
        self, X: LazyData, *, draw: bool = False
    ) -> da.Array: ...

    @overload
    def impute(self, X: object, *, draw: bool = False) -> NDArray[np.floating[Any]]: ...

    def impute(
        self, X: Any, *, draw: bool = False
    ) -> NDArray[np.floating[Any]] | da.Array | xr.DataArray:
        """Fill values that are missing, marked by NaN, by what the mixture makes of the others.

        For values that are missing at random (which ones may depend on those that are there), and
        whatever `missing` says. A row that misses all gets the mixture's mean. Of a mixture of
        scaled rows it is scaled values that are expected, or drawn; they come back in the data's
        units, and those that are there as they were.

        Parameters
        ----------
        X : as in `fit`
        draw : bool, default=False
            Draw each from its distribution given the row's other values, instead of its conditional
            mean, the best guess, which has less scatter than data have. A row's draw depends on
            `random_state` and the row's place in X alone, not on chunks or on who computes it.

        Returns
        -------
        ndarray, dask.array or DataArray of X's shape
            float32 for float32 rows, else float64; lazy, block by block, when X is lazy. Of a
            DataArray one with its dimensions and coordinates. Several variables, of a Dataset or
            by `features`, have the shape of their samples and then the features; of a Dataset a
            DataArray, whose last dimension ``feature`` names them.

        Raises
        ------
        InputError (a ValueError)
            X cannot be used, or its chunk sizes are unknown, where rows are to be drawn; or the
            mixture is one of principal components, none of which is known of a row with a gap.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.impute([[1, np.nan], [10, np.nan]]).round(3)
        array([[ 1.,  2.],
               [10.,  2.]])
        """
        check_is_fitted(self)
        source = with_missing(open_input(self, X, reset=False), "error")
        function = self._imputed(source, draw=draw)

        def finish(array: Any, own: Source, values: Any) -> Any:
            rows = np.moveaxis(values, -1, own.feature_axis)
            return labelled_rows(array, own, rows, RESULTS[Imputed])

        rows: Any = (
            of_each(X, source, function, self._lazily, finish)
            if is_many(source)
            else finish(X, source, self._mapped(source, function))
        )
        found: NDArray[np.floating[Any]] | da.Array | xr.DataArray = rows
        return found

    def _imputed(self, source: Source, *, draw: bool) -> Imputed:
        shape = tuple(n for n in source.sample_shape if n is not None)
        seed = None
        if draw:
            if len(shape) < len(source.sample_shape):
                raise InputError(
                    f"{source.name} does not know the lengths of its chunks, so that nobody can "
                    f"say which row is which: pass `X.compute_chunk_sizes()`, or draw=False."
                )
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        parameters = self._parameters()
        if parameters.more and not isinstance(parameters, VariationalPosterior):
            raise InputError(f"impute is for Gaussian mixtures, and this is a {parameters.words}.")
        refuse_factors(parameters)
        kernel, scaling = MarginalKernel(get_kernel(self.kernel)), self._scaling
        if scaling is not None and scaling.principal is not None:
            raise InputError(
                "A mixture of principal components cannot fill gaps: of a row with a gap no "
                "component is known. Fit one without n_pca."
            )
        return Imputed(self._parameters(), kernel, real_of(source), seed, shape, scaling)

    # -- inside ----------------------------------------------------------------------------------

    def _map(self, X: Any, source: Source, function: RowFunction) -> Any:
        """Apply a function of rows: lazily to what is lazy, now to what is in memory."""
        tails: dict[type[RowFunction], str] = {
            Posteriors: "component",
            ClusterPosteriors: "cluster",
            FactorScores: "factor",
        }
        tail = tails.get(type(function), "")

        def finish(array: Any, own: Source, values: Any) -> Any:
            if isinstance(function, FieldsFunction):
                return handed_back(array, own, values, function.fields)
            return labelled(array, own, values, RESULTS[type(function)], tail)

        if is_many(source):
            return of_each(X, source, function, self._lazily, finish)
        return finish(X, source, self._mapped(source, function))

    def _mapped(self, source: Source, function: RowFunction) -> Any:
        lazy = self._lazily(source, function)
        return computed([lazy])[0] if source.in_memory else lazy

    def _lazily(self, source: Source, function: RowFunction) -> da.Array:
        k, placed = function.n_outputs, isinstance(function, Imputed)
        if placed:
            k = source.n_features
        source = self._rows_for(for_each_row(source), function)
        kind = np.dtype(function.dtype)
        shared = SharedRowFunction(function)
        return lazy_map(source, shared, kind, k, function.absent, placed=placed)

    def _run(
        self,
        source: Source,
        job: BlockJob[Any],
        blocks: Sequence[int] | None = None,
        *,
        doing: str = "scoring",
        watched: Watched | None = None,
    ) -> Any:
        """Run a job over all blocks, or some of them, and return the root of its tree.

        Parameters
        ----------
        source : Source
        job : BlockJob
        blocks : sequence of int, optional
        doing : str
            What those who watch it call it.
        watched : Watched, optional
            Where it belongs to something that is watched already.
        """
        if watched is not None:
            return _one_pass(watched, source, job, blocks)
        backend = choose_backend(source)
        with observed(self._observers(), doing, source, backend) as observers:
            return _one_pass(Watched(backend, observers), source, job, blocks)

    def _run_scaled(self, source: Source, job: BlockJob[Any], *args: Any, **kwargs: Any) -> Any:
        """Run a job of the rows that the mixture is of: scaled ones, if it is of such."""
        return self._run(scaled(source, self._scaling), job, *args, **kwargs)

    @property
    def _scaling(self) -> Scaling | None:
        """What rows are scaled by."""
        found: Scaling | None = getattr(self, "scaling_", None)
        return found

    def _rows_for(self, source: Source, function: RowFunction) -> Source:
        """The source of the rows that a function takes: scaled ones, if it does not scale them."""
        own = isinstance(function, Imputed | UnscaledLogDensities | Regressed)
        return source if own else scaled(source, self._scaling)

    def _observers(self) -> tuple[Observer, ...]:
        observers = tuple(self.callbacks or ())
        if self.verbose:
            observers += (VerboseObserver(int(self.verbose), self.verbose_interval),)
        return observers

    def _kernel(self) -> Kernel:
        """What computes; for missing values, where they are to be taken for such."""
        kernel = get_kernel(self.kernel)
        return MarginalKernel(kernel) if self.missing == "marginalize" else kernel

    def _parameters(self) -> MixtureParameters:
        """The fitted parameters as one value; also those that somebody has set by hand."""
        return parameters_of(self)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "precisions_cholesky_")


def _one_pass(
    watched: Watched, source: Source, job: BlockJob[Any], blocks: Sequence[int] | None
) -> Any:
    """Run a job in a single pass, and tell those who watch how far it is."""

    def advanced(progress: PassProgress) -> None:
        for observer in watched.observers:
            observer(PassAdvanced(1, progress))

    for observer in watched.observers:
        observer(PassStarted(1, 1))
    on_progress: Callable[[PassProgress], None] | None = advanced if watched.observers else None
    with watched.backend.open(source, blocks=blocks) as passes:
        return first_pass(passes, job, on_progress).value


def for_each_row(source: Source) -> Source:
    """The source for what is said of each row: those without any value are some too."""
    return with_missing(source, "error") if source.missing == "marginalize" else source


def real_of(source: Source) -> type[np.floating[Any]]:
    """Type of probabilities: float32 for float32 data, as in scikit-learn, else float64."""
    return np.float32 if source.dtype == np.float32 else np.float64
