"""A mixture of some features, given others: as a mixture, and for each row as a regression."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dask_gmm.errors import FamilyWarning, InputError, TransformError
from dask_gmm.estimators.applied import real_of
from dask_gmm.estimators.attributes import set_parameters
from dask_gmm.estimators.judging import JudgingMixture
from dask_gmm.estimators.shown import feature_names
from dask_gmm.estimators.using import features_asked, given_values, named, open_given
from dask_gmm.fitting.regression import Regressed
from dask_gmm.mixture.kernels import MarginalKernel, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.restricted import closed_family, conditional_mixture, marginal_mixture
from dask_gmm.scaling.features import scaling_of, without_components

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dask_gmm.data.source import Source
    from dask_gmm.scaling import Scaling

__all__ = ["ConditioningMixture"]


class ConditioningMixture(JudgingMixture):
    """A mixture that is asked for some of its features, by themselves or given others."""

    def marginal(self, features: Any) -> Self:
        """Return the mixture of some features, as a fitted mixture.

        Components keep their weights and what their means and covariances say of these features
        (Bishop, Pattern Recognition and Machine Learning, 2006, equation 2.98), in the same form:
        ``covariance_type`` stays. It predicts, draws and is saved as any other; what a fit says of
        its own course (`history_`, `lower_bound_`, ...) is unknown of it.

        Parameters
        ----------
        features : str, int, or sequence of these
            Names, or numbers from 0, in the order in which the mixture is to have them. The name
            of a variable with levels stands for all of them.

        Returns
        -------
        GaussianMixture
            Its class, with this mixture's settings. Where rows are scaled feature by feature
            (`feature_transform`, `standardize`) so are the new one's; of as many principal
            components as features it is in the units before these were taken, with full
            covariances ('tied' stays 'tied').

        Raises
        ------
        InputError (a ValueError)
            A feature is not there or comes twice; or the mixture is one of fewer principal
            components than features.

        Warns
        -----
        FamilyWarning
            `covariance_type` is one whose marginals need not be of it; the new mixture has the
            plain one of its form.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> gm.marginal([0]).means_
        array([[10.],
               [ 1.]])
        """
        check_is_fitted(self)
        which = features_asked(self, features, "features")
        parameters, scaling = self._by_feature()
        own = marginal_mixture(parameters, which)
        return self._derived(own, scaling_of(scaling, which), which)

    def conditional(self, given: Mapping[Any, float]) -> Self:
        """Return the mixture of the other features given the values of some, as a fitted mixture.

        Weights become ∝ π_k N(given | μ_k, Σ_k), means μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o), and
        covariances (Σ⁻¹)_mm⁻¹ (Bishop, Pattern Recognition and Machine Learning, 2006, equations
        2.81 and 2.82), in the same form: of 'full' and 'tied' the new one is in it, and what
        components share they share still; of 'diag' and 'spherical' other features say nothing but
        by the weights.

        Parameters
        ----------
        given : mapping of feature to number
            Values in the data's units by the features' names, or numbers from 0; not of all.

        Returns
        -------
        GaussianMixture
            Of the remaining features, in their order; else as of `marginal`.

        Raises
        ------
        InputError (a ValueError)
            As by `marginal`; or a value is no finite number, has no logarithm where that is taken,
            or lies too far from all components.

        Warns
        -----
        FamilyWarning
            As by `marginal`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, reg_covar=1.0, random_state=0).fit(X)
        >>> gm.conditional({0: 5.0}).weights_.round(3)
        array([0.011, 0.989])
        """
        check_is_fitted(self)
        which, values = given_values(self, given)
        parameters, scaling = self._by_feature()
        own = scaling_of(scaling, which)
        if own is not None:
            try:
                values = own.transform(values[None])[0]
            except TransformError as error:
                name = named(self, int(which[error.feature]))
                raise InputError(
                    f"given has {error.value:g} for {name!r}, of which the mixture takes log1p: "
                    f"give a number above -1."
                ) from None
        rest = np.setdiff1d(np.arange(parameters.n_features), which)
        found = conditional_mixture(parameters, which, values)
        return self._derived(found, scaling_of(scaling, rest), rest)

    def predict_regression(
        self,
        X: Any,
        *,
        given: Any,
        targets: Any = None,
        return_std: bool = False,
        return_cov: bool = False,
        where: Any = None,
    ) -> Any:
        """Expect some features of each sample from others: Gaussian mixture regression.

        E[targets | given] by the components' conditional Gaussians, weighted by the posteriors that
        the given features have (Ghahramani & Jordan 1994), and the spread about it by the law of
        total variance. In the data's units, exactly, where features are scaled one by one: of
        'log1p' and 'arcsinh' by the moments of log-normals (Johnson 1949).

        Parameters
        ----------
        X : as in `fit`
            With the given features in the order of `given`, or with all features of the fit, of
            which the others may hold anything. Of tables and Datasets the given columns are taken
            by name, and no others are read.
        given : str, int, or sequence of these
            Names of features, or numbers from 0.
        targets : as `given`, optional
            By default all other features, in their order.
        return_std : bool, default=False
            Return standard deviations too.
        return_cov : bool, default=False
            Return covariances of the targets too, instead.
        where : as in `fit`, optional

        Returns
        -------
        mean : ndarray, dask.array or DataArray, shape of the samples, then targets
            float32 for float32 rows, else float64. Lazy or labelled (along ``target``) as of
            `predict`, of many arrays each. NaN for rows that take no part: by `where`, or those
            that lack a given feature where `missing` is 'drop'. With 'marginalize' such a row is
            given what it has.
        std : the same
            With `return_std`, square roots of Var[targets | given].
        cov : the same, shape of the samples, then targets twice
            With `return_cov`. Of lazy results compute both together, which reads the data once.

        Raises
        ------
        InputError (a ValueError)
            A feature is not there, comes twice or is given and a target; X has others; or the
            mixture is one of fewer principal components than features.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> x = np.linspace(0.0, 10.0, 200)
        >>> X = np.stack([x, np.abs(x - 5.0)], axis=1)
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> mean, std = gm.predict_regression([[1.0], [9.0]], given=[0], return_std=True)
        >>> mean.round(2)
        array([[4.],
               [4.]])
        """
        check_is_fitted(self)
        source, function = self._regression(
            X, given, targets, return_std=return_std, return_cov=return_cov, where=where
        )
        return self._map(X, source, function)

    def predict_regression_to(
        self,
        X: Any,
        output: str | os.PathLike[str],
        *,
        given: Any,
        targets: Any = None,
        return_std: bool = True,
        return_cov: bool = False,
        where: Any = None,
        keep: Sequence[str] | None = None,
        overwrite: bool = False,
        resume: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> int:
        """Write what `predict_regression` returns, in one read of the data.

        Parameters
        ----------
        X : as in `predict_regression`
            With known chunk sizes, unless the output is a table.
        output : path or URL
            A group of Zarr v3, made if it is not there, with the arrays ``mean`` and ``std`` (or
            ``cov``) and the coordinates of samples and targets; or, ending with ``.parquet``, a
            table with a column for each target, and NAME_std (or cov_A_B) beside them.
        given, targets, where : as in `predict_regression`
        return_std : bool, default=True
            Without it, and without `return_cov`, the mean alone.
        return_cov : bool, default=False
            Covariances instead of standard deviations.
        keep, overwrite, resume, storage_options : as in `predict_to`

        Returns
        -------
        int
            Rows of the output, those included that were there already.

        Raises
        ------
        OutputExistsError, InputError, IncompletePassError, StoreError
            As by `predict_to` and `predict_regression`.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> x = np.linspace(0.0, 10.0, 200)
        >>> X = np.stack([x, np.abs(x - 5.0)], axis=1)
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> import zarr
        >>> stored = zarr.create_array("points.zarr", data=X, chunks=(50, 2), overwrite=True)
        >>> gm.predict_regression_to("points.zarr", "expected.zarr", given=[0], overwrite=True)
        200
        >>> zarr.open_array("expected.zarr/mean")[20].round(1)
        array([4.])
        """
        check_is_fitted(self)
        source, function = self._regression(
            X,
            given,
            targets,
            return_std=return_std and not return_cov,
            return_cov=return_cov,
            where=where,
        )
        how = {"options": storage_options, "overwrite": overwrite, "resume": resume}
        return self._write_fields(X, source, function, output, how, keep)

    # -- inside ----------------------------------------------------------------------------------

    def _by_feature(self) -> tuple[MixtureParameters, Scaling | None]:
        """The mixture of the data's features, each scaled by itself, and their scaling.

        Raises
        ------
        InputError
            It is no mixture of Gaussians alone, or one of fewer principal components than features.
        """
        parameters = self._parameters()
        if not parameters.family.conjugate:
            raise InputError(
                f"Marginals, conditionals and regressions are not there for covariance_type="
                f"{parameters.family.name!r}: fit another one, such as 'full' or 'diag'."
            )
        if parameters.kind != MixtureParameters.kind:
            raise InputError(
                f"Marginals, conditionals and regressions are of mixtures of Gaussians alone, and "
                f"this is a {parameters.words}: fit a GaussianMixture without noise."
            )
        return without_components(parameters, self._scaling)

    def _regression(
        self,
        X: Any,
        given: Any,
        targets: Any,
        *,
        return_std: bool,
        return_cov: bool,
        where: Any,
    ) -> tuple[Source, Regressed]:
        """What X describes, and what is to be said of its rows."""
        if return_std and return_cov:
            raise InputError(
                "return_std and return_cov do not go together: the diagonal of a covariance has "
                "the squares of the standard deviations."
            )
        which = features_asked(self, given, "given")
        if targets is None:
            wanted = np.setdiff1d(np.arange(self.n_features_in_), which)
            if not wanted.size:
                raise InputError("given has all features, so that none is left to expect.")
        else:
            wanted = features_asked(self, targets, "targets")
        both = np.intersect1d(which, wanted)
        if both.size:
            name = named(self, int(both[0]))
            raise InputError(f"{name!r} is given and a target: leave it out of one of them.")
        parameters, scaling = self._by_feature()
        source, columns = open_given(self, X, which, where)
        joint = np.concatenate([which, wanted])
        kernel = get_kernel(self.kernel)
        names = tuple(named(self, int(i)) for i in wanted)
        function = Regressed(
            marginal_mixture(parameters, joint),
            MarginalKernel(kernel) if self.missing == "marginalize" else kernel,
            real_of(source),
            targets=names,
            columns=columns,
            scaling=scaling_of(scaling, joint),
            spread="cov" if return_cov else "std" if return_std else "",
            missing=self.missing,
        )
        return source, function

    def _derived(
        self, parameters: MixtureParameters, scaling: Scaling | None, features: NDArray[np.intp]
    ) -> Self:
        """A fitted mixture of some features, made of this one's."""
        before, family = self._parameters().family, parameters.family
        if closed_family(before) is not before:
            warnings.warn(
                f"Of covariance_type={before.name!r} marginals and conditionals need not be of it: "
                f"the new mixture has covariance_type={family.name!r}.",
                FamilyWarning,
                stacklevel=3,
            )
        gm = type(self)(**self._settings_for(parameters, scaling, features))
        set_parameters(gm, parameters, self.means_.dtype)
        names = feature_names(self)
        gm.scaling_, gm.n_features_in_ = scaling, len(features)
        if names is not None:
            gm.feature_names_in_ = np.array([names[i] for i in features.tolist()], dtype=object)
        for name, otherwise in (("converged_", True), ("n_iter_", 0), ("outcome_", "converged")):
            setattr(gm, name, getattr(self, name, otherwise))  # of numbers set by hand
        gm.lower_bound_, gm.lower_bounds_ = -np.inf, []
        gm.n_rows_, gm.n_passes_, gm.n_incomplete_rows_ = None, None, 0
        gm.history_, gm.record_ = (), None
        gm.n_updates_, gm.drift_ = 0, None
        gm.acceleration_, gm.remaining_gain_, gm.prior_ = None, None, None
        return gm

    def _settings_for(
        self, parameters: MixtureParameters, scaling: Scaling | None, features: NDArray[np.intp]
    ) -> dict[str, Any]:
        """Constructor parameters of a mixture of some features."""
        which, d = features.tolist(), int(self.n_features_in_)
        found: dict[str, Any] = self.get_params(deep=False)
        found["n_components"] = parameters.n_components
        found["covariance_type"] = parameters.family.name
        for name in ("weights_init", "means_init", "precisions_init", "n_pca"):
            found[name] = None
        found["frozen"] = None
        if isinstance(found["order"], Integral):
            found["order"] = which.index(found["order"]) if found["order"] in which else None
        if "prior" in found and not isinstance(found["prior"], str):
            found["prior"] = None  # its numbers are of all features
        if scaling is None or scaling.standard is None:
            found["standardize"] = False
        elementwise = None if scaling is None else scaling.elementwise
        if elementwise is None:
            found["feature_transform"] = None
        elif isinstance(found["feature_transform"], Mapping):
            pairs = zip(elementwise.kinds, elementwise.cofactors.tolist(), strict=True)
            found["feature_transform"] = {
                i: (kind, cofactor) if kind == "arcsinh" else kind
                for i, (kind, cofactor) in enumerate(pairs)
                if kind
            }
        for name in ("columns", "features"):
            own = found[name]
            if own is not None:  # variables with levels are no features
                found[name] = [own[i] for i in which] if len(own) == d else None
        return found
