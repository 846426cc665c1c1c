"""What mixtures of factor analysers have beside what all mixtures have: loadings, noise, scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from sklearn.utils.validation import check_is_fitted

from dask_gmm.errors import InputError
from dask_gmm.estimators.applied import AppliedMixture
from dask_gmm.estimators.inputs import open_input
from dask_gmm.fitting.prediction import FactorScores
from dask_gmm.mixture.factors import FACTOR_FAMILIES, FactorFamily

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from dask_gmm.estimators.applied import Labelled, LazyData
    from dask_gmm.mixture.parameters import MixtureParameters

__all__ = ["FactorMixture"]


class FactorMixture(AppliedMixture):
    """A mixture that may be one of factor analysers."""

    @property
    def loadings_(self) -> NDArray[np.floating[Any]]:
        """Loadings Λ_k, (K, D, q), of the dtype of `covariances_`; of factor analysers alone.

        Turned so that Λ_kᵀ Ψ_k⁻¹ Λ_k is diagonal and descends.
        """
        loadings: NDArray[np.floating[Any]] = self._compact("loadings_")[..., 1:]
        return loadings

    @property
    def noise_variances_(self) -> NDArray[np.floating[Any]]:
        """Diagonals of Ψ_k, (K, D), in squared units of the rows; of factor analysers alone."""
        noise: NDArray[np.floating[Any]] = self._compact("noise_variances_")[..., 0]
        return noise

    @overload
    def factor_scores(  # type: ignore[overload-overlap]
        self, X: Labelled, *, where: Any = None
    ) -> xr.DataArray: ...

    @overload
    def factor_scores(  # type: ignore[overload-overlap]
        self, X: LazyData, *, where: Any = None
    ) -> da.Array: ...

    @overload
    def factor_scores(self, X: object, *, where: Any = None) -> NDArray[np.float64]: ...

    def factor_scores(
        self, X: Any, *, where: Any = None
    ) -> NDArray[np.float64] | da.Array | xr.DataArray:
        """Return the expected factors of each row in its most probable component.

        E[z | x, k] = Λ_kᵀ Σ_k⁻¹ (x − μ_k), with k = ``predict(X)`` (Ghahramani & Hinton 1997,
        equation 2): where a row lies along the directions of its component, in standard deviations.
        Those of different components are coordinates of different spaces.

        Parameters
        ----------
        X : as in `fit`
        where : as in `fit`, optional
            The scores of a row that takes no part, by `where` or by `missing='drop'`, are NaN.

        Returns
        -------
        ndarray, dask.array or DataArray of float64, shape of the samples, then q
            Lazy, block by block, when `X` is lazy; of xarray objects a DataArray, with q along the
            dimension ``factor``. Of many arrays a list of these, or a dict by names.

        Raises
        ------
        InputError (a ValueError)
            The mixture has no factors, or X cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> z = rng.normal(size=(500, 1))
        >>> X = z @ [[1.0, 2.0, -1.0, 0.5]] + 0.1 * rng.normal(size=(500, 4))
        >>> gm = GaussianMixture(1, covariance_type="factors", n_factors=1, tol=1e-6).fit(X)
        >>> bool(np.corrcoef(gm.factor_scores(X)[:, 0], z[:, 0])[0, 1] > 0.999)
        True
        """
        check_is_fitted(self)
        parameters: MixtureParameters = self._parameters()
        if not isinstance(parameters.family, FactorFamily):
            raise InputError(
                f"A mixture with covariance_type={parameters.family.name!r} has no factors; fit "
                f"one with {', '.join(FACTOR_FAMILIES)} and n_factors."
            )
        source = open_input(self, X, where=where, reset=False)
        function = FactorScores(parameters, self._kernel())
        scores: NDArray[np.float64] | da.Array | xr.DataArray = self._map(X, source, function)
        return scores

    def _compact(self, name: str) -> NDArray[np.floating[Any]]:
        """Return covariances as they lie.

        Raises
        ------
        AttributeError
            Before a fit, or of another kind.
        """
        covariances = self.__dict__.get("covariances_")
        prefix = str(self.covariance_type).partition(":")[0]
        if covariances is None or prefix not in FACTOR_FAMILIES:
            raise AttributeError(
                f"{type(self).__name__} has {name} once it is fitted with one of the covariance "
                f"types {', '.join(FACTOR_FAMILIES)}."
            )
        found: NDArray[np.floating[Any]] = covariances
        return found
