"""Where rows lie in a mixture: distances, the most probable components, anomalies."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.taking_part import nothing_left
from dask_gmm.errors import InputError
from dask_gmm.estimators.applied import for_each_row, real_of
from dask_gmm.estimators.inputs import open_input
from dask_gmm.estimators.using import checked_rate, checked_top_k, is_whole, threshold_from
from dask_gmm.estimators.written import WritingMixture
from dask_gmm.fitting.anomalies import (
    Anomalies,
    AnomalyThreshold,
    QuantilesJob,
    simulated_threshold,
    threshold_of,
)
from dask_gmm.fitting.ranking import Distances, TopComponents

if TYPE_CHECKING:
    from dask_gmm.fitting.anomalies import DensityQuantiles

__all__ = ["JudgingMixture"]

_DRAWS_BELOW, _FEWEST_DRAWS, _MOST_DRAWS = 1000, 100_000, 10_000_000
"""Rows that are drawn for a threshold: so many are to lie below it, within bounds."""


class JudgingMixture(WritingMixture):
    """A mixture that says of rows how far they lie from its components, and which are anomalies."""

    def mahalanobis(self, X: Any, *, squared: bool = False, where: Any = None) -> Any:
        """Return the Mahalanobis distance of each sample to each component.

        √((x − μ_k)ᵀ Σ_k⁻¹ (x − μ_k)) (Mahalanobis 1936), in standard deviations of the component
        in the direction of x, as ``scipy.spatial.distance.mahalanobis``; with `squared` without
        the root, as the ``mahalanobis`` of scikit-learn's covariances. Squares of rows from a
        component of D features are χ² of D degrees of freedom. Where rows are scaled first the
        distances are of scaled rows, which an affine scaling does not change.

        Parameters
        ----------
        X : as in `fit`
        squared : bool, default=False
        where : as in `fit`, optional

        Returns
        -------
        ndarray, dask.array or DataArray of float64, shape of the samples, then K
            Lazy, labelled, or of many arrays, as of `predict`; K along ``component``. NaN for rows
            that take no part. Of a row that misses values, where `missing` is 'marginalize', the
            distance over those that it has, of which there are fewer.

        Raises
        ------
        InputError (a ValueError)
            X cannot be used.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, reg_covar=1.0, random_state=0).fit(X)
        >>> gm.mahalanobis([[1, 2], [10, 4]]).round(2)
        array([[9.  , 0.  ],
               [1.04, 9.06]])
        """
        check_is_fitted(self)
        source = open_input(self, X, where=where, reset=False)
        gaps = self.missing == "marginalize"
        function = Distances(self._parameters(), self._kernel(), squared=bool(squared), gaps=gaps)
        return self._map(X, source, function)

    def top_k(self, X: Any, k: int = 3, *, where: Any = None) -> tuple[Any, Any]:
        """Return the k most probable components of each sample, and their posteriors.

        Never more than a few megabytes of all K posteriors are held at a time. `predict_to` writes
        them, by its `top_k`.

        Parameters
        ----------
        X : as in `fit`
        k : int, default=3
            At most K.
        where : as in `fit`, optional

        Returns
        -------
        labels : ndarray, dask.array or DataArray of int64, shape of the samples, then k
            The most probable first; of equals the lowest. -1 for rows that take no part. Beside
            noise those of the components alone: what their posteriors lack is the noise's.
        posteriors : the same of float32 or float64
            As of `predict_proba`. Both lazy, labelled (k along ``rank``), or of many arrays pairs,
            as of `predict`. Of lazy ones ``dask.compute(labels, posteriors)`` reads the data once.

        Raises
        ------
        InputError (a ValueError)
            X cannot be used, or k is none.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, reg_covar=1.0, random_state=0).fit(X)
        >>> labels, posteriors = gm.top_k([[5, 2], [12, 3]], k=2)
        >>> labels
        array([[1, 0],
               [0, 1]])
        >>> posteriors.round(3)
        array([[0.989, 0.011],
               [1.   , 0.   ]])
        """
        check_is_fitted(self)
        parameters = self._parameters()
        k = checked_top_k(k, parameters.n_components)
        source = for_each_row(open_input(self, X, where=where, reset=False))
        kind = np.dtype(real_of(source)).name
        found: tuple[Any, Any] = self._map(
            X, source, TopComponents(parameters, self._kernel(), k=k, posterior_dtype=kind)
        )
        return found

    def anomaly_threshold(
        self,
        X: Any = None,
        *,
        false_alarm_rate: float = 0.001,
        sample_weight: Any = None,
        where: Any = None,
        n_samples: int | None = None,
    ) -> AnomalyThreshold:
        """Return the log-density below which that part of the rows lies.

        By data, those that were fitted or others that are thought to be without anomalies, in one
        read: exact as long as no more than 131,072 rows lie below it, else a little lower, with
        the rate there known exactly (a histogram of 2⁻¹⁰ of the distance to the mixture's highest
        log-density; Masson, Rim & Lee, DDSketch, 2019). Without data by rows that are drawn from
        the mixture itself, with a standard error that comes along. The same bits whoever
        computes it. A mixture with noise has a lowest log-density, that of its noise, and nothing
        lies below it: where more of the rows are noise than the rate, nothing is flagged, and the
        label -1 of `predict` says which rows belong nowhere.

        Parameters
        ----------
        X : as in `fit`, optional
            By default rows are drawn, seeded by `random_state`, or by 0 where that is None.
        false_alarm_rate : float, default=0.001
            The part of the rows (of their weight) that may lie below: no more does.
        sample_weight, where : as in `fit`, optional
        n_samples : int, optional
            Rows to draw, where there are no data; by default 1000 / `false_alarm_rate`, from
            100,000 to ten million, which makes the rate right to some three percent of itself.

        Returns
        -------
        AnomalyThreshold
            For `predict_anomaly` and `predict_to`; ``float()`` of it is the log-density. As of
            `score_samples`: of scaled rows, where rows are scaled first. A row that misses values
            has the density of those that it has, which is of another dimension: a threshold is
            meant for rows that are as complete as those it was found by.

        Raises
        ------
        InputError (a ValueError)
            The rate is none, no row takes part, or what goes with data comes without.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(1000, 2))
        >>> gm = GaussianMixture(random_state=0).fit(X)
        >>> found = gm.anomaly_threshold(X, false_alarm_rate=0.01)
        >>> int(gm.predict_anomaly(X, found).sum())
        10
        >>> drawn = gm.anomaly_threshold(false_alarm_rate=0.01)
        >>> drawn.n_rows, round(drawn.rate_error, 4)
        (100000, 0.0003)
        """
        check_is_fitted(self)
        rate, parameters = checked_rate(false_alarm_rate), self._parameters()
        if X is None:
            if sample_weight is not None or where is not None:
                raise InputError(
                    "sample_weight= and where= belong to rows, and none are given: add X."
                )
            seed = 0 if self.random_state is None else self.random_state  # the same each time
            rng = check_random_state(seed)
            return simulated_threshold(
                parameters, self._kernel(), rate, _draws(n_samples, rate), rng
            )
        if n_samples is not None:
            raise InputError("n_samples= is of rows that are drawn, and X is given: leave one out.")
        source = open_input(self, X, sample_weight, where, reset=False)
        rows = scaled(source, self._scaling)
        job = QuantilesJob.of(parameters, self._kernel(), rate, rows)
        found: DensityQuantiles = self._run(rows, job)
        if not found.rows:
            if source.selects and source.n_rows != 0:
                raise nothing_left(source)
            raise InputError(f"{source.name} has no rows, and one at least is needed.")
        return threshold_of(found, parameters, rate)

    def predict_anomaly(
        self, X: Any, threshold: float | AnomalyThreshold, *, where: Any = None
    ) -> Any:
        """Return whether the log-density of each sample lies below a threshold.

        `predict_to` writes the flags with the log-densities, by its `anomaly_threshold`.

        Parameters
        ----------
        X : as in `fit`
        threshold : float or AnomalyThreshold
            In nats, as of `score_samples`; `anomaly_threshold` finds it.
        where : as in `fit`, optional

        Returns
        -------
        ndarray, dask.array or DataArray of bool, shape of the samples
            Lazy, labelled, or of many arrays, as of `predict`. False for rows that take no part.

        Raises
        ------
        InputError (a ValueError)
            X cannot be used, or the threshold is no number.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> X = np.array([[1.0, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
        >>> gm = GaussianMixture(2, reg_covar=1.0, random_state=0).fit(X)
        >>> gm.predict_anomaly([[1, 2], [30, 2]], threshold=-20.0)
        array([False,  True])
        """
        check_is_fitted(self)
        source = open_input(self, X, where=where, reset=False)
        kind = np.dtype(bool)
        return self._map(
            X,
            source,
            Anomalies(self._parameters(), self._kernel(), kind, threshold_from(threshold)),
        )


def _draws(n_samples: Any, rate: float) -> int:
    """How many rows to draw for a threshold."""
    if n_samples is None:
        return int(min(_MOST_DRAWS, max(_FEWEST_DRAWS, ceil(_DRAWS_BELOW / rate))))
    if not (is_whole(n_samples) and n_samples >= 1):
        raise InputError(f"n_samples={n_samples!r} is no number of rows: give a whole one from 1.")
    return int(n_samples)
