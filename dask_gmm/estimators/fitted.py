"""What a fitted mixture can do, whatever fitted it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self, TypeAlias, overload

import numpy as np
from dask.base import normalize_token
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.mixture import GaussianMixture as SklearnGaussianMixture
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.lazy import lazy_map
from dask_gmm.data.output_begin import begin_output, output_chunks
from dask_gmm.data.provenance import check_unchanged, recipe_of
from dask_gmm.data.source import NumpySource
from dask_gmm.data.tables.arrow import has_parquet_suffix
from dask_gmm.data.tables.output import begin_table, kept_columns, layout_of
from dask_gmm.data.weights import no_weight
from dask_gmm.errors import InputError
from dask_gmm.estimators.attributes import parameters_of
from dask_gmm.estimators.conversion import copy_fitted, restore, to_model_file
from dask_gmm.estimators.inputs import check_n_effective, open_input
from dask_gmm.execution import LocalBackend, choose_backend, single_threaded_blas
from dask_gmm.fitting.events import Outcome, OutputResumed, PassAdvanced, PassStarted
from dask_gmm.fitting.passes import LogLikelihood, LogLikelihoodJob, first_pass
from dask_gmm.fitting.prediction import (
    Labels,
    LogDensities,
    Posteriors,
    RowFunction,
    SharedRowFunction,
    WriteJob,
)
from dask_gmm.fitting.verbose import VerboseObserver
from dask_gmm.interrupts import allowed, held
from dask_gmm.mixture.kernels import get_kernel
from dask_gmm.mixture.sampling import sample_mixture
from dask_gmm.model_file import load_model, save_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import dask.array as da
    import zarr
    from numpy.typing import DTypeLike, NDArray

    from dask_gmm.data.sink import Output
    from dask_gmm.data.source import Source
    from dask_gmm.data.tables.output import TableOutput
    from dask_gmm.data.tables.writer import Kept
    from dask_gmm.execution.backend import PassProgress
    from dask_gmm.execution.jobs import BlockJob
    from dask_gmm.fitting.events import Observer
    from dask_gmm.mixture.parameters import MixtureParameters

    LazyData: TypeAlias = str | os.PathLike[str] | zarr.Array[Any] | zarr.Group | da.Array

__all__ = ["Criteria", "FittedMixture"]


@dataclass(frozen=True)
class Criteria:
    """What one read of the data says about a fitted mixture.

    Attributes
    ----------
    n_rows : int
        Rows, not counted those of weight zero.
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
    """

    n_rows: int
    n_effective: float
    log_likelihood: float
    score: float
    bic: float
    aic: float


class FittedMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Everything that needs a fitted mixture and not how it was fitted.

    Fitting and constructor parameters are the subclass's; `GaussianMixture` documents them.
    """

    covariance_type: str
    random_state: int | np.random.RandomState | None
    verbose: int
    verbose_interval: int
    kernel: str
    callbacks: Sequence[Observer] | None

    # -- applying --------------------------------------------------------------------------------

    @overload
    def predict(self, X: LazyData) -> da.Array: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, X: object) -> NDArray[np.int64]: ...

    def predict(self, X: Any) -> NDArray[np.int64] | da.Array:
        """Label each sample with its most probable component.

        Returns
        -------
        ndarray or dask.array of int64, shape of the samples
            Lazy, block by block, when `X` is lazy.
        """
        check_is_fitted(self)
        source = open_input(self, X, reset=False)
        labels: NDArray[np.int64] | da.Array = self._map(
            source, Labels(self._parameters(), get_kernel(self.kernel))
        )
        return labels

    @overload
    def predict_proba(self, X: LazyData) -> da.Array: ...  # type: ignore[overload-overlap]

    @overload
    def predict_proba(self, X: object) -> NDArray[np.floating[Any]]: ...

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]] | da.Array:
        """Return the posterior probability of each component; shape of the samples, then K.

        float32 for float32 rows, as scikit-learn's, else float64.
        """
        check_is_fitted(self)
        source = open_input(self, X, reset=False)
        function = Posteriors(self._parameters(), get_kernel(self.kernel), _real(source))
        posteriors: NDArray[np.floating[Any]] | da.Array = self._map(source, function)
        return posteriors

    @overload
    def score_samples(self, X: LazyData) -> da.Array: ...  # type: ignore[overload-overlap]

    @overload
    def score_samples(self, X: object) -> NDArray[np.float64]: ...

    def score_samples(self, X: Any) -> NDArray[np.float64] | da.Array:
        """Return the log-density of each sample, in nats; shape of the samples, float64.

        Also of float32 rows, which may lie so far out that float32 has no number for it.
        """
        check_is_fitted(self)
        source = open_input(self, X, reset=False)
        function = LogDensities(self._parameters(), get_kernel(self.kernel))
        densities: NDArray[np.float64] | da.Array = self._map(source, function)
        return densities

    def predict_to(
        self,
        X: Any,
        output: str | os.PathLike[str],
        *,
        probabilities: bool = False,
        dtype: DTypeLike | None = None,
        keep: Sequence[str] | None = None,
        overwrite: bool = False,
        resume: str = "auto",
        storage_options: Mapping[str, Any] | None = None,
    ) -> int:
        """Write labels, or posteriors, to a new Zarr array or table in one read of the data.

        The array's attribute `dask_gmm` says whether it is `complete`, which is written last; `fit`
        and its kin refuse one that is not. On a disk it appears at its path only then, and what was
        there before is as it was until then. Object stores cannot rename: there it is written in
        place, marked as incomplete from its first object to its last, and one that it overwrites
        is lost at once.

        A call that ended early, however it ended, leaves its finished blocks, on a disk in a hidden
        folder beside the output, and the same call goes on from them. A name that ends with
        ``.parquet`` makes a table, whose parts lie in that folder, or in an object store below a
        hidden prefix, until all are there and this process puts them together. Of two at the same
        time on a disk the second is refused; in an object store two of the same call do each other
        no harm.

        Parameters
        ----------
        X : as in `fit`
            With known chunk sizes, unless the output is a table.
        output : path or URL
            A Zarr v3 array of the samples' shape (then K with `probabilities`), chunked as the data
            and with their dimension names. Beside its data in a group that xarray wrote, xarray
            sees it where the group's metadata are not consolidated (or once they are again). Or a
            Parquet table of the columns kept, ``label`` and, with `probabilities`, ``posterior_0``
            and so on: of a Parquet file one file of the same row groups, of a folder one of files
            of the same names; of other data one file, and a row group for each block.
        probabilities : bool, default=False
            Posteriors instead of labels; in a table beside them.
        dtype : numpy dtype, optional
            uint8 for labels of up to 255 components, else int32; float64 for posteriors.
        keep : sequence of str, optional
            Columns of the input, identifiers for instance, that a table has too.
        overwrite : bool, default=False
            Replace a complete array that is there, never anything else; of tables only those that
            this method has written.
        resume : {"auto", "must", "never"}, default="auto"
            What becomes of an output there that is not complete. "auto" goes on with one of the
            same mixture and data, and refuses any other, with the difference named; "must" also
            refuses to begin one, and has nothing to do where the same is there and complete;
            "never" deletes it and begins anew. Whether local data are the same is seen from their
            files, up to 20,000; of more, of remote and of Dask data the metadata are compared, and
            the first and the last finished block are computed again: what has changed between them
            is not seen. Rows in memory cannot be told from others, and begin anew.
        storage_options : mapping, optional
            For the output; the data have the estimator's own.

        Returns
        -------
        int
            Rows of the output, those included that were there already.

        Raises
        ------
        OutputExistsError
            Something is there that may not be replaced, or another process is writing it.
        InputError (a ValueError)
            The output is the input, or what was begun there is another one.
        IncompletePassError
            The data were changed while they were read.
        StoreError
            The output cannot be written. What was finished is kept.
        """
        check_is_fitted(self)
        source = open_input(self, X, reset=False)
        parameters = self._parameters()
        k = parameters.n_components
        tail = (k,) if probabilities else ()
        # 255 is uint8's mark for "not written", so 255 components are the most it can label.
        label_type = np.uint8 if k <= 255 else np.int32
        kind = np.dtype(dtype or (np.float64 if probabilities else label_type))
        _check_output_dtype(kind, k, probabilities=probabilities)
        function: RowFunction = (Posteriors if probabilities else Labels)(
            parameters, get_kernel(self.kernel), kind
        )
        per_row = kind.itemsize * (k if probabilities else 1)
        if has_parquet_suffix(os.fspath(output)):
            kept = kept_columns(source, X, keep, k if probabilities else None)
            how = {"options": storage_options, "overwrite": overwrite, "resume": resume}
            return self._write_table(source, function, os.fspath(output), kept, per_row, how)
        if keep is not None:
            raise InputError(
                f"keep= is for tables, and {output} would be a Zarr array: give it a name that "
                f"ends with .parquet."
            )
        chunks = (*output_chunks(source), *tail)  # refuses chunks of unknown sizes
        shape = (*(int(n) for n in source.sample_shape if n is not None), *tail)
        recipe = recipe_of(
            source,
            values="posteriors" if probabilities else "labels",
            model=parameters.fingerprint,
            kernel=function.kernel.name,
            output={"shape": list(shape), "chunks": list(chunks), "dtype": kind.name},
        )
        with (
            held(),
            begin_output(
                str(output),
                shape,
                chunks,
                kind,
                storage_options,
                recipe=recipe,
                overwrite=overwrite,
                resume=resume,
                source=source,
            ) as begun,
            allowed(),
        ):
            job = WriteJob(function, begun.writer, per_row * (source.max_block_rows or 0))
            self._write(source, job, begun)
        return prod(shape[: len(source.sample_shape)])

    def _write_table(
        self,
        source: Source,
        function: RowFunction,
        url: str,
        keep: Kept | None,
        row_bytes: int,
        how: Mapping[str, Any],
    ) -> int:
        """Write a Parquet table and return its rows."""
        k = function.parameters.n_components
        posteriors = isinstance(function, Posteriors)
        labels = np.dtype(np.uint8 if k <= 255 else np.int32)
        kind = np.dtype(function.dtype)
        recipe = recipe_of(
            source,
            values="posteriors" if posteriors else "labels",
            model=function.parameters.fingerprint,
            kernel=function.kernel.name,
            output={
                "shape": list(source.sample_shape),
                "blocks": source.n_blocks,
                "dtype": kind.name,
                "keep": list(keep.columns) if keep is not None else [],
            },
        )
        with (
            held(),
            begin_table(
                url,
                layout_of(source),
                label_dtype=labels if posteriors else kind,
                recipe=recipe,
                keep=keep,
                source=source,
                **how,
            ) as begun,
            allowed(),
        ):
            size = 2 * row_bytes * (source.max_block_rows or 0)  # Arrow's and what is written
            size += 0 if keep is None else keep.block_bytes
            self._write(source, WriteJob(function, begun.writer, size), begun)
        return begun.n_rows

    def _write(self, source: Source, job: WriteJob, output: Output | TableOutput) -> None:
        """Write what an output lacks, and call it complete."""
        if output.n_finished or output.complete:
            done = source.n_blocks if output.complete else output.n_finished
            for observer in self._observers():
                observer(OutputResumed(output.writer.url, done, source.n_blocks))
        if output.complete:
            return
        if output.blocks is None or output.blocks:
            self._run(source, job, output.blocks)
        check_unchanged(output.recipe, source)
        output.finish()

    def score(self, X: Any, y: object = None, sample_weight: Any = None) -> float:
        """Return the mean log-likelihood per row (per unit of weight), in nats."""
        return self.criteria(X, sample_weight=sample_weight).score

    def bic(self, X: Any, *, sample_weight: Any = None, n_effective: float | None = None) -> float:
        """Return the Bayesian information criterion; lower is better. `criteria` has all."""
        return self.criteria(X, sample_weight=sample_weight, n_effective=n_effective).bic

    def aic(self, X: Any, *, sample_weight: Any = None, n_effective: float | None = None) -> float:
        """Return the Akaike information criterion; lower is better. `criteria` has all."""
        return self.criteria(X, sample_weight=sample_weight, n_effective=n_effective).aic

    def criteria(
        self, X: Any, *, sample_weight: Any = None, n_effective: float | None = None
    ) -> Criteria:
        """Return score, log-likelihood, BIC and AIC, all from one read of the data.

        Parameters
        ----------
        X : as in `fit`
        sample_weight : as in `fit`, optional
        n_effective : float, optional
            The independent observations that the rows stand for. By default Σ_n w_n, which is right
            where weights count copies of rows; where they are in some other unit (they add up to
            one, or are inverse variances), nobody but you knows.

        Raises
        ------
        InputError (a ValueError)
            No rows, rows beyond all numbers, weights that cannot be used, or an `n_effective` that
            is not positive.
        """
        check_is_fitted(self)
        if n_effective is not None:
            check_n_effective(n_effective)
        parameters = self._parameters()
        source = open_input(self, X, sample_weight, reset=False)
        found: LogLikelihood = self._run(
            source, LogLikelihoodJob(parameters, get_kernel(self.kernel))
        )
        if not found.rows:
            if source.weights is not None and source.n_rows != 0:
                raise no_weight("sample_weight")
            raise InputError(
                f"Found array with 0 sample(s) (shape=(0, {self.n_features_in_})) while a minimum "
                f"of 1 is required."
            )
        if not np.isfinite(found.total):
            raise InputError(
                "The log-likelihood of these rows is too large for float64: they lie beyond 1e150 "
                "standard deviations from the mixture. Are they in the units of its fit?"
            )
        n, p = found.weight if n_effective is None else float(n_effective), parameters.n_parameters
        total = found.total if n_effective is None else n / found.weight * found.total
        return Criteria(
            n_rows=found.rows,
            n_effective=n,
            log_likelihood=total,
            score=found.total / found.weight,
            bic=-2.0 * total + p * float(np.log(n)),
            aic=-2.0 * total + 2.0 * p,
        )

    def sample(self, n_samples: int = 1) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draw rows from the mixture, grouped by component.

        Returns
        -------
        X : (n_samples, D) float64
        y : (n_samples,) int64
            The component each row came from.
        """
        check_is_fitted(self)
        return sample_mixture(self._parameters(), n_samples, check_random_state(self.random_state))

    # -- models ----------------------------------------------------------------------------------

    def save(
        self,
        url: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the fitted mixture as a small Zarr group, at a path or URL; nothing is pickled."""
        check_is_fitted(self)
        model = to_model_file(self)
        save_model(url, model, overwrite=overwrite, storage_options=storage_options)

    @classmethod
    def load(
        cls, url: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
    ) -> Self:
        """Load a mixture that `save` or `dask-gmm fit --output` has written."""
        gm = cls()
        restore(gm, load_model(url, storage_options=storage_options), str(url))
        return gm

    def to_sklearn(self) -> SklearnGaussianMixture:
        """Return the same fitted mixture as a ``sklearn.mixture.GaussianMixture``."""
        check_is_fitted(self)
        shared = SklearnGaussianMixture().get_params()
        other = SklearnGaussianMixture(
            **{name: v for name, v in self.get_params().items() if name in shared}
        )
        copy_fitted(self, other)
        return other

    @classmethod
    def from_sklearn(cls, model: SklearnGaussianMixture) -> Self:
        """Return a fitted ``sklearn.mixture.GaussianMixture`` as one of this class."""
        check_is_fitted(model)
        gm = cls(**model.get_params())
        copy_fitted(model, gm)
        gm.n_rows_, gm.n_passes_, gm.history_ = None, None, ()
        gm.acceleration_, gm.remaining_gain_ = None, None
        gm.outcome_ = (Outcome.CONVERGED if model.converged_ else Outcome.MAX_ITER).value
        return gm

    # -- inside ----------------------------------------------------------------------------------

    def _map(self, source: Source, function: RowFunction) -> Any:
        """Apply a function of rows: lazily to what is lazy, now to what is in memory."""
        k = function.parameters.n_components if isinstance(function, Posteriors) else None
        lazy = lazy_map(source, SharedRowFunction(function), np.dtype(function.dtype), k)
        if not isinstance(source, NumpySource):
            return lazy
        # Threads of its own: in a task of a configured pool, that pool may have no thread to spare.
        with single_threaded_blas(), ThreadPoolExecutor(LocalBackend().n_threads) as pool:
            return lazy.compute(scheduler="threads", pool=pool)  # type: ignore[no-untyped-call]

    def _run(self, source: Source, job: BlockJob[Any], blocks: Sequence[int] | None = None) -> Any:
        """Run a job over all blocks, or some of them, and return the root of its tree."""
        backend = choose_backend(source)
        observers = self._observers()

        def advanced(progress: PassProgress) -> None:
            for observer in observers:
                observer(PassAdvanced(1, progress))

        for observer in observers:
            observer(PassStarted(1, 1))
        on_progress: Callable[[PassProgress], None] | None = advanced if observers else None
        with backend.open(source, blocks=blocks) as passes:
            return first_pass(passes, job, on_progress).value

    def _observers(self) -> tuple[Observer, ...]:
        observers = tuple(self.callbacks or ())
        if self.verbose:
            observers += (VerboseObserver(int(self.verbose), self.verbose_interval),)
        return observers

    def _parameters(self) -> MixtureParameters:
        """The fitted parameters as one value; also those that somebody has set by hand."""
        return parameters_of(self)

    def _n_parameters(self) -> int:
        """Free parameters of the fitted mixture; scikit-learn's name, used by its tests."""
        return self._parameters().n_parameters

    def __dask_tokenize__(self) -> object:
        """Name the mixture for Dask: by its parameters and what was fitted, not how long it took.

        Equal fits are equal in every process. Observers have no part in it.
        """
        left_out = ("callbacks", "history_")
        state = sorted((name, v) for name, v in vars(self).items() if name not in left_out)
        token: object = normalize_token((type(self), state))
        return token

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "precisions_cholesky_")


def _check_output_dtype(kind: np.dtype[Any], k: int, *, probabilities: bool) -> None:
    """Refuse a type that cannot hold the values, and the mark for those not written."""
    if probabilities:
        if kind.kind != "f":
            raise InputError(f"dtype={kind.name!r} cannot hold probabilities: use a float type.")
    elif kind.kind not in "iu" or np.iinfo(kind).max < (k if kind.kind == "u" else k - 1):
        raise InputError(
            f"dtype={kind.name!r} cannot hold the labels of {k} components: use an integer type "
            f"that can, such as 'int32'."
        )


def _real(source: Source) -> type[np.floating[Any]]:
    """Type of probabilities: float32 for float32 data, as in scikit-learn, else float64."""
    return np.float32 if source.dtype == np.float32 else np.float64
