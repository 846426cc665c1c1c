"""What a fitted mixture can do, whatever fitted it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from dask.base import normalize_token
from sklearn.base import DensityMixin
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_random_state, estimator_html_repr
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.taking_part import nothing_left
from dask_gmm.errors import InputError
from dask_gmm.estimators.conversion import copy_fitted, restore, to_model_file
from dask_gmm.estimators.factor_scores import FactorMixture
from dask_gmm.estimators.inputs import check_n_effective, open_input
from dask_gmm.estimators.shaped import ShapedMixture
from dask_gmm.estimators.shown import feature_names, glance_of, is_mixture
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.passes import LogLikelihood, LogLikelihoodJob
from dask_gmm.glance.mixture import mixture_html, mixture_text
from dask_gmm.glance.page import card, facts_table, sentences
from dask_gmm.inspection import InspectionJob, inspection_of
from dask_gmm.mixture.factors import FactorFamily
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.mixture.variational import VariationalPosterior
from dask_gmm.model_card import model_card
from dask_gmm.model_file import load_model, save_model
from dask_gmm.scaling.original_units import in_original_units

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source
    from dask_gmm.inspection import Inspection
    from dask_gmm.inspection.sums import InspectionSums
    from dask_gmm.scaling.original_units import OriginalUnits

__all__ = ["Criteria", "FittedMixture"]


@dataclass(frozen=True)
class Criteria:
    """What one read of the data says about a fitted mixture.

    Attributes
    ----------
    n_rows : int
        Rows that took part: not those of weight zero, those that `missing='drop'` leaves out, or
        those without any value.
    n_effective : float
        N, the independent observations that they stand for: `n_rows`, or Σ_n w_n of rows with
        weights, unless it was given.
    log_likelihood : float
        Σ_n w_n log p(x_n), in nats, with weights that add up to `n_effective`.
    score : float
        Log-likelihood per row, or per unit of weight.
    bic, aic : float
        −2·log_likelihood + p·log(n_effective) and −2·log_likelihood + 2·p, with p free parameters;
        lower is better (Schwarz 1978; Akaike 1974).

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import GaussianMixture
    >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
    >>> gm = GaussianMixture(2, random_state=0).fit(X)
    >>> found = gm.criteria(X)
    >>> found.n_rows, found.n_effective, round(found.log_likelihood, 1)
    (6, 6.0, 20.3)
    """

    n_rows: int
    n_effective: float
    log_likelihood: float
    score: float
    bic: float
    aic: float

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        n = "rows" if self.n_effective == self.n_rows else "independent observations"
        facts = [("rows", f"{self.n_rows:,}")]
        if n != "rows":
            facts.append((n, f"{self.n_effective:,.10g}"))
        facts += [
            ("score, nats a row", f"{self.score:,.6f}"),
            ("log-likelihood, nats", f"{self.log_likelihood:,.4f}"),
            ("BIC (lower is better)", f"{self.bic:,.4f}"),
            ("AIC (lower is better)", f"{self.aic:,.4f}"),
        ]
        return facts_table("Criteria of a Gaussian mixture", facts)


class FittedMixture(DensityMixin, FactorMixture, ShapedMixture):  # type: ignore[misc]
    """Everything that needs a fitted mixture and not how it was fitted.

    Fitting and constructor parameters are the subclass's; `GaussianMixture` documents them.
    """

    def score(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        where: Any = None,
        original_units: bool = False,
    ) -> float:
        """Return the mean log-likelihood per row (per unit of weight), in nats.

        Of the rows that take part; one without any value takes none. Where rows are scaled first
        it is theirs, as `lower_bound_` is; `criteria` says what `original_units` do.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> round(gm.score(X), 2), round(gm.score(X, sample_weight=[2, 1, 1, 2, 1, 1]), 2)
        (3.39, 3.51)
        """
        check_is_fitted(self)
        found = self._likelihood(X, sample_weight, where, original_units=original_units)
        return found.total / found.weight

    def bic(
        self,
        X: Any,
        *,
        sample_weight: Any = None,
        n_effective: float | None = None,
        where: Any = None,
        original_units: bool = False,
    ) -> float:
        """Return the Bayesian information criterion; lower is better. `criteria` has all.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> one = GaussianMixture(1).fit(X)
        >>> gm.bic(X) < one.bic(X)
        True
        """
        found = self.criteria(
            X,
            sample_weight=sample_weight,
            n_effective=n_effective,
            where=where,
            original_units=original_units,
        )
        return found.bic

    def aic(
        self,
        X: Any,
        *,
        sample_weight: Any = None,
        n_effective: float | None = None,
        where: Any = None,
        original_units: bool = False,
    ) -> float:
        """Return the Akaike information criterion; lower is better. `criteria` has all.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> round(gm.aic(X), 1)
        -18.6
        """
        found = self.criteria(
            X,
            sample_weight=sample_weight,
            n_effective=n_effective,
            where=where,
            original_units=original_units,
        )
        return found.aic

    def criteria(
        self,
        X: Any,
        *,
        sample_weight: Any = None,
        n_effective: float | None = None,
        where: Any = None,
        original_units: bool = False,
    ) -> Criteria:
        """Return score, log-likelihood, BIC and AIC, all from one read of the data.

        Parameters
        ----------
        X : as in `fit`
        sample_weight : as in `fit`, optional
        n_effective : float, optional
            The independent observations that the rows stand for. By default Σ_n w_n, which is right
            where weights count copies of rows; where they are in some other unit (they add up to
            one, or are inverse variances), nobody but you knows. Of rows that miss some of their
            values each counts for one.
        where : as in `fit`, optional
        original_units : bool, default=False
            Whether the likelihood is that of the rows as they are, where the mixture is one of
            scaled rows (by `feature_transform`, `standardize` or `n_pca`), which all else is of.
            The two differ by log |dz/dx|, a number that the mixture has no part in: among mixtures
            of the same scaling either chooses the same. Only `original_units` compare mixtures of
            different scalings, or of none. Numbers of the scaling are no free parameters of BIC.

        Raises
        ------
        InputError (a ValueError)
            No rows, rows beyond all numbers, weights that cannot be used, or an `n_effective` that
            is not positive; or `original_units` of fewer principal components than features.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> found = gm.criteria(X)
        >>> round(found.score, 2), round(found.bic, 1), round(found.aic, 1)
        (3.39, -20.9, -18.6)
        """
        check_is_fitted(self)
        if n_effective is not None:
            check_n_effective(n_effective)
        found = self._likelihood(X, sample_weight, where, original_units=original_units)
        p = self._n_parameters()
        n = found.weight if n_effective is None else float(n_effective)
        total = found.total if n_effective is None else n / found.weight * found.total
        return Criteria(
            n_rows=found.rows,
            n_effective=n,
            log_likelihood=total,
            score=found.total / found.weight,
            bic=-2.0 * total + p * float(np.log(n)),
            aic=-2.0 * total + 2.0 * p,
        )

    def _likelihood(
        self, X: Any, sample_weight: Any, where: Any, *, original_units: bool
    ) -> LogLikelihood:
        """Log-likelihood, weight and number of rows, from one read."""
        parameters = self._parameters()
        source = open_input(self, X, sample_weight, where, reset=False)
        job, scaling = LogLikelihoodJob(parameters, self._kernel()), self._scaling
        if original_units and scaling is not None:
            scaling.log_jacobian(np.empty((0, source.n_features)))  # refuses what has none
            size = scaled(source, scaling).block_bytes
            job = LogLikelihoodJob(parameters, self._kernel(), scaling, size)
        rows = source if job.scaling is not None else scaled(source, scaling)
        found: LogLikelihood = self._run(rows, job)
        self._check_any(found.rows, source)
        if not np.isfinite(found.total):
            raise InputError(
                "The log-likelihood of these rows is too large for float64: they lie beyond 1e150 "
                "standard deviations from the mixture. Are they in the units of its fit?"
            )
        return found

    def inspect(self, X: Any, *, sample_weight: Any = None, where: Any = None) -> Inspection:
        """Return what there is to see of the mixture in the data, all from one read of them.

        How certain labels are, which components overlap, whether distances are those of a mixture
        of Gaussians, histograms by component, a sample, and the rows that the mixture explains
        worst. Everything is of scaled rows, where the mixture is of such.

        Parameters
        ----------
        X, sample_weight, where : as in `fit`

        Returns
        -------
        Inspection
            The same bits wherever it was made. A row that misses values counts by what it has; it
            has no part in the distances.

        Raises
        ------
        InputError (a ValueError)
            No rows, rows that hold NaN where `missing` is 'error' or infinity, or weights that
            cannot be used.
        MemoryPlanError
            A block and what is counted would not fit in the memory of a worker.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> found = GaussianMixture(n_components=2, random_state=0).fit(X).inspect(X)
        >>> found.labelled
        array([3., 3.])
        >>> found.lowest_places[0]
        'row 1 of block 0 (row 1 of NumPy array)'
        """
        check_is_fitted(self)
        source = open_input(self, X, sample_weight, where, reset=False)
        rows = scaled(source, self._scaling)
        job = InspectionJob.of(self._parameters(), self._kernel(), rows)
        found: InspectionSums = self._run(rows, job, doing="inspecting")
        self._check_any(found.rows, source)
        return inspection_of(found, job, rows)

    def _check_any(self, n_rows: int, source: Source) -> None:
        """Refuse data of which no row took part.

        Raises
        ------
        InputError
        """
        if n_rows:
            return
        if source.selects and source.n_rows != 0:
            raise nothing_left(source)
        raise InputError(
            f"Found array with 0 sample(s) (shape=(0, {self.n_features_in_})) while a minimum of 1 "
            f"is required."
        )

    def sample(self, n_samples: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw rows from the mixture, grouped by component.

        In the data's units, also where the mixture is one of scaled rows; of fewer principal
        components than features those rows whose other coordinates are the data's mean.

        Returns
        -------
        X : (n_samples, D) float64
        y : (n_samples,) int64
            The component each row came from.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> rows, labels = gm.sample(100)
        >>> rows.shape, sorted(set(labels.tolist()))
        ((100, 2), [0, 1])
        """
        check_is_fitted(self)
        rng = check_random_state(self.random_state)
        rows, labels = sample_mixture(self._parameters(), n_samples, rng)
        return (rows if self._scaling is None else self._scaling.inverse(rows)), labels

    def original_units(self) -> OriginalUnits:
        """Return means and covariances in the data's units.

        `means_`, `covariances_` and their kin are of scaled rows, where rows are scaled first.

        Returns
        -------
        OriginalUnits
            `means`, (K, D), and `covariances`, of mixtures of scaled rows only where the scaling is
            affine.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, standardize=True, random_state=0).fit(X)
        >>> gm.means_[:, 0].round(3)
        array([ 1., -1.])
        >>> gm.original_units().means.round(3)
        array([[10.,  2.],
               [ 1.,  2.]])
        """
        check_is_fitted(self)
        return in_original_units(self._parameters(), self._scaling, feature_names(self))

    def summary(self) -> str:
        """Return what a notebook shows of the fitted mixture, as text for a terminal or a log.

        How the fit ended, and for each component, the heaviest first, its weight and the mean ±
        standard deviation of each feature; in the data's units where the scaling is affine.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> print(GaussianMixture(n_components=2, reg_covar=0.01, random_state=0).fit(X).summary())
        Gaussian mixture: 2 components in 2 features, full covariance, 11 free parameters
        Fitted to 6 rows: converged after 2 passes at -1.21886 nats a row; less than 1e-9 to gain.
        <BLANKLINE>
        no.  weight       feature 0    feature 1
          0  0.5000  10.000 ± 0.100  2.00 ± 1.64
          1  0.5000   1.000 ± 0.100  2.00 ± 1.64
        """
        check_is_fitted(self)
        return mixture_text(glance_of(self))

    def _html_repr(self) -> str:
        """What a notebook shows, by scikit-learn's machinery: before a fit what that shows."""
        if not (self.__sklearn_is_fitted__() and is_mixture(self)):
            shown: str = estimator_html_repr(self)
            return shown
        try:
            return mixture_html(glance_of(self))
        except InputError as error:
            return card("Gaussian mixture", sentences(["Gaussian mixture", str(error)]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "history_" in state:  # pickles of older versions have no record
            later: dict[str, Any] = {
                "record_": None,
                "_kept": None,
                "n_updates_": 0,
                "drift_": None,
            }
            for name, value in later.items():
                self.__dict__.setdefault(name, value)

    # -- models ----------------------------------------------------------------------------------

    def save(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the fitted mixture as a small Zarr group, at a path or URL; nothing is pickled.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.save("model.zarr", overwrite=True)
        >>> GaussianMixture.load("model.zarr").means_
        array([[10.,  2.],
               [ 1.,  2.]])
        """
        check_is_fitted(self)
        model = to_model_file(self)
        save_model(url, model, overwrite=overwrite, storage_options=storage_options)

    @classmethod
    def load(
        cls, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
    ) -> Self:
        """Load a mixture that `save` or `dask-gmm fit --output` has written.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.save("model.zarr", overwrite=True)
        >>> GaussianMixture.load("model.zarr").predict([[0, 0], [12, 3]])
        array([1, 0])
        """
        gm = cls()
        restore(gm, load_model(url, storage_options=storage_options), str(url))
        return gm

    def model_card(self) -> dict[str, Any]:
        """Return what is known of the fitted mixture as JSON values: its model card.

        What it is, what it was fitted to, how, and how that ended, what follows for its use, and
        how to load it. `dask-gmm show MODEL --card` prints that of a model file.

        Returns
        -------
        dict
            Valid by the JSON Schema that `dask_gmm.model_card.card_schema` returns, which says what
            each field means; None for what nobody knows. No credentials.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> card = GaussianMixture(n_components=2, random_state=0).fit(X).model_card()
        >>> card["model"]["n_parameters"], card["data"]["n_rows"], card["result"]["outcome"]
        (11, 6, 'converged')
        """
        check_is_fitted(self)
        return model_card(to_model_file(self))

    _theirs: ClassVar[type[Any]] = SklearnGaussianMixture
    """scikit-learn's class of the same mixtures."""

    def to_sklearn(self) -> SklearnGaussianMixture | Pipeline:
        """Return the same fitted mixture as a ``sklearn.mixture.GaussianMixture``.

        Where rows are scaled first a pipeline of that, ``scaling``, and such a mixture, ``gmm``.
        A mixture of one of mclust's families becomes one of the covariance type of its shapes:
        the densities are the same, and `bic` there counts covariances as if they were free.

        Raises
        ------
        InputError (a ValueError)
            It is a mixture of factor analysers, which scikit-learn does not have.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> other = gm.to_sklearn()
        >>> type(other).__module__
        'sklearn.mixture._gaussian_mixture'
        >>> other.predict([[0, 0], [12, 3]])
        array([1, 0])
        """
        check_is_fitted(self)
        parameters = self._parameters()
        if parameters.more and not isinstance(parameters, VariationalPosterior):
            raise InputError(f"scikit-learn has no class for a {parameters.words}.")
        if isinstance(parameters.family, FactorFamily):
            raise InputError(
                f"scikit-learn's mixtures have no covariance_type={parameters.family.name!r}: save "
                f"this one instead, or fit one with covariance_type='full'."
            )
        shared = self._theirs().get_params()
        other = self._theirs(**{name: v for name, v in self.get_params().items() if name in shared})
        other.set_params(covariance_type=parameters.form.name)
        copy_fitted(self, other)
        if self._scaling is None:
            return other
        other.n_features_in_ = self._scaling.n_outputs
        if hasattr(other, "feature_names_in_"):
            del other.feature_names_in_
        scale = FunctionTransformer(self._scaling.transform)
        return Pipeline([("scaling", scale), ("gmm", other)])

    @classmethod
    def from_sklearn(cls, model: SklearnGaussianMixture) -> Self:
        """Return a fitted ``sklearn.mixture.GaussianMixture`` as one of this class.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.mixture import GaussianMixture as Theirs
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> theirs = Theirs(2, random_state=0).fit(X)
        >>> bool(np.all(GaussianMixture.from_sklearn(theirs).predict(X) == theirs.predict(X)))
        True
        """
        check_is_fitted(model)
        if not {"gaussian", VariationalPosterior.kind} & set(cls._kinds):
            raise InputError(
                f"scikit-learn's {type(model).__name__} is no {cls.__name__}: use "
                f"GaussianMixture.from_sklearn."
            )
        if not isinstance(model, cls._theirs):
            raise InputError(
                f"{type(model).__name__} is no {cls._theirs.__name__} of scikit-learn: give a "
                f"fitted one."
            )
        gm = cls(**model.get_params())
        copy_fitted(model, gm)
        gm.n_rows_, gm.n_passes_, gm.history_, gm.record_ = None, None, (), None
        gm.n_incomplete_rows_, gm.scaling_ = 0, None
        gm.acceleration_, gm.remaining_gain_, gm.prior_, gm.n_frozen_ = None, None, None, 0
        gm._kept, gm.n_updates_, gm.drift_ = None, 0, None
        gm.outcome_ = (Outcome.CONVERGED if model.converged_ else Outcome.MAX_ITER).value
        return gm

    # -- inside ----------------------------------------------------------------------------------

    def _bound_per_row(self) -> float:
        """What the last fit has reached, in nats per row."""
        return float(self.lower_bound_)

    def _n_parameters(self) -> int:
        """Free parameters of the fitted mixture; scikit-learn's name, used by its tests.

        Not counted are those that a fit was told to leave as they were.
        """
        return self._parameters().n_parameters - int(getattr(self, "n_frozen_", 0))

    def __dask_tokenize__(self) -> object:
        """Name the mixture for Dask: by its parameters and what was fitted, not how long it took.

        Equal fits are equal in every process. Observers have no part in it.
        """
        left_out = ("callbacks", "history_", "record_")
        state = sorted((name, v) for name, v in vars(self).items() if name not in left_out)
        token: object = normalize_token((type(self), state))
        return token

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn is told: that NaN may be missing, and a matrix sparse."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = self.missing != "error"
        return tags
