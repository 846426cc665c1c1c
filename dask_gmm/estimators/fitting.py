"""The fit of any mixture that an estimator asks for: from its parameters to its attributes."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self, overload

from sklearn.base import _fit_context
from sklearn.utils import check_random_state

from dask_gmm.errors import InputError
from dask_gmm.estimators.attributes import family_of, set_parameters
from dask_gmm.estimators.endings import (
    warn_of_ending,
    warn_of_heywood_cases,
    warn_of_rounded_integers,
)
from dask_gmm.estimators.fitted import FittedMixture
from dask_gmm.estimators.inputs import (
    checkpoint_at,
    keeping_features,
    open_input,
    refuse_given_components,
    scaling_asked,
)
from dask_gmm.estimators.ordering import check_order, in_order, refuse_with_order
from dask_gmm.estimators.shown import feature_names
from dask_gmm.execution import choose_backend
from dask_gmm.execution.pinned import cache_size
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.fit import FitReport, fit_mixture
from dask_gmm.fitting.given import check_given
from dask_gmm.fitting.prediction import Labels
from dask_gmm.fitting.search.choice import asked_search
from dask_gmm.fitting.settings import FitSettings, WarmStart
from dask_gmm.mixture.factors import turned
from dask_gmm.progress.observers import observed
from dask_gmm.progress.run import FIT
from dask_gmm.scaling.scaling import scaled_dtype

if TYPE_CHECKING:
    import os

    import dask.array as da
    import numpy as np
    import xarray as xr
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.source import Source
    from dask_gmm.estimators.applied import Labelled, LazyData
    from dask_gmm.execution.backend import Backend
    from dask_gmm.fitting.checkpoint import Checkpoint
    from dask_gmm.fitting.drift import Drift
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.fitting.starts import GivenParameters
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.scaling import ScalingRequest

__all__ = ["FittingMixture"]


class FittingMixture(FittedMixture):
    """What the estimators of mixtures have in common that are fitted; each says by which model."""

    drift_: Drift | None

    @abstractmethod
    def _model(self, family: CovarianceFamily, n_features: int) -> MixtureModel:
        """What a fit maximises, by the estimator's parameters.

        Parameters
        ----------
        family : CovarianceFamily
        n_features : int
            Of the rows that the mixture sees: those of the scaled ones.

        Raises
        ------
        InputError
            A parameter is not what it may be.
        """

    def _settings(
        self,
        family: CovarianceFamily,
        n_features: int,
        scaling: ScalingRequest | None,
        warm: WarmStart | None = None,
    ) -> FitSettings:
        """All that a fit is asked to do, which may go on from a warm start."""
        model = self._model(family, n_features)
        return FitSettings(
            n_components=self.n_components,
            model=model,
            tol=self.tol,
            max_iter=self.max_iter,
            n_init=self.n_init,
            init_params=self.init_params,
            init_size=None if isinstance(self.init_size, str) else self.init_size,
            kernel=self._kernel_of_fit(),
            given=self._given(model, n_features),
            cache=cache_size(self.cache),
            max_passes=self.max_passes,
            max_bytes=self.max_bytes,
            missing=self.missing,
            scaling=scaling,
            **self._strategy(),
        )

    def _given(self, model: MixtureModel, n_features: int) -> GivenParameters:
        """The starting values that were given.

        Raises
        ------
        InputError
        """
        return check_given(
            model.family,
            self.n_components,
            n_features,
            self.weights_init,
            model.places if self.means_init is None else self.means_init,
            self.precisions_init,
        )

    def _strategy(self) -> dict[str, Any]:
        """How a fit gets on, as `FitSettings` calls it."""
        return {
            "on_collapse": self.on_collapse,
            "acceleration": self.acceleration,
            "search": asked_search(self.search),
            "stopping": self.stopping,
        }

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        where: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str = "auto",
    ) -> Self:
        """Fit the mixture.

        Parameters
        ----------
        X : array-like, Dask or xarray collection, Zarr array, path or URL, or many of these
            The data; features along `feature_axis`. What their attributes say of packed and
            missing values (``scale_factor``, ``_FillValue``, ...) is decoded as xarray does. Also
            CSR matrices of SciPy, and the path of an AnnData store (its X, or by `array` a layer or
            ``obsm/X_pca``), made dense block by block. Of a list of arrays, one for each of many
            samples, a dict by their names, a pattern of paths (``plate1/*.zarr``), or with `arrays`
            a group or a folder, all rows are fitted as one; each array is read as it lies in its
            store. A list of rows stays one table.
        y : ignored
        sample_weight : array-like, Dask or xarray collection, Zarr array, path, URL or name
            Weights w_n ≥ 0 of the samples, in their shape; of data in a Zarr group also the name of
            an array beside them, of a Dataset that of one of its variables, of a table that of a
            column; which then is no feature. A row of weight w counts for w rows, one of weight
            zero for none: it may even be NaN. Where dimensions have names, weights may lack some
            of the samples', and are the same along these. Of many arrays a list or dict of theirs,
            None where each row counts once, or a name that each has. ``"equal-per-array"`` lets
            each array count alike, however many rows it has, and ``EqualPerArray(weights)`` also
            where rows have weights; rows that `missing` leaves out are among those that it has.
        where : as `sample_weight`, optional
            A mask: true (1) for the samples that take part, false (0) for the others, which may
            hold anything: land and sea, a quality flag that was compared with the good ones.
        checkpoint : path or URL, optional
            A folder, or a prefix in an object store, of this fit's own. All that it knows is
            written there after the start and each pass, while the next one runs; so another process
            goes on from the last pass, to the same bits. Reached by `storage_options` where it is a
            URL. Three commits are kept. A store that fails on the way is a `CheckpointWarning`.
        resume : {'auto', 'must', 'never'}, default='auto'
            Go on where the checkpoint stands and begin if there is nothing; refuse to begin; or
            begin anew in its place. A fit that has ended there is returned as it was, one that a
            budget has stopped goes on if that is raised. Data and settings must be the same.

        Returns
        -------
        GaussianMixture
            Itself.

        Raises
        ------
        InputError (a ValueError)
            The data are not what a mixture can be fitted to.
        CollapsedComponentError (a ValueError)
            A start has a covariance that is not positive definite; the message names the
            component. When that happens later, `on_collapse` says what becomes of it.
        MemoryPlanError
            A pass would not fit in the memory of a worker; said before any work is submitted.
        CheckpointError (an OSError)
            The checkpoint cannot be used: it is that of another fit, which the message tells, or
            not to be read or written; or, as `FencedError`, another process fits from it too.
        ClusterError (a RuntimeError)
            The cluster could not do it: `SchedulerLostError`, `NoWorkersError`, `UnitFailedError`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, np.nan]])
        >>> gm = GaussianMixture(2, missing="marginalize", random_state=0)
        >>> gm.fit(X, sample_weight=[1, 1, 1, 1, 1, 0]).weights_
        array([0.6, 0.4])

        Of a store, with a checkpoint from which the same call goes on if this process dies:

        >>> import zarr
        >>> stored = zarr.create_array("points.zarr", data=X[:5], chunks=(2, 2), overwrite=True)
        >>> gm.fit("points.zarr", checkpoint="points.checkpoint", resume="never").outcome_
        'converged'
        """
        with keeping_features(self):
            place = checkpoint_at(
                checkpoint, resume, self.storage_options, self.random_state, self.missing_chunks
            )
            source = open_input(self, X, sample_weight, where, reset=True, checkpoint=place)
            self._fit(source, place)
        return self

    @overload
    def fit_predict(  # type: ignore[overload-overlap]
        self, X: Labelled, y: object = None, sample_weight: Any = None, *, where: Any = None
    ) -> xr.DataArray: ...

    @overload
    def fit_predict(  # type: ignore[overload-overlap]
        self, X: LazyData, y: object = None, sample_weight: Any = None, *, where: Any = None
    ) -> da.Array: ...

    @overload
    def fit_predict(
        self, X: object, y: object = None, sample_weight: Any = None, *, where: Any = None
    ) -> NDArray[np.int64]: ...

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit_predict(
        self, X: Any, y: object = None, sample_weight: Any = None, *, where: Any = None
    ) -> NDArray[np.int64] | da.Array | xr.DataArray:
        """Fit the mixture and return the label of each sample; as ``fit(X).predict(X)``.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> GaussianMixture(2, random_state=0).fit_predict(X)
        array([1, 1, 1, 0, 0, 0])
        """
        with keeping_features(self):
            source = open_input(self, X, sample_weight, where, reset=True)
            self._fit(source)
        function = Labels(self._parameters(), self._kernel())
        labels: NDArray[np.int64] | da.Array | xr.DataArray = self._map(X, source, function)
        return labels

    def _check_scaled(self, scaling: ScalingRequest) -> None:
        """Refuse what is of scaled rows and cannot be checked before the data are read.

        Raises
        ------
        InputError
        """
        refuse_given_components(self, scaling)

    def _fit(self, source: Source, checkpoint: Checkpoint | None = None) -> None:
        scaling, _ = self._scaling_for(source)
        names = feature_names(self) or source.feature_names
        check_order(self._order, names, source.n_features)
        refuse_with_order(self, self._order)
        warm = self._warm_start(source, scaling)
        settings = self._fit_settings(source, warm)
        backend = choose_backend(source)
        found = self._fitted_to(backend, source, settings, warm, checkpoint)
        report = self._in_order(found, source)
        self._keep(report, source.dtype)
        warn_of_ending(report, settings)
        warn_of_heywood_cases(report, settings)
        warn_of_rounded_integers(report, source.dtype)

    def _fit_settings(self, source: Source, warm: WarmStart | None = None) -> FitSettings:
        """All that a fit to these rows is asked to do."""
        scaling, n_features = self._scaling_for(source)
        return self._settings(family_of(self), n_features, scaling, warm)

    def _scaling_for(self, source: Source) -> tuple[ScalingRequest | None, int]:
        """What is to be done to these rows first, and how many features they have then."""
        scaling, n_features = scaling_asked(self), source.n_features
        if scaling is not None:
            scaling.begin(n_features, source.feature_names)  # refuses features that are not there
            n_features = scaling.n_outputs(n_features)
            self._check_scaled(scaling)
        return scaling, n_features

    def _fitted_to(
        self,
        backend: Backend,
        source: Source,
        settings: FitSettings,
        warm: WarmStart | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> FitReport:
        """What comes of a fit, watched by whoever watches."""
        with observed(self._observers(), FIT, source, backend) as observers:
            return fit_mixture(
                source,
                backend,
                settings,
                random_state=check_random_state(self.random_state),
                observers=observers,
                warm=warm,
                checkpoint=checkpoint,
            )

    @property
    def _order(self) -> str | int | None:
        """How components are to be numbered."""
        found: str | int | None = getattr(self, "order", None)
        return found

    def _in_order(self, report: FitReport, source: Source) -> FitReport:
        """What came of a fit, with the components in the order that was asked for."""
        return in_order(report, self._order, feature_names(self) or source.feature_names)

    def _kernel_of_fit(self) -> Kernel:
        """What computes in a fit."""
        return self._kernel()

    def _warm_start(self, source: Source, asked: ScalingRequest | None) -> WarmStart | None:
        if not (self.warm_start and hasattr(self, "converged_")):
            return None
        parameters, scaling, n_features = self._parameters(), self._scaling, source.n_features
        if scaling is None or asked is None:
            alike = scaling is None and asked is None
        else:
            alike = scaling.n_features == n_features and asked.made(scaling, source.feature_names)
            n_features = scaling.n_outputs
        if not alike:
            raise InputError(
                "warm_start continues a fit and scales rows as that did: clone the estimator first "
                "to fit with another feature_transform, standardize, n_pca or whiten."
            )
        if parameters.means.shape != (self.n_components, n_features):
            raise InputError(
                f"warm_start continues a fit of {parameters.n_components} components of "
                f"{parameters.n_features} features and cannot go on with {self.n_components} of "
                f"{n_features}: clone the estimator first."
            )
        return WarmStart(parameters, self._bound_per_row(), scaling)

    def _keep(self, report: FitReport, dtype: DTypeLike) -> None:
        """Take over what came of a fit to data of some type."""
        best, self.scaling_ = report.best, report.scaling
        kind = dtype if report.scaling is None else scaled_dtype(dtype)
        set_parameters(self, turned(best.parameters), kind)
        self.converged_ = best.outcome is Outcome.CONVERGED
        self.n_iter_ = best.n_iter
        self.lower_bound_ = best.lower_bound
        self.lower_bounds_ = list(best.lower_bounds)
        self.n_rows_ = report.n_rows
        self.n_incomplete_rows_ = report.n_incomplete
        self.n_passes_ = len(report.history)
        self.history_ = report.history
        self.record_: FitRecord | None = report.record  # models of older versions have none
        self.outcome_ = best.outcome.value
        self.acceleration_ = report.acceleration
        self.remaining_gain_ = best.remaining_gain
        self._kept: KeptStatistics | None = report.kept
        self.n_updates_, self.drift_ = 0, None
