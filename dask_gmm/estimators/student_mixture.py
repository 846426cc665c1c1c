"""`StudentTMixture`: mixtures of t distributions, which outliers do not move."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.utils._param_validation import Interval, StrOptions

from dask_gmm.estimators.fitting import FittingMixture
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.mixture.kernels import STUDENT
from dask_gmm.mixture.student import StudentLikelihood, StudentParameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import DTypeLike

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel

__all__ = ["StudentTMixture"]

_FIRST_DEGREES = 10.0


class StudentTMixture(FittingMixture):
    """Mixture of multivariate t distributions, fitted by EM to data that need not fit in memory.

    A t distribution has heavier tails than a Gaussian: rows far from a component count little for
    its mean and scatter, with a weight u = (ν + D)/(ν + δ²) that follows from the squared distance
    δ² and the component's degrees of freedom ν. These are estimated (Peel & McLachlan 2000), and
    say how heavy the tails are: many of them mean a Gaussian, three or four a few outliers in a
    hundred rows. The same read gives responsibilities and scales.

    Parameters
    ----------
    n_components : int, default=1
        K, the number of components.
    covariance_type : str, default='full'
        What the components' scale matrices share, as for `GaussianMixture`.
    degrees_of_freedom : {'each', 'shared'} or float, default='each'
        Whether each component has degrees of freedom of its own, all have the same, or they are
        fixed at a number: 1 gives Cauchy distributions. Estimates lie between 0.5 and a million.
    tol, reg_covar, max_iter, n_init, init_params, weights_init, means_init, precisions_init
        As of `GaussianMixture`; precisions are those of the scale matrices.
    random_state, warm_start, verbose, verbose_interval
        As of `GaussianMixture`.
    feature_axis, array, arrays, features, columns, storage_options, missing_chunks
        As of `GaussianMixture`: where the data are.
    missing : {'error', 'drop'}, default='error'
        What becomes of rows that hold NaN; 'drop' leaves them out.
    feature_transform, standardize, n_pca, whiten, scaling_from
        As of `GaussianMixture`: what rows become first. `standardize='robust'` goes well with
        outliers.
    init_size, cache, order, stopping, max_passes, max_bytes, callbacks
        As of `GaussianMixture`.
    on_collapse : {'stop', 'raise'}, default='stop'
        What to do when a scale matrix is no longer positive definite: end the fit at the last sound
        parameters with a `CollapsedComponentWarning`, or fail.
    acceleration : {'auto', 'squarem'} or None, default='auto'
        None is plain EM. 'squarem' extrapolates its steps, and each pass verifies that the
        likelihood has not fallen; it fits the sample for the start first. 'auto' is that for data
        that are read from a store or a Dask collection, and None in memory.

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
        Locations μ_k: the means where ν_k > 1.
    covariances_, precisions_, precisions_cholesky_
        Scale matrices Σ_k, their inverses and the factors of these, shaped by `covariance_type` as
        those of `GaussianMixture`. The covariance of a component is Σ_k ν_k/(ν_k − 2) where
        ν_k > 2, and there is none else.
    degrees_of_freedom_ : (K,)
        ν_k.
    converged_, n_iter_, lower_bound_, lower_bounds_, n_features_in_, feature_names_in_, scaling_
    n_rows_, n_incomplete_rows_, n_passes_, history_, record_, outcome_, acceleration_
    remaining_gain_
        As of `GaussianMixture`.

    Notes
    -----
    BIC and AIC count the degrees of freedom that are estimated. Predictions, scores, `sample`,
    `predict_to` and files are those of the t distributions. What looks at distances as those of
    Gaussians is not there: `inspect`, `report` and `impute`.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture, StudentTMixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(size=(500, 2)), rng.uniform(-60, 60, size=(25, 2))])
    >>> tm = StudentTMixture(random_state=0, tol=1e-6, max_iter=1000).fit(X)
    >>> tm.covariances_[0].diagonal().round(1), tm.degrees_of_freedom_.round(1)
    (array([0.6, 0.6]), array([1.7]))
    >>> GaussianMixture(random_state=0).fit(X).covariances_[0].diagonal().round(0)
    array([41., 64.])
    """

    _kinds: ClassVar[tuple[str, ...]] = (StudentParameters.kind,)
    # Of `GaussianMixture`'s parameters these are fixed here.
    kernel: str = "auto"
    search: str | int = "off"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{
            name: allowed
            for name, allowed in GaussianMixture._parameter_constraints.items()
            if name not in ("kernel", "search")
        },
        "degrees_of_freedom": [
            StrOptions({"each", "shared"}),
            Interval(Real, 0.0, None, closed="neither"),
        ],
        "missing": [StrOptions({"error", "drop"})],
        "on_collapse": [StrOptions({"stop", "raise"})],
        "order": [None, str, Integral],
        "acceleration": [StrOptions({"auto", "squarem"}), None],
        "n_init": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        degrees_of_freedom: str | float = "each",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        feature_axis: int | str = -1,
        array: str | None = None,
        arrays: str | Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        missing_chunks: str | dict[str, str] = "error",
        missing: str = "error",
        feature_transform: Any = None,
        standardize: bool | str = False,
        n_pca: float | None = None,
        whiten: bool = True,
        scaling_from: str = "sample",
        init_size: int | str = "auto",
        cache: int | str = "auto",
        on_collapse: str = "stop",
        order: str | int | None = None,
        acceleration: str | None = "auto",
        stopping: str = "auto",
        max_passes: int | None = None,
        max_bytes: int | None = None,
        callbacks: Sequence[Observer] | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.degrees_of_freedom = degrees_of_freedom
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.feature_axis = feature_axis
        self.array = array
        self.arrays = arrays
        self.features = features
        self.columns = columns
        self.storage_options = storage_options
        self.missing_chunks = missing_chunks
        self.missing = missing
        self.feature_transform = feature_transform
        self.standardize = standardize
        self.n_pca = n_pca
        self.whiten = whiten
        self.scaling_from = scaling_from
        self.init_size = init_size
        self.cache = cache
        self.on_collapse = on_collapse
        self.order = order
        self.acceleration = acceleration
        self.stopping = stopping
        self.max_passes = max_passes
        self.max_bytes = max_bytes
        self.callbacks = callbacks

    def _model(self, family: CovarianceFamily, n_features: int) -> MixtureModel:
        asked = self.degrees_of_freedom
        if isinstance(asked, str):
            return StudentLikelihood(family, self.reg_covar, _FIRST_DEGREES, asked)
        return StudentLikelihood(family, self.reg_covar, float(asked), "fixed")

    def _keep(self, report: FitReport, dtype: DTypeLike) -> None:
        super()._keep(report, dtype)
        # Of as many degrees of freedom as there are components some are not estimated.
        k = report.best.parameters.n_components
        self.n_frozen_ = {"each": 0, "shared": k - 1}.get(str(self.degrees_of_freedom), k)

    def _kernel(self) -> Kernel:
        return STUDENT
