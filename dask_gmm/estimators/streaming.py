"""A mixture for data that keep coming: one step a batch, or an update by new rows alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import ceil
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.validation import check_is_fitted

from dask_gmm.data.provenance import data_known_by
from dask_gmm.data.scaled_source import scaled
from dask_gmm.errors import CollapsedComponentWarning, DriftWarning, InputError
from dask_gmm.estimators.attributes import set_parameters
from dask_gmm.estimators.endings import warn_of_ending
from dask_gmm.estimators.fitting import FittingMixture
from dask_gmm.estimators.inputs import checkpoint_at, keeping_features, open_input, scaling_asked
from dask_gmm.execution import choose_backend
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting.drift import Drift, DriftJob, accumulated, simulated_drift
from dask_gmm.fitting.events import Outcome
from dask_gmm.fitting.record import RecordKeeper
from dask_gmm.fitting.settings import WarmStart
from dask_gmm.fitting.stepwise import StepSizes, step
from dask_gmm.progress.observers import observed
from dask_gmm.progress.run import FIT
from dask_gmm.scaling.scaling import scaled_dtype

if TYPE_CHECKING:
    import os

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.drift import DriftSums
    from dask_gmm.fitting.fit import FitReport
    from dask_gmm.fitting.record import FitRecord
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.fitting.stepwise import Stepped
    from dask_gmm.mixture.kept import KeptStatistics
    from dask_gmm.mixture.model import MixtureModel

__all__ = ["StreamingMixture"]

# Nats per row of all that a fit over everything may gain before anybody has to hear of it.
_LARGE_GAP = 1e-3


class StreamingMixture(FittingMixture):
    """What goes on from the statistics that a fit has kept.

    Constructor parameters and the fit are the subclass's.
    """

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        where: Any = None,
        exponent: float = 0.6,
        offset: float = 0.0,
        half_life: float | None = None,
    ) -> Self:
        """Take in a batch of rows, read once: one step of stepwise EM.

        The first call begins with that batch, as a fit of one iteration does, in one read beside
        that of the sample. What a fit has found goes on, too: begin with `fit` where many rows are
        there already. Each later call computes responsibilities at the mixture so far, blends the
        batch's statistics with those that run, and does an M-step; components keep their numbers
        from then on, whatever `order` says. A store of any size is one batch, by the current
        cluster. Which batch comes when has a part in the result; how a batch is cut into blocks,
        and who computes, has none.

        Parameters
        ----------
        X : as in `fit`
            The batch. The first one needs as many rows as there are free parameters per feature.
        y : ignored
        sample_weight : as in `fit`, optional
        where : as in `fit`, optional
        exponent : float, default=0.6
            α of the step sizes η = (1 + W/m + t₀)^−α, with W the weight of the rows before and m
            that of the batch: of equal batches (t + t₀)^−α for the t-th. Above 0.5, where steps
            add up to a limit, and at most 1, where with ``offset=0`` each row counts alike, however
            large its batch (Cappé & Moulines 2009; Liang & Klein 2009).
        offset : float, default=0
            t₀ ≥ 0.
        half_life : float, optional
            Instead of these: a row counts half as much when so many more (so much more weight) have
            come. For data that drift; the mixture never settles.

        Returns
        -------
        GaussianMixture
            Itself. Features, their names and how rows are scaled are those of the first batch.

        Raises
        ------
        InputError (a ValueError)
            As in `fit`; the first batch is too small; step sizes that are none; or the mixture has
            no statistics to go on from, and the message says why.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> gm = GaussianMixture(n_components=2, random_state=0)
        >>> for batch in range(20):
        ...     centre = rng.choice([-3.0, 3.0], size=(500, 1))
        ...     gm = gm.partial_fit(centre + rng.normal(size=(500, 2)))
        >>> gm.n_rows_, gm.n_updates_, sorted(gm.means_[:, 0].round(1).tolist())
        (10000, 20, [-3.0, 3.0])
        """
        sizes = _step_sizes(exponent, offset, half_life)
        if not self.__sklearn_is_fitted__():
            with keeping_features(self):
                source = open_input(self, X, sample_weight, where, reset=True)
                self._begin_stream(source)
            return self
        warm = self._going_on("partial_fit")
        assert warm.kept is not None
        source = open_input(self, X, sample_weight, where, reset=False)
        model, backend = self._fit_settings(source, warm).model, choose_backend(source)
        _refuse_model(model, "partial_fit")
        keeper = RecordKeeper(data_known_by(source), source.weighted, source.masked)
        rows = scaled(source, warm.scaling)
        with observed(self._observers(), FIT, source, backend) as observers:
            stepped = step(
                rows,
                backend,
                self._kernel(),
                model,
                warm.parameters,
                warm.kept,
                sizes,
                keeper=keeper,
                observers=observers,
            )
        if stepped.n_rows:
            self._keep_step(stepped, keeper.finished(stepped.history), source)
        return self

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def update(
        self,
        X: Any,
        y: object = None,
        sample_weight: Any = None,
        *,
        where: Any = None,
        check: Any = None,
        check_weight: Any = None,
        check_where: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str = "auto",
    ) -> Self:
        """Fit the mixture to new rows beside those that it was fitted to, which are not read.

        Incremental EM (Neal & Hinton 1998): the earlier rows' responsibilities stay as they are,
        and so do their statistics, which the mixture keeps; passes over the new rows alone
        compute theirs, and each M-step is that of all rows, until that converges. What rises with
        each pass is the free energy: the mean log-likelihood of the new rows, and for the earlier
        ones a lower bound of theirs (with `reg_covar`, up to what that adds). Where no earlier row
        would change hands, components being well apart, its maximum is that of the likelihood of
        all rows, and the update ends where a fit over everything would. How far the earlier rows
        have drifted instead is estimated, see `drift_`.

        Parameters
        ----------
        X : as in `fit`
            The new rows, and no others; one row is enough.
        y : ignored
        sample_weight : as in `fit`, optional
        where : as in `fit`, optional
        check : as X, optional
            The earlier rows, all of them: read once in the end, to say how far they have drifted
            exactly. Without it that is estimated by rows which are drawn from the mixture.
        check_weight, check_where : as in `fit`, optional
            Weights and mask of `check`, as they were when those rows were fitted.
        checkpoint, resume : as in `fit`, optional
            An update goes on from its last pass as a fit does.

        Returns
        -------
        GaussianMixture
            Itself, with statistics of all rows, for the next update. New rows of which none takes
            part leave it as it was.

        Raises
        ------
        InputError (a ValueError)
            As in `fit`; the mixture has no statistics to go on from, and the message says why; or
            `check` are other rows than those that were fitted.

        Notes
        -----
        `tol` is in nats per new row as far as it is known how many there are, else per row of all.
        Accelerated by 'squarem' unless `acceleration` is None. A component that collapses ends the
        update (``on_collapse='stop'``), or fails it ('raise'). With ``missing='marginalize'`` what
        was expected of the earlier rows' missing values stays as it was too, so that even well
        apart the update ends near the fit over all rows, not at it; only `check` sees how near.

        Examples
        --------
        >>> import numpy as np
        >>> from dask_gmm import GaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 6.0)])
        >>> rng.shuffle(X)
        >>> gm = GaussianMixture(n_components=2, tol=1e-6, random_state=0).fit(X[:800])
        >>> whole = GaussianMixture(n_components=2, tol=1e-6, random_state=0).fit(X)
        >>> abs(gm.update(X[800:]).lower_bound_ - whole.lower_bound_) < 1e-6
        True
        >>> gm.n_rows_, gm.n_updates_, gm.drift_.changed_labels
        (1000, 1, 0.0)
        """
        check_is_fitted(self)
        before = self._going_on("update")
        place = checkpoint_at(
            checkpoint, resume, self.storage_options, self.random_state, self.missing_chunks
        )
        source = open_input(self, X, sample_weight, where, reset=False, checkpoint=place)
        old = self._opened_check(check, check_weight, check_where, before)
        settings = self._update_settings(source, before)
        report = self._fitted_to(choose_backend(source), source, settings, before, place)
        if not report.n_rows and report.history:
            return self
        drift = self._drift(before, report, old)
        self._keep_update(self._in_order(report, source), drift, source)
        warn_of_ending(report, settings, "update", stacklevel=4)
        _warn_of_drift(drift, before, self.tol)
        return self

    # -- inside ----------------------------------------------------------------------------------

    def _begin_stream(self, source: Source) -> None:
        """Fit the first batch: a start, a pass, an M-step."""
        whole = self._fit_settings(source)
        _refuse_model(whole.model, "partial_fit")
        settings = replace(
            whole, max_iter=1, acceleration=None, search="off", max_passes=None, max_bytes=None
        )
        _refuse_few(source.n_rows, settings, source)
        report = self._fitted_to(choose_backend(source), source, settings)
        _refuse_few(report.n_rows, settings, source)
        warn_of_ending(
            replace(report, best=replace(report.best, outcome=_stream(report.best.outcome))),
            settings,
            "stream",
            stacklevel=5,
        )
        self._keep(report, source.dtype)
        if report.best.outcome is not Outcome.COLLAPSED:
            self.converged_, self.outcome_ = False, Outcome.STREAM.value
        self.n_updates_, self.record_ = 1, report.record.after("partial_fit", None)

    def _going_on(self, what: str) -> WarmStart:
        """The mixture and the statistics that it is to go on from.

        Raises
        ------
        InputError
            There are none, or they are not the mixture's.
        """
        kept: KeptStatistics | None = getattr(self, "_kept", None)
        if kept is None:
            raise InputError(
                f"This mixture has no statistics for {what} to go on from: it comes from "
                f"scikit-learn, from parameters or a file of an older version; it was fitted "
                f"without a pass, with noise or with frozen parts; or its last M-step has "
                f"collapsed, or mended a component. Fit it, with warm_start=True from where it is: "
                f"fits keep them."
            )
        parameters = self._parameters()
        if parameters is not self._fitted and parameters != self._fitted:
            raise InputError(
                f"Parameters of this mixture were set by hand since it was fitted: its statistics "
                f"are those of another mixture, and {what} cannot go on from them. Fit it with "
                f"warm_start=True."
            )
        asked, scaling = scaling_asked(self), self._scaling
        names = getattr(self, "feature_names_in_", None)
        alike = (scaling is None) == (asked is None) and (
            scaling is None or asked is None or asked.made(scaling, names)
        )
        if not alike or parameters.n_components != self.n_components:
            raise InputError(
                f"{what} goes on with the {parameters.n_components} components that were fitted, "
                f"and scales rows as that fit did: set n_components, feature_transform, "
                f"standardize, n_pca and whiten back, or clone the estimator and fit it."
            )
        return WarmStart(parameters, -np.inf, scaling, kept)

    def _update_settings(self, source: Source, before: WarmStart) -> FitSettings:
        """As a fit's, for passes over the new rows alone."""
        whole, kept = self._fit_settings(source, before), before.kept
        _refuse_model(whole.model, "update")
        assert kept is not None
        tol, n = whole.tol, source.n_rows
        if n:
            tol *= n / (n + kept.rows)
        return replace(
            whole,
            tol=tol,
            search="off",
            acceleration=None if self.acceleration is None else "squarem",
            on_collapse="raise" if self.on_collapse == "raise" else "stop",
        )

    def _opened_check(
        self, check: Any, weight: Any, where: Any, before: WarmStart
    ) -> Source | None:
        """The earlier rows, if they are given."""
        if check is None:
            if weight is not None or where is not None:
                raise InputError("check_weight and check_where belong to check=, the earlier rows.")
            return None
        source = open_input(self, check, weight, where, reset=False)
        if not source.selects:
            _refuse_others(source.n_rows, before)
        return source

    def _drift(self, before: WarmStart, report: FitReport, old: Source | None) -> Drift:
        after, kept = report.best.parameters, before.kept
        assert kept is not None
        if old is None:
            with single_threaded_blas():
                rows, divergence, changed = simulated_drift(before.parameters, after)
            total = accumulated(kept.drift, divergence)
        else:
            job = DriftJob(before.parameters, after, self._kernel())
            found: DriftSums = self._run_scaled(old, job, doing="checking")
            _refuse_others(found.rows, before)
            if not np.isclose(found.weight, kept.weight, rtol=1e-9):
                raise InputError(
                    f"The weights of check add up to {found.weight:.10g}, and those of the rows "
                    f"that were fitted to {kept.weight:.10g}: give the same by check_weight."
                )
            rows, divergence = found.rows, max(found.divergence, 0.0) / found.weight
            changed = found.changed / found.weight
            with single_threaded_blas():
                below = kept.free_energy(after)
            total = max(found.log_likelihood - below, 0.0) / kept.weight
        last = report.best.last
        whole = kept.weight if last is None else last.statistics.weight
        share = kept.weight / whole if whole else 1.0
        return Drift(rows, old is not None, divergence, changed, total, share * total)

    def _keep_update(self, report: FitReport, drift: Drift, source: Source) -> None:
        rows, updates, record = self.n_rows_, self.n_updates_, self.record_
        self._keep(report, source.dtype)
        self.record_ = report.record.after("update", record)
        self.n_rows_ = None if rows is None or report.n_rows is None else rows + report.n_rows
        self.n_updates_, self.drift_ = updates + 1, drift
        if self._kept is not None:
            self._kept = replace(self._kept, drift=drift.gap)

    def _keep_step(self, stepped: Stepped, record: FitRecord, source: Source) -> None:
        result = stepped.result
        dtype = source.dtype if self._scaling is None else scaled_dtype(source.dtype)
        set_parameters(self, result.parameters, dtype)
        kept, n = stepped.kept, self.n_updates_
        self._kept = kept
        self.converged_, self.outcome_ = False, Outcome.STREAM.value
        self.n_iter_, self.n_passes_ = self.n_iter_ + 1, (self.n_passes_ or 0) + 1
        self.lower_bound_ = stepped.free_energy
        self.lower_bounds_ = [*self.lower_bounds_, result.lower_bound]
        self.n_rows_ = (self.n_rows_ or 0) + stepped.n_rows
        self.n_incomplete_rows_ += stepped.history[-1].incomplete_rows
        self.history_ = tuple(
            replace(one, judgement=judged)
            for one, judged in zip(stepped.history, result.judgements, strict=True)
        )
        self.record_ = record.after("partial_fit", self.record_)
        self.remaining_gain_, self.drift_, self.n_updates_ = None, None, n + 1
        for note in result.mended:
            warnings.warn(note, CollapsedComponentWarning, stacklevel=4)


def _stream(outcome: Outcome) -> Outcome:
    """A batch does not converge, and nobody has to hear of that."""
    return outcome if outcome is Outcome.COLLAPSED else Outcome.CONVERGED


def _step_sizes(exponent: object, offset: object, half_life: object) -> StepSizes:
    def number(value: object) -> bool:
        return isinstance(value, Real) and not isinstance(value, bool)

    if not (number(exponent) and 0.5 < exponent <= 1.0):  # type: ignore[operator]
        raise InputError(
            f"exponent={exponent!r} should be above 0.5 and at most 1: other step sizes do not "
            f"settle. For data that drift give half_life."
        )
    if not (number(offset) and 0.0 <= offset < np.inf):  # type: ignore[operator]
        raise InputError(f"offset={offset!r} should be a number of batches, 0 or more.")
    if half_life is not None and not (number(half_life) and 0.0 < half_life < np.inf):  # type: ignore[operator]
        raise InputError(f"half_life={half_life!r} should be a positive number of rows.")
    life = None if half_life is None else float(half_life)  # type: ignore[arg-type]
    return StepSizes(float(exponent), float(offset), life)  # type: ignore[arg-type]


def _refuse_model(model: MixtureModel, what: str) -> None:
    """Refuse a model whose statistics are not enough to go on from."""
    if model.conjugate and not model.needs_rows:
        return
    raise InputError(
        f"{what} goes on from sums over rows, which is not enough for this model: noise and "
        f"frozen parts, and priors that are taken from the data, need the rows themselves. Fit all "
        f"rows with warm_start=True, or leave noise= and frozen= out, and give a prior by numbers."
    )


def _refuse_few(n_rows: int | None, settings: FitSettings, source: Source) -> None:
    """Refuse a first batch that says too little for a start."""
    d = settings.n_features(source)
    needed = ceil(settings.model.family.n_parameters(settings.n_components, d) / d)
    if n_rows is not None and n_rows < needed:
        raise InputError(
            f"The first batch of partial_fit has {n_rows:,} rows, and a start of "
            f"{settings.n_components} components needs {needed:,}, as many as there are free "
            f"parameters per feature: wait for more rows before the first call."
        )


def _refuse_others(n_rows: int | None, before: WarmStart) -> None:
    """Refuse rows for a check that cannot be those which were fitted."""
    assert before.kept is not None
    if n_rows is not None and n_rows != before.kept.rows:
        raise InputError(
            f"check has {n_rows:,} rows, and the statistics that are kept are of "
            f"{before.kept.rows:,}: give all rows that the mixture stands for, those of earlier "
            f"updates too, as a list of arrays if they lie apart."
        )


def _warn_of_drift(drift: Drift, before: WarmStart, tol: float) -> None:
    if not drift.gap > max(tol, _LARGE_GAP):
        return
    assert before.kept is not None
    about = "" if drift.exact else "about "
    warnings.warn(
        f"The {before.kept.rows:,} rows that the update has not read would belong to components "
        f"otherwise by now: {about}{drift.changed_labels:.1%} of them have another label, and the "
        f"log-likelihood of all rows lies {about}{drift.gap:.2g} nats a row above lower_bound_, "
        f"which a fit could use. Fit everything with warm_start=True when you can.",
        DriftWarning,
        stacklevel=4,
    )
