"""`BayesianGaussianMixture`: variational Bayes; scikit-learn's surface, wiring only."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import numpy as np
from sklearn.mixture import BayesianGaussianMixture as SklearnBayesianGaussianMixture
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from dask_gmm.errors import InputError
from dask_gmm.estimators.fitting import FittingMixture
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.fitting.given_priors import (
    check_covariance_prior,
    check_degrees_of_freedom,
    check_mean_prior,
)
from dask_gmm.fitting.starts import GivenParameters
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parameters import frozen_array
from dask_gmm.mixture.variational import (
    DIRICHLET_DISTRIBUTION,
    DIRICHLET_PROCESS,
    VariationalBayes,
    VariationalPosterior,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.scaling import ScalingRequest

__all__ = ["BayesianGaussianMixture"]

# What is as of `GaussianMixture`.
_SHARED = (
    "n_components",
    "tol",
    "reg_covar",
    "max_iter",
    "n_init",
    "init_params",
    "random_state",
    "warm_start",
    "verbose",
    "verbose_interval",
    "feature_axis",
    "array",
    "arrays",
    "features",
    "columns",
    "storage_options",
    "missing_chunks",
    "missing",
    "feature_transform",
    "standardize",
    "n_pca",
    "whiten",
    "scaling_from",
    "init_size",
    "kernel",
    "cache",
    "max_passes",
    "max_bytes",
    "callbacks",
)


class BayesianGaussianMixture(FittingMixture):
    """Gaussian mixture fitted by variational Bayes to data that need not fit in memory.

    As ``sklearn.mixture.BayesianGaussianMixture``, parameter by parameter and number by number, for
    all that `GaussianMixture` reads, one read of the data an iteration. Instead of one estimate of
    weights, means and covariances it has an approximate posterior of them (Bishop, PRML, 10.2;
    Blei & Jordan 2006), whose prior leaves components without rows that are not needed: give more
    of them than there may be, and look at `weights_`.

    Parameters
    ----------
    n_components : int, default=1
        K, the most components that may have rows.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        What the components' covariances share.
    tol : float, default=1e-3
        The fit has converged when an iteration changes `lower_bound_` by less, in nats of all rows
        together, as in scikit-learn; 0 for never.
    reg_covar : float, default=1e-6
        Added to every variance, in squared units of the data (of the scaled rows, if they are).
    max_iter : int, default=100
        Most iterations, each one read of the data.
    n_init : int, default=1
        Starts; all advance in the same reads, and the best end is kept.
    init_params : default='kmeans'
        One of 'kmeans', 'k-means++', 'random', 'random_from_data', 'k-means||': as of
        `GaussianMixture`.
    weight_concentration_prior_type : default='dirichlet_process'
        'dirichlet_process' (stick-breaking, of K sticks) or 'dirichlet_distribution'.
    weight_concentration_prior : float, optional
        γ of the process, or α_0 of each component of the distribution; 1 / K by default. A smaller
        one leaves fewer components with rows.
    mean_precision_prior : float, optional
        β_0: how many rows the prior's mean counts for; 1 by default.
    mean_prior : array-like of shape (D,), optional
        The prior's mean; the data's by default (see the notes).
    degrees_of_freedom_prior : float, optional
        ν_0 > D − 1 of the Wishart prior of precisions; D by default.
    covariance_prior : float or array-like, optional
        Its inverse scale C_0, ν_0 times the covariance that it expects: of shape (D, D) for 'full'
        and 'tied', (D,) for 'diag', a number for 'spherical'. By default the data's covariance, of
        'spherical' the mean of their variances.
    random_state : int, RandomState or None, default=None
        Seeds the sample, the starts and `sample`.
    warm_start : bool, default=False
        Continue from the last fit's posterior.
    verbose, verbose_interval : int
        As of `GaussianMixture`.
    tol_per_row : float, default=1e-8
        And it has converged when the bound changes by less for each row (unit of weight): `tol`,
        which is of all rows, is out of reach where there are a billion of them. Of fewer than
        100,000 rows the default changes nothing; 0 for scikit-learn's rule alone.
    feature_axis, array, arrays, features, columns, storage_options, missing_chunks : optional
        Where the features are, and how to read the data: as of `GaussianMixture`.
    missing : {'error', 'drop', 'marginalize'}, default='error'
        As of `GaussianMixture`. Values that are missing at random are one more factor of the
        posterior with 'marginalize', which has the bound of what is there.
    feature_transform, standardize, n_pca, whiten, scaling_from : optional
        What is done to rows first: as of `GaussianMixture`. Priors are then of the scaled rows.
    init_size, kernel, cache : optional
        As of `GaussianMixture`.
    acceleration : {'auto', 'squarem'} or None, default='auto'
        None is scikit-learn's way, one update a read, to the last digit. 'squarem' extrapolates
        updates and sets out from the best of 5 starts (or of `n_init`) that are fitted to the
        sample; each read verifies a step by the bound, which it never lowers. It has converged when
        the optimum is estimated to be less than `tol` above. 'auto' is 'squarem' for data that are
        read from a store or a Dask collection and exceed the sample, None for all else.
    max_passes, max_bytes, callbacks : optional
        As of `GaussianMixture`.

    Attributes
    ----------
    weights_ : (K,)
        Expected weights.
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_
        Of shape (K, D, D), (D, D), (K, D) or (K,) by `covariance_type`: expected precisions, and
        their inverses.
    weight_concentration_ : (K,), or two of them
        α_k of the distribution; of the process a_k and b_k of the sticks v_k ~ Beta(a_k, b_k).
    mean_precision_ : (K,)
        β_k.
    degrees_of_freedom_ : (K,) or float
        ν_k; one for all where covariances are tied.
    weight_concentration_prior_, mean_precision_prior_, degrees_of_freedom_prior_ : float
    mean_prior_ : (D,)
    covariance_prior_ : (D, D), (D,) or float
        The priors that were used.
    converged_ : bool
    n_iter_ : int
    lower_bound_ : float
        Of all rows, in nats, without the terms that are constant in a fit: scikit-learn's, which
        compares fits of the same data with the same priors and K alone.
    lower_bounds_ : list of float
        The same for each iteration of the best start; it never falls, up to `reg_covar`.
    evidence_bound_ : float
        With these terms: a lower bound of log p(X), in nats, which compares also numbers of
        components, families and priors.
    n_features_in_, feature_names_in_, scaling_, n_rows_, n_incomplete_rows_, n_passes_
        As of `GaussianMixture`, and so are `history_`, `record_`, `outcome_`, `acceleration_` and
        `remaining_gain_`; objectives in them are of `lower_bound_` per row.

    Notes
    -----
    Rows with weights count for so many rows: a posterior is the narrower the more they weigh, so
    let them add up to the number of observations that they stand for.

    `predict`, `score_samples` and their kin use expected log-densities, as scikit-learn's, not the
    predictive density: exp of `score_samples` does not integrate to one. So there is no BIC.

    The data's mean and covariance, where a prior is left to them, are those of the weighted sample
    for the start, which is all rows if they are few. Give both priors for other ones.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import BayesianGaussianMixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [4, 2], [12, 4], [10, 7]])
    >>> bgm = BayesianGaussianMixture(n_components=2, random_state=42).fit(X)
    >>> bgm.means_.round(2)
    array([[2.5 , 2.29],
           [8.46, 4.52]])
    >>> bgm.predict([[0, 0], [9, 3]])
    array([0, 1])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: GaussianMixture._parameter_constraints[name] for name in _SHARED},
        "covariance_type": [StrOptions({"full", "tied", "diag", "spherical"})],
        "weight_concentration_prior_type": [
            StrOptions({DIRICHLET_PROCESS, DIRICHLET_DISTRIBUTION})
        ],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
        "tol_per_row": [Interval(Real, 0.0, None, closed="left")],
        "acceleration": [StrOptions({"auto", "squarem"}), None],
    }
    _theirs: ClassVar[type[Any]] = SklearnBayesianGaussianMixture
    _kinds: ClassVar[tuple[str, ...]] = (VariationalPosterior.kind,)

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = DIRICHLET_PROCESS,
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        tol_per_row: float = 1e-8,
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
        kernel: str = "auto",
        cache: int | str = "auto",
        acceleration: str | None = "auto",
        max_passes: int | None = None,
        max_bytes: int | None = None,
        callbacks: Sequence[Observer] | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.tol_per_row = tol_per_row
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
        self.kernel = kernel
        self.cache = cache
        self.acceleration = acceleration
        self.max_passes = max_passes
        self.max_bytes = max_bytes
        self.callbacks = callbacks

    # -- fitting ---------------------------------------------------------------------------------

    def _model(self, family: CovarianceFamily, n_features: int) -> VariationalBayes:
        """What is maximised; priors that are left to the data are None."""
        concentration, precision = self.weight_concentration_prior, self.mean_precision_prior
        return VariationalBayes(
            family,
            self.reg_covar,
            dirichlet_process=self.weight_concentration_prior_type == DIRICHLET_PROCESS,
            weight_concentration_prior=(
                1.0 / self.n_components if concentration is None else float(concentration)
            ),
            mean_precision_prior=1.0 if precision is None else float(precision),
            degrees_of_freedom_prior=check_degrees_of_freedom(
                self.degrees_of_freedom_prior, n_features
            ),
            mean_prior=check_mean_prior(self.mean_prior, n_features),
            covariance_prior=check_covariance_prior(self.covariance_prior, family, n_features),
            tol_per_row=self.tol_per_row,
        )

    def _given(self, model: MixtureModel, n_features: int) -> GivenParameters:
        return GivenParameters()

    def _strategy(self) -> dict[str, Any]:
        return {"acceleration": self.acceleration}

    def _check_scaled(self, scaling: ScalingRequest) -> None:
        given = (self.mean_prior, self.covariance_prior, self.degrees_of_freedom_prior)
        if isinstance(scaling.n_pca, float) and any(prior is not None for prior in given):
            raise InputError(
                f"mean_prior, covariance_prior and degrees_of_freedom_prior are of the principal "
                f"components, and n_pca={scaling.n_pca} leaves their number to the data: give a "
                f"whole number."
            )

    def _keep(self, report: FitReport, dtype: DTypeLike) -> None:
        super()._keep(report, dtype)
        model, posterior = report.model, report.best.parameters
        assert isinstance(model, VariationalBayes)
        assert isinstance(posterior, VariationalPosterior)
        for name, value in model.priors.items():
            setattr(self, f"{name}_", value.copy() if value.ndim else float(value))
        n = model.weight_of(posterior)
        self.lower_bounds_ = [n * bound for bound in report.best.lower_bounds]
        self.lower_bound_ = n * report.best.lower_bound

    @property
    def evidence_bound_(self) -> float:
        """A lower bound of log p(X), in nats: `lower_bound_` and what is constant in a fit."""
        check_is_fitted(self)
        posterior, priors = self._parameters(), self._priors()
        n = priors.weight_of(posterior)
        return float(self.lower_bound_) + priors.constant(n, posterior.n_components)

    def _bound_per_row(self) -> float:
        n = self._priors().weight_of(self._parameters())
        return float(self.lower_bound_) / n if n > 0.0 else float(self.lower_bound_)

    def _parameters(self) -> VariationalPosterior:
        found = super()._parameters()
        assert isinstance(found, VariationalPosterior)
        return found

    def _priors(self) -> VariationalBayes:
        """The model of the last fit, with the priors that it had."""
        return VariationalBayes(
            covariance_family(self.covariance_type),
            self.reg_covar,
            dirichlet_process=isinstance(self.weight_concentration_, tuple),
            weight_concentration_prior=self.weight_concentration_prior_,
            mean_precision_prior=self.mean_precision_prior_,
            degrees_of_freedom_prior=self.degrees_of_freedom_prior_,
            mean_prior=frozen_array(self.mean_prior_),
            covariance_prior=frozen_array(self.covariance_prior_),
        )

    @classmethod
    def from_sklearn(cls, model: SklearnBayesianGaussianMixture) -> Self:
        """Return a fitted ``sklearn.mixture.BayesianGaussianMixture`` as one of this class.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.mixture import BayesianGaussianMixture as Theirs
        >>> from dask_gmm import BayesianGaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> theirs = Theirs(n_components=2, random_state=0).fit(X)
        >>> ours = BayesianGaussianMixture.from_sklearn(theirs)
        >>> bool(np.all(ours.predict(X) == theirs.predict(X)))
        True
        """
        bgm = super().from_sklearn(model)
        # Of tied covariances scikit-learn's bounds are arrays of one number.
        bgm.lower_bound_ = float(np.squeeze(bgm.lower_bound_))
        bgm.lower_bounds_ = [float(np.squeeze(bound)) for bound in bgm.lower_bounds_]
        return bgm

    def reordered(self, order: Any) -> NoReturn:
        """Refused: sticks of a Dirichlet process have an order, and mean other weights in another.

        Examples
        --------
        >>> from dask_gmm import BayesianGaussianMixture
        >>> fitted = BayesianGaussianMixture().fit([[0.0], [1.0], [3.0]])
        >>> fitted.reordered("weight")
        Traceback (most recent call last):
        ...
        dask_gmm.errors.InputError: Components of a posterior keep their order: ...
        """
        raise InputError(
            "Components of a posterior keep their order: the sticks of a Dirichlet process mean "
            "other weights in another one. Sort weights_ and means_ to look at them."
        )

    # -- what maximum likelihood has and a posterior has not ---------------------------------------

    @property
    def bic(self) -> NoReturn:
        """There is none; see `criteria`."""
        raise AttributeError(_NO_CRITERIA.format("bic"))

    @property
    def aic(self) -> NoReturn:
        """There is none; see `criteria`."""
        raise AttributeError(_NO_CRITERIA.format("aic"))

    @property
    def criteria(self) -> NoReturn:
        """There are none: they judge maximum-likelihood estimates by their free parameters."""
        raise AttributeError(_NO_CRITERIA.format("criteria"))


_NO_CRITERIA = (
    "BayesianGaussianMixture has no {}: BIC and AIC judge maximum-likelihood estimates. Compare "
    "evidence_bound_ of fits to the same data, or score(X) of rows that were held out."
)
