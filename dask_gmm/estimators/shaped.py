"""A mixture in another shape: of given parameters, in another order, its components in clusters."""

from __future__ import annotations

import copy
import os
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.concatenated_source import is_many
from dask_gmm.data.scaled_source import scaled
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.tables.output import kept_columns
from dask_gmm.data.tables.writer import LABEL, posterior_names
from dask_gmm.errors import InputError
from dask_gmm.estimators.applied import for_each_row, real_of
from dask_gmm.estimators.attributes import set_parameters
from dask_gmm.estimators.inputs import open_input, scaling_asked
from dask_gmm.estimators.merging import ELBOW, ComponentMerging, check_count, chosen_count
from dask_gmm.estimators.ordering import check_order, order_of
from dask_gmm.estimators.reported import ReportingMixture
from dask_gmm.estimators.shown import feature_names
from dask_gmm.estimators.written import check_output_dtype, label_type
from dask_gmm.execution import choose_backend
from dask_gmm.execution.pinned import cache_size
from dask_gmm.fitting.cluster_prediction import ClusterLabels, ClusterPosteriors
from dask_gmm.fitting.events import PassAdvanced, PassStarted
from dask_gmm.fitting.given import given_mixture
from dask_gmm.fitting.passes import first_pass
from dask_gmm.inspection.combining import CombiningJob, combine
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.progress.observers import observed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from dask_gmm.data.source import Source
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.fitting.prediction import RowFunction
    from dask_gmm.inspection.combining import Combined, CombiningSums

__all__ = ["GIVEN", "ShapedMixture"]

GIVEN = "given"
"""`outcome_` of a mixture that was made of numbers."""


class ShapedMixture(ReportingMixture):
    """A mixture that can be made of numbers, sorted, and have its components combined."""

    cache: int | str

    @classmethod
    def from_parameters(
        cls,
        weights: Any,
        means: Any,
        covariances: Any = None,
        *,
        precisions: Any = None,
        covariance_type: str | None = None,
        feature_names: Sequence[str] | None = None,
        **settings: Any,
    ) -> Self:
        """Return a fitted mixture of given weights, means and covariances; no data are needed.

        It predicts, samples, is saved and shown as any fitted one, and a fit with
        ``warm_start=True`` goes on from it.

        Parameters
        ----------
        weights : array-like of shape (K,)
            π_k ≥ 0, which add up to one.
        means : array-like of shape (K, D)
        covariances : array-like
            (K, D, D) for 'full' components, (D, D) for 'tied', (K, D) for 'diag' or (K,) for
            'spherical' ones.
        precisions : array-like of the same shape
            Their inverses, instead.
        covariance_type : str, optional
            By default what the shape says; needed where K = D and it may be 'tied' or 'diag'.
        feature_names : sequence of str, optional
            Of the D features, as of a fit to a frame.
        **settings
            Other parameters of the estimator, such as `missing` or `random_state`.

        Raises
        ------
        InputError (a ValueError)
            A shape does not fit, a value is not finite, the weights are no distribution, or a
            covariance is not symmetric and positive definite.

        Examples
        --------
        >>> from dask_gmm import GaussianMixture
        >>> gm = GaussianMixture.from_parameters(
        ...     weights=[0.25, 0.75],
        ...     means=[[0.0, 0.0], [5.0, 5.0]],
        ...     covariances=[[1, 1], [2, 3]],
        ...     covariance_type="diag",
        ... )
        >>> gm.predict([[0.5, 0.0], [4.0, 6.0]])
        array([0, 1])
        """
        if MixtureParameters.kind not in cls._kinds:
            raise InputError(
                f"{cls.__name__} has more parameters than weights, means and covariances: "
                f"GaussianMixture.from_parameters makes a mixture of these."
            )
        parameters = given_mixture(covariance_type, weights, means, covariances, precisions)
        if "n_components" in settings:
            raise InputError("n_components follows from the means: leave it out.")
        gm = cls(
            n_components=parameters.n_components,
            covariance_type=parameters.family.name,
            **settings,
        )
        gm._validate_params()
        if scaling_asked(gm) is not None:
            raise InputError(
                "Given parameters are of rows as they are, and feature_transform, standardize and "
                "n_pca say how a fit scales them: leave these out, or fit."
            )
        if getattr(gm, "_noisy", False):
            raise InputError(
                "Noise is fitted, and given parameters have none: leave noise out, or fit."
            )
        names = _checked_names(feature_names, parameters.n_features)
        order = getattr(gm, "order", None)
        check_order(order, names, parameters.n_features)
        sorted_ones = parameters.reordered(order_of(parameters, None, order, names))
        set_parameters(gm, sorted_ones, np.float64)
        gm._describe_given(names)
        return gm

    def _describe_given(self, names: Sequence[str] | None) -> None:
        """Set what a fit says of itself, where there was none."""
        gm: Any = self
        gm.scaling_, gm.n_features_in_ = None, gm.means_.shape[1]
        if names is not None:
            gm.feature_names_in_ = np.array(names, dtype=object)
        gm.converged_, gm.outcome_, gm.n_iter_ = True, GIVEN, 0
        gm.lower_bound_, gm.lower_bounds_ = -np.inf, []
        gm.n_rows_, gm.n_incomplete_rows_ = None, 0
        gm.n_passes_, gm.history_, gm.record_ = None, (), None
        gm.acceleration_, gm.remaining_gain_ = None, None

    def reordered(self, order: Any) -> Self:
        """Return a copy of the fitted mixture with its components in another order.

        Parameters
        ----------
        order : {'weight', 'principal'}, str, int or sequence of int
            As the parameter `order`; or each component's number once, in the order in which they
            are to be, such as the `order` of a `compare`.

        Raises
        ------
        InputError (a ValueError)
            There is no such order.

        Examples
        --------
        >>> from dask_gmm import GaussianMixture
        >>> gm = GaussianMixture.from_parameters([0.25, 0.75], [[5.0], [0.0]], [1.0, 1.0])
        >>> gm.reordered("weight").weights_, gm.reordered([1, 0]).means_.ravel()
        (array([0.75, 0.25]), array([0., 5.]))
        """
        check_is_fitted(self)
        parameters = self._parameters()
        found = order_of(parameters, self._scaling, order, feature_names(self))
        gm: Any = copy.copy(self)
        set_parameters(gm, parameters.reordered(found), gm.means_.dtype)
        kept = getattr(self, "_kept", None)
        gm._kept = None if kept is None else kept.taken(found.tolist())
        result: Self = gm
        return result

    def merge(
        self,
        X: Any,
        n_clusters: int | str = ELBOW,
        *,
        sample_weight: Any = None,
        where: Any = None,
        max_passes: int = 4,
    ) -> ComponentMerging:
        """Combine components into clusters by the entropy of what rows belong to.

        Where a population is no Gaussian several components describe it. They are merged pair by
        pair, each time those whose union leaves the least doubt (Baudry, Raftery, Celeux, Lo &
        Gottardo 2010); the mixture, and the density, stay as they are.

        Each step is the best of all pairs over all rows, in two reads as a rule whatever K is: the
        first has the gains of all pairs of components and a sample, which guess the way; the second
        has the gains of all pairs along it, and confirms it, or says where another read must go
        on. Where `max_passes` ends that, the last steps are those of the guess, with entropies of
        all rows (`n_greedy` says how many steps are certain). Posteriors below 1e-9 are taken for
        none, so that gains of less than about 2e-8 nats a row are.

        Parameters
        ----------
        X : as in `fit`
        n_clusters : int, 'elbow' or 'elbow-rows', default='elbow'
            How many clusters there are to be; by default as many as where the entropy, against
            their number (against the rows merged), bends. The result has all numbers, and
            `with_clusters` chooses another without a read.
        sample_weight, where : as in `fit`, optional
        max_passes : int, default=4
            Most reads, 2 at least.

        Returns
        -------
        ComponentMerging
            The same bits wherever it was made.

        Raises
        ------
        InputError (a ValueError)
            Data that cannot be used, or a number of clusters that cannot be had.
        MemoryPlanError
            A block and what is added up would not fit in the memory of a worker.

        Examples
        --------
        >>> from dask_gmm import GaussianMixture
        >>> means = [[0.0], [1.0], [10.0], [11.0], [20.0], [21.0]]
        >>> gm = GaussianMixture.from_parameters([1 / 6] * 6, means, [1.0] * 6, random_state=0)
        >>> X, _ = gm.sample(600)
        >>> gm.merge(X).labels
        array([0, 0, 1, 1, 2, 2])
        """
        check_is_fitted(self)
        asked: Any = max_passes
        whole = isinstance(asked, Integral) and not isinstance(asked, bool)
        if not whole or max_passes < 2:
            raise InputError(
                f"max_passes={max_passes!r} is no number of reads that merging can do with: give 2 "
                f"or more."
            )
        parameters = self._parameters()
        if parameters.leaves_rows_out:
            raise InputError(
                "Components are merged by what rows belong to, and rows may belong to none of this "
                "mixture's: merge those of GaussianMixture.from_parameters(weights_, means_, "
                "covariances_), or fit with noise=False."
            )
        check_count(n_clusters, parameters.n_components)
        source = open_input(self, X, sample_weight, where, reset=False)
        found = self._combined(source, int(max_passes))
        self._check_any(found.n_rows, source)
        return ComponentMerging(
            n_clusters=chosen_count(found, n_clusters),
            chosen_by=n_clusters if isinstance(n_clusters, str) else GIVEN,
            merges=found.merges,
            gains=found.gains,
            merged=found.merged,
            n_greedy=found.n_greedy,
            n_rows=found.n_rows,
            weight=found.weight,
            n_passes=found.n_passes,
            model=copy.copy(self).set_params(callbacks=None),
        )

    def _combined(self, source: Source, max_passes: int) -> Combined:
        """The reads of a merging, in all of which blocks may be pinned."""
        rows = scaled(source, self._scaling)
        first = CombiningJob.first(self._parameters(), self._kernel(), rows)
        backend, number = choose_backend(source), 0
        pinned = cache_size(self.cache) if first.most else 0  # a single read suffices otherwise
        with (
            observed(self._observers(), "merging", source, backend) as observers,
            backend.open(rows, cache=pinned) as passes,
        ):

            def advanced(progress: PassProgress) -> None:
                for observer in observers:
                    observer(PassAdvanced(number, progress))

            def run(job: CombiningJob) -> CombiningSums:
                nonlocal number
                number += 1
                for observer in observers:
                    observer(PassStarted(number, 1))
                told = advanced if observers else None
                result = (
                    first_pass(passes, job, told)
                    if number == 1
                    else passes.run(job, on_progress=told)
                )
                value: CombiningSums = result.value
                return value

            return combine(first, run, max_passes)

    def _predict_clusters(
        self, X: Any, clusters: tuple[int, ...], *, where: Any, probabilities: bool
    ) -> Any:
        """What `ComponentMerging.predict` and `predict_proba` return."""
        source = open_input(self, X, where=where, reset=False)
        p, kernel = self._parameters(), self._kernel()
        function: RowFunction = (
            ClusterPosteriors(p, kernel, real_of(source), clusters)
            if probabilities
            else ClusterLabels(p, kernel, clusters=clusters)
        )
        return self._map(X, source, function)

    def _write_clusters(
        self,
        X: Any,
        output: str | os.PathLike[str],
        clusters: tuple[int, ...],
        *,
        where: Any,
        probabilities: bool,
        dtype: DTypeLike | None,
        keep: Sequence[str] | None,
        how: Mapping[str, Any],
    ) -> int:
        """What `ComponentMerging.predict_to` does."""
        source = for_each_row(open_input(self, X, where=where, reset=False))
        if is_many(source):
            raise InputError(
                f"{source.name} are many, and labels of clusters are written of one: call "
                f"predict_to for each."
            )
        count, p = max(clusters) + 1, self._parameters()
        signed = source.weights is not None or source.missing == "drop"
        kind = np.dtype(
            dtype or (np.float64 if probabilities else label_type(count, signed=signed))
        )
        check_output_dtype(kind, count, probabilities=probabilities)
        made = ClusterPosteriors if probabilities else ClusterLabels
        function = made(p, self._kernel(), kind, clusters)
        values = "posteriors" if probabilities else "labels"
        if has_parquet_suffix(os.fspath(output)):
            own = (LABEL, *(posterior_names(count) if probabilities else ()))
            kept = kept_columns(source, X, keep, own)
            options = {**how, "options": how["storage_options"]}
            del options["storage_options"]
            return self._write_table(source, function, os.fspath(output), kept, options)
        if keep is not None:
            raise InputError(
                f"keep= is for tables, and {output} would be a Zarr array: give it a name that "
                f"ends with .parquet."
            )
        tail = (count,) if probabilities else ()
        return self._write_to(X, source, function, values, tail, output, **how)


def _checked_names(names: Any, n_features: int) -> tuple[str, ...] | None:
    """Names of features as somebody gives them.

    Raises
    ------
    InputError
    """
    if names is None:
        return None
    given = [names] if isinstance(names, str) else list(names)
    if not all(isinstance(name, str) for name in given):
        raise InputError(f"feature_names={names!r} holds something else than text.")
    if len(given) != n_features or len(set(given)) < len(given):
        raise InputError(
            f"feature_names has {len(set(given))} different names and the means have {n_features} "
            f"features: give a name for each."
        )
    return tuple(given)
