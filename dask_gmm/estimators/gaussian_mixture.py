"""`GaussianMixture`: its parameters and what they mean; scikit-learn's surface, wiring only."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from dask_gmm.data.missing import MISSING
from dask_gmm.errors import InputError
from dask_gmm.estimators.inputs import refuse_with_frozen, refuse_with_prior
from dask_gmm.estimators.streaming import StreamingMixture
from dask_gmm.fitting.collapse import ON_COLLAPSE
from dask_gmm.fitting.search.choice import SEARCHES
from dask_gmm.fitting.strategies import ACCELERATIONS
from dask_gmm.mixture.family import COVARIANCE_TYPES
from dask_gmm.mixture.frozen import Frozen, FrozenParts, arrays_of
from dask_gmm.mixture.kernels import KERNELS
from dask_gmm.mixture.kernels.noisy import NoisyKernel
from dask_gmm.mixture.model import MaximumLikelihood
from dask_gmm.mixture.noise import NoisyParameters, UniformNoise, box_of
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.posterior import MaximumAPosteriori
from dask_gmm.mixture.prior import PRIORS, Prior, check_prior, prior_of
from dask_gmm.scaling.request import FROM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.fitting.settings import FitSettings, WarmStart
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.kernels import Kernel
    from dask_gmm.mixture.model import MixtureModel
    from dask_gmm.scaling import ScalingRequest

__all__ = ["GaussianMixture"]


class GaussianMixture(StreamingMixture):
    """Gaussian mixture fitted by exact EM to data that need not fit in memory.

    Every iteration reads each block of the data once; restarts share their reads. Data may be NumPy
    arrays and what scikit-learn takes, frames of pandas, polars and Arrow, Dask arrays and
    DataFrames (CSV files by ``dask.dataframe.read_csv``), xarray DataArrays and Datasets, Zarr
    arrays, or paths and URLs of Zarr arrays and Parquet tables (a file, a folder of files, or a
    pattern such as ``data/**/*.parquet``). Passes run on the current ``distributed.Client``, or
    else on the threads of this process; arrays in this process's memory are computed here, and so
    are stores that would take credentials or data along (`StaysHereWarning`). In a Dask task that
    is the client that the task has asked for (``worker_client``, ``get_client``); one that has not
    keeps the work on its worker.

    Parameters
    ----------
    n_components : int, default=1
        K, the number of components.
    covariance_type : str, default='full'
        What the components' covariances share: 'full', 'tied', 'diag', 'spherical', or one of
        mclust's fourteen families, whose letters say whether volume, shape and orientation are
        equal (E), vary (V) or are those of the identity (I): 'EII', 'VII', 'EEI', 'VEI', 'EVI',
        'VVI', 'EEE', 'VEE', 'EVE', 'VVE', 'EEV', 'VEV', 'EVV', 'VVV' (Celeux & Govaert 1995). VVV
        is full, EEE tied, VVI diag and VII spherical, to the bit. All but these add `reg_covar` to
        the scatter, so that what is equal stays equal. Attributes have the shapes of the form: of
        spherical for EII, of diag for names that end in I, else of full.
        'factors' are factor analysers, Σ_k = Λ_k Λ_kᵀ + Ψ_k of `n_factors` factors and a diagonal
        (Ghahramani & Hinton 1997), for hundreds or thousands of features: nothing takes D². 'ppca'
        has Ψ_k = σ_k² I (Tipping & Bishop 1999), and 'UCU', 'UCC', 'CUU', 'CUC', 'CCU', 'CCC' are
        the other kinds of McNicholas & Murphy (2008), C for what all components share: loadings,
        noise, and for noise that all features share.
    n_factors : int, optional
        q, the factors of each component, where `covariance_type` has some; 'factors:5' says both.
    tol : float, default=1e-3
        Nats per row. An accelerated fit has converged when the optimum is estimated to be less
        than this above it; plain EM when an iteration changes the mean log-likelihood by less,
        and there real, overlapping data often gain much more by going on: try 1e-5.
    reg_covar : float, default=1e-6
        Added to every variance, in squared units of the data (of the scaled rows, if they are).
    prior : None, 'fraley-raftery' or Prior, default=None
        A conjugate prior on weights, means and covariances: the fit maximises the log-posterior
        (maximum a posteriori) instead of the likelihood, and no component collapses onto a few
        rows. By name the default of Fraley & Raftery (2007), as in mclust: weak, and taken from the
        mean and covariance of the sample for the start, all rows where they fit in it. Others are
        a `dask_gmm.Prior`, as is the one by which a given mixture is adapted to other data
        (`Prior.adapting`). With (K, D) means a fit begins at these, if `means_init` gives none.
        BIC and its kin are those of Fraley & Raftery: the log-likelihood at the mode of the
        posterior, with the same number of parameters.
    frozen : str, int, sequence of these, or dict, optional
        What a fit leaves as it is given: 'weights', 'means', 'covariances', of all components; the
        numbers of components, which keep all three; or by each part's name the numbers, as in
        ``{"means": [0, 1], "covariances": True}``. What is frozen has to be given whole, by
        `weights_init`, `means_init` or `precisions_init`, or by the fit that a warm start
        continues, and comes out with the same bits. Weights that are free share what the frozen
        ones leave; covariances are estimated about the means there are. BIC and AIC count the
        parameters that are free. A covariance that components share is frozen whole or not at all.
        Fits to data that are read are accelerated by 'squarem'.
    max_iter : int, default=100
        Most iterations, each one read of the data.
    noise : bool or array-like of shape (2, D), default=False
        Whether rows may be noise, uniform in the box that the data fill (Banfield & Raftery 1993):
        the sample's, or the one whose lower and upper corner are given, in the units of the rows
        that the mixture sees. Rows outside it count as noise of the same density. Noise has the
        label -1 and the probability that is missing of `predict_proba` to one. Not with
        ``missing='marginalize'``, nor with an `on_collapse` that mends; steps are not those of
        'variance-reduced', and nothing is searched.
    n_init : int, default=1
        Starts; all advance in the same reads, and the best end is kept.
    init_params : default='kmeans'
        One of 'kmeans', 'k-means++', 'random', 'random_from_data', 'k-means||'.
        How starting responsibilities are found, on a sample of `init_size` rows; 'k-means||' looks
        at all rows, in four more reads that restarts share: for components so rare that a sample
        misses them.
    weights_init : array-like of shape (K,), optional
    means_init : array-like of shape (K, D), optional
    precisions_init : array-like of the shape of `precisions_`, optional
        Given starting values; with all three nothing is sampled.
    random_state : int, RandomState or None, default=None
        Seeds the sample, the starts and `sample`.
    warm_start : bool, default=False
        Continue from the last fit's parameters.
    verbose : int, default=0
        1 prints a line every `verbose_interval` iterations, 2 adds times and changes; 0 says
        nothing, however long a fit takes. `dask_gmm.ProgressBar` shows more, see `callbacks`.
    verbose_interval : int, default=10
    feature_axis : int or str, default=-1
        The axis that holds the features; all others are samples. A dimension's name for xarray;
        tables in memory, which name no axes, are then taken as rows of features. Of a Dataset, or
        with `features`, the name of the dimension along which variables have several features; -1
        if each is one.
    array : str, optional
        Name of the array when the data is a Zarr group.
    arrays : str or list of str, optional
        Names, or patterns of names such as ``"*"``, of many arrays of a Zarr group, or of stores in
        a folder, that are taken as one: see `fit`.
    features : list of str, optional
        Names of several arrays of a Zarr group, or of variables of a Dataset (all its data
        variables by default), which together are the features, in this order. Each is one feature,
        or as many as there are places along the dimension that `feature_axis` names; all have the
        other dimensions, in any order, and each is read as it lies in its store. Different types
        promote as NumPy's: float32 beside float64 is fitted in float64.
    columns : sequence of str, optional
        The columns of a table that are features, in this order; by default all of them. A stored
        table is read by these names, or those of the fit, whatever the order of its columns.
    storage_options : mapping, optional
        How to reach a store given by URL: endpoint, region, anonymous access (skip_signature), a
        proxy (proxy_url), the certificates of a private authority (ca_file), who pays
        (requester_pays, user_project). Never credentials: each worker takes its own from its
        environment.
    missing_chunks : {'error', 'fill'} or dict, default='error'
        Whether a chunk that is not in the store is an error or stands for the fill value. Zarr
        leaves out chunks that hold nothing else, of a mask those that are false throughout: as a
        dict it says so of the rows, the mask and the weights one by one, by the names that they
        have in `fit`, as ``{'where': 'fill'}``; for those that it does not name it is an error.
    missing : {'error', 'drop', 'marginalize'}, default='error'
        What becomes of rows that hold NaN, which is then a missing value. 'drop' leaves them out;
        predictions have -1 or NaN in their place. 'marginalize' takes each with the values it has:
        exact EM for values that are missing at random (Ghahramani & Jordan 1994), with the
        likelihood of what is there. A row that misses all has no part in a fit, a score or the N of
        BIC; its log-density is 0, and its posteriors are the weights.
    feature_transform : {'log1p', 'arcsinh'}, tuple, dict or None, default=None
        What is done to each value as it is read: log(1 + x), or arcsinh x, of ``('arcsinh', 150)``
        arcsinh(x/150), as in flow cytometry. A dict says it by feature, whose name (of a variable
        with levels that of all) or index is the key.
    standardize : bool or 'robust', default=False
        Then subtract each feature's mean and divide by its standard deviation; or 'robust' its
        median, and the interquartile range over 1.349. A feature that has one value only is not
        divided, with a warning.
    n_pca : int or float, optional
        Fit to so many principal components, or to as many as have that part of the variance, after
        `feature_transform` and `standardize`.
    whiten : bool, default=True
        Divide principal components by their standard deviations.
    scaling_from : {'sample', 'all'}, default='sample'
        The rows from which means, deviations and components are estimated: the weighted sample for
        the start, all rows if they are few; or all rows, in the same read that the sample is drawn
        in, one read of everything more. Medians are always the sample's.
        `means_` and its kin, `reg_covar`, given starts and all likelihoods are then those of the
        scaled rows, as they would be in a pipeline; `original_units` has means and covariances in
        the data's units, `sample` and `impute` answer in those, and so do `score`, `score_samples`
        and `criteria` if they are asked to.
    init_size : int or 'auto', default='auto'
        Rows of the sample for the start; 'auto' takes 50 per free parameter and at least 100,000.
        Rows of weight zero are none: more is read for it where few have a weight.
    kernel : {'auto', 'compiled', 'blas', 'reference'}, default='auto'
        How the E-step is computed: by machine code made for this CPU, by matrix products, or
        slowly in extended precision. 'auto' is 'compiled' where llvmlite is installed, else 'blas'.
        'compiled' computes float32 rows in float32 as far as no digit that matters is lost.
    cache : 'auto', int or str, default='auto'
        How much of the decoded data each process keeps in memory from one iteration to the next:
        bytes, a size such as '2 GiB', or 0 for nothing. 'auto' takes up to three eighths of a
        worker's memory limit (of this machine's free memory), less where the work itself needs it.
        Only what is read from a store, and only while a fit lasts.
    on_collapse : {'stop', 'reseed', 'merge', 'raise'}, default='stop'
        What to do when a covariance is no longer positive definite: end the fit at the last sound
        parameters with a `CollapsedComponentWarning`; put the component where the sample fits
        worst; give its rows to the component that takes them at the least cost, which leaves
        fewer than `n_components`; or fail, as scikit-learn does. 'reseed' and 'merge' also take
        care of components that hold less than one row, and warn of each component they mended.
        A covariance that all components share ('tied') cannot be mended. An accelerated fit whose
        bold step collapses takes the plain one instead, and begins anew from a mended mixture; what
        collapses on the sample alone counts for nothing.
    order : {'weight', 'principal'}, str or int, optional
        How components are numbered when a fit has ended, so that labels of different fits can be
        compared: the heaviest first; along the direction in which the means are spread most; or
        along a feature, by its name or number, the lowest mean first. None leaves them as EM ended.
        Nothing else of the fit depends on it; what is said of single components on the way
        (warnings, `history_`) numbers them as the fit did. `reordered` sorts a fitted mixture.
    acceleration : {'auto', 'variance-reduced', 'squarem'} or None, default='auto'
        How many reads the fit takes. None is plain EM, scikit-learn's, to the last digit.
        'variance-reduced' fits the sample first (the best of 5 starts, or of `n_init` if those are
        more), then lets it find the steps, and each read corrects and verifies one: a few reads
        instead of dozens. Where a sample of `init_size` rows is small against the parameters it is
        'squarem', which needs none. 'auto' is 'variance-reduced' for data that are read from a
        store or a Dask collection and exceed the sample, and for arrays in memory of fifty times
        its rows or more, None for all else. `n_init` then is the number of the sample's best ends
        between which the first read decides; given starting values, those of 'k-means||' and those
        of a warm start take part as they are.
    search : {'auto', 'off', 'thorough'} or int, default='auto'
        Whether to look for a better optimum on the sample before the first read: EM ends in the
        nearest one, and with many components that is a poor one. Split-and-merge moves take a
        component from where two share the work of one to where one does that of two; what raises
        the likelihood of rows of the sample that are not fitted counts, and the first read decides
        between that and where the search began (the sample does without 'variance-reduced'). An int
        is the most moves to try (0: 'off'), as the end must not depend on the machine's speed;
        'auto' and 'thorough' end when nothing has come of 48 or 96 in a row, twice or three
        times, with other rows to judge. 'auto' searches where 'variance-reduced' fits; so not with
        ``acceleration=None``, which stays scikit-learn's EM to the last digit, and neither from a
        warm start nor from given starting values. It takes some 27 rows of the sample for each free
        parameter, of rows that miss no value. Where 'variance-reduced' fits, the first read also
        keeps rows that the mixture explains worst: a population among them that hardly a row of the
        sample belongs to (one in 20,000, say) becomes a component in the place of one that can be
        spared, if all rows confirm it in the reads that follow. That is a component whose loss
        costs the other rows less than 1e-3 nats a row (in a sample of few rows: than these say by
        accident), so that nothing else is merged for a few rows far away.
    stopping : {'auto', 'change'}, default='auto'
        When an accelerated fit has converged: 'auto' when the best guess at the gain to the optimum
        is below `tol`, 'change' as scikit-learn, which is also what plain EM does.
    max_passes : int, optional
        Most passes; `max_iter` does not count steps that were rejected.
    max_bytes : int, optional
        Most bytes to decode, those of the start and blocks from the cache included.
    callbacks : sequence of callables, optional
        Each is called with every event of a fit (`dask_gmm.fitting.events`), and with the progress
        of other passes: of `criteria` and its kin, of `predict_to`. `dask_gmm.ProgressBar` shows a
        fit in a notebook, on a terminal or in a log: ``callbacks=[ProgressBar()]``, or
        ``with ProgressBar(): gm.fit(X)``. A callback with a method ``watching(run)``, a context
        manager, is told which fit events belong to (`dask_gmm.progress.observers`).

    Attributes
    ----------
    weights_ : (K,)
    means_ : (K, D)
    covariances_, precisions_, precisions_cholesky_
        Of shape (K, D, D), (D, D), (K, D) or (K,) by `covariance_type`. Of factor analysers
        (K, D, 1 + q): a column of noise variances ψ_k and the loadings Λ_k; 1/ψ_k and −Ψ_k⁻¹Λ_k;
        ψ_k^(-1/2) and Ψ_k^(-1/2)Λ_k; `noise_variances_`, (K, D), and `loadings_`, (K, D, q), are
        views of the first. These five are float64; for float32 rows float32, as scikit-learn's,
        where that moves nothing by 1e-4 standard deviations. Score, predictions, files and warm
        starts use the fit's own float64 numbers, except for what somebody has set by hand since.
    noise_weight_ : () array
        The part of the rows that is noise, and
    noise_box_ : (2, D)
        the corners of the box that it fills, where `noise` was asked for; `weights_` are then those
        of the components among each other.
    converged_ : bool
    n_iter_ : int
        Iterations of the best start: M-steps of plain EM, or passes whose step was accepted.
    lower_bound_ : float
        Mean log-likelihood of the best fit, in nats per row, before its last M-step. With a prior
        the log-posterior, which is what does not fall: there is the logarithm of the prior's
        density in it, divided by Σ_n w_n, without its normalising constants.
    lower_bounds_ : list of float
        The same for each of its iterations.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        When the data name their features; of variables as ``TEMP``, or ``TEMP[depth=10.0]``.
    scaling_ : Scaling or None
        What rows are scaled by before the mixture sees them: `scaling_.transform(X)` are scaled
        rows, `scaling_.inverse(Z)` the way back; `standard` has `center` and `scale`, `principal`
        the `components`, their `variance` and its `share`.
    n_frozen_ : int
        Parameters of the mixture that were left as given, which BIC and AIC do not count.
    prior_ : Prior or None
        The prior with the numbers that were taken from the data.
    n_rows_ : int or None
        Rows that were fitted; not counted those that were left out, of weight zero or by `missing`.
    n_incomplete_rows_ : int
        Rows that miss a value, where `missing` is not 'error': left out, or fitted as they are.
    n_passes_ : int
        Full reads made by the iterations.
    history_ : tuple of PassFinished
        One record a pass: rows, bytes, blocks from the cache, seconds, lower bounds, and in
        `judgement` what it was ('start', 'plain', 'accepted', 'rejected', 'repeated'). Empty for
        models that were saved by older versions, or came from scikit-learn.
    record_ : FitRecord or None
        Where the data came from and what the fit took: sample, starts, search, passes, bytes,
        seconds. None for such models. After an update, or a batch, that of the last one, and in
        `earlier` what it came to.
    n_updates_ : int
        Calls of `update` and `partial_fit` since the fit. `n_rows_` are all rows that the mixture
        stands for; after `partial_fit` `lower_bounds_` are each batch's mean log-likelihood at the
        mixture that it met, and `history_` is of the last call.
    drift_ : Drift or None
        How far rows that the last update has not read have drifted (`update`).
    outcome_ : str
        'converged', 'max_iter', 'max_passes', 'max_bytes', 'collapsed', or 'stream' of batches.
    acceleration_ : str or None
        What was chosen: 'variance-reduced', 'squarem' or None.
    remaining_gain_ : float or None
        What the rise from `lower_bound_` to the optimum may be, in nats per row, rather too much
        than too little; None where nobody knows. It may exceed `tol` after a fit that converged:
        on plateaus, and in plain EM, which knows its gains only. A smaller `tol` then goes on.
        Behind a saddle there may be more.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(n_components=2, random_state=0).fit(X)
    >>> gm.means_
    array([[10.,  2.],
           [ 1.,  2.]])
    >>> gm.predict([[0, 0], [12, 3]])
    array([1, 0])
    """

    _kinds: ClassVar[tuple[str, ...]] = (MixtureParameters.kind, NoisyParameters.kind)

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(COVARIANCE_TYPES)],
        "n_factors": [Interval(Integral, 1, None, closed="left"), None],
        "noise": ["boolean", "array-like"],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "prior": [None, StrOptions(set(PRIORS)), Prior],
        "frozen": [None, str, Integral, "array-like", dict],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [
            StrOptions({"kmeans", "random", "random_from_data", "k-means++", "k-means||"})
        ],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "feature_axis": [Integral, str],
        "array": [str, None],
        "arrays": [str, list, tuple, None],
        "features": [list, tuple, None],
        "columns": ["array-like", None],
        "storage_options": [dict, None],
        "missing_chunks": [StrOptions({"error", "fill"}), dict],
        "missing": [StrOptions(set(MISSING))],
        "feature_transform": [None, str, tuple, list, dict],
        "standardize": ["boolean", str],
        "n_pca": [None, Integral, Real],
        "whiten": ["boolean"],
        "scaling_from": [StrOptions(set(FROM))],
        "init_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "kernel": [StrOptions({"auto", *KERNELS})],
        "cache": [Integral, str],
        "on_collapse": [StrOptions(set(ON_COLLAPSE))],
        "order": [None, str, Integral],
        "acceleration": [StrOptions(set(ACCELERATIONS)), None],
        "search": [StrOptions(set(SEARCHES)), Interval(Integral, 0, None, closed="left")],
        "stopping": [StrOptions({"auto", "change"})],
        "max_passes": [Interval(Integral, 1, None, closed="left"), None],
        "max_bytes": [Interval(Integral, 1, None, closed="left"), None],
        "callbacks": [None, list, tuple],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        n_factors: int | None = None,
        noise: Any = False,
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        prior: Prior | str | None = None,
        frozen: Any = None,
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
        kernel: str = "auto",
        cache: int | str = "auto",
        on_collapse: str = "stop",
        order: str | int | None = None,
        acceleration: str | None = "auto",
        search: str | int = "auto",
        stopping: str = "auto",
        max_passes: int | None = None,
        max_bytes: int | None = None,
        callbacks: Sequence[Observer] | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.n_factors = n_factors
        self.noise = noise
        self.tol = tol
        self.reg_covar = reg_covar
        self.prior = prior
        self.frozen = frozen
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
        self.kernel = kernel
        self.cache = cache
        self.on_collapse = on_collapse
        self.order = order
        self.acceleration = acceleration
        self.search = search
        self.stopping = stopping
        self.max_passes = max_passes
        self.max_bytes = max_bytes
        self.callbacks = callbacks

    def _model(self, family: CovarianceFamily, n_features: int) -> MixtureModel:
        model = self._of_gaussians(family, n_features)
        if not self._noisy:
            return model
        if not family.conjugate:
            raise InputError(
                f"covariance_type={family.name!r} and noise do not go together: choose another "
                f"covariance_type, or noise=False."
            )
        for name, refused in (("missing", ("marginalize",)), ("on_collapse", ("reseed", "merge"))):
            if getattr(self, name) in refused:
                raise self._not_with_noise(name)
        given = not isinstance(self.noise, bool | np.bool_)
        return UniformNoise.beside(model, box_of(self.noise, n_features) if given else None)

    def _of_gaussians(self, family: CovarianceFamily, n_features: int) -> MixtureModel:
        """What is maximised over the mixture of Gaussians, be there noise beside it or not."""
        prior = prior_of(self.prior)
        if prior is None:
            return MaximumLikelihood(family, self.reg_covar)
        check_prior(prior, family, self.n_components, n_features)
        refuse_with_prior(self, prior)
        return MaximumAPosteriori(family, self.reg_covar, prior, self.n_components)

    def _settings(
        self,
        family: CovarianceFamily,
        n_features: int,
        scaling: ScalingRequest | None,
        warm: WarmStart | None = None,
    ) -> FitSettings:
        settings = super()._settings(family, n_features, scaling, warm)
        parts = FrozenParts.of(self.frozen, self.n_components)
        if parts is None:
            return settings
        refuse_with_frozen(self)
        parts.check(family, self.n_components, n_features)
        at = settings.given.arrays(family) if warm is None else arrays_of(warm.parameters)
        return replace(settings, model=Frozen.around(settings.model, parts, *at))

    def _keep(self, report: FitReport, dtype: DTypeLike) -> None:
        super()._keep(report, dtype)
        model, parameters = report.model, report.best.parameters
        self.n_frozen_ = 0
        if isinstance(model, Frozen):
            free = model.n_free(parameters.n_components, parameters.n_features)
            self.n_frozen_ = parameters.n_parameters - free
        self.prior_ = None if model is None else model.settled_prior(parameters.n_features)

    @property
    def _noisy(self) -> bool:
        return not isinstance(self.noise, bool | np.bool_) or bool(self.noise)

    def _kernel(self) -> Kernel:
        """What computes the fitted mixture, whatever the settings have become since."""
        kernel, fitted = super()._kernel(), getattr(self, "_fitted", None)
        noisy = self._noisy if fitted is None else isinstance(fitted, NoisyParameters)
        if noisy and self.missing == "marginalize":
            raise self._not_with_noise("missing")
        return NoisyKernel(kernel) if noisy else kernel

    def _kernel_of_fit(self) -> Kernel:
        kernel = super()._kernel()
        return NoisyKernel(kernel) if self._noisy else kernel

    def _not_with_noise(self, name: str) -> InputError:
        return InputError(
            f"{name}={getattr(self, name)!r} and noise do not go together: choose another "
            f"{name}, or noise=False."
        )
