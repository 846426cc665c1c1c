"""`select_gaussian_mixture`: how many components, and which covariances."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

from sklearn.utils import check_random_state

from dask_gmm.errors import InputError
from dask_gmm.estimators.endings import (
    warn_of_ending,
    warn_of_heywood_cases,
    warn_of_rounded_integers,
)
from dask_gmm.estimators.gaussian_mixture import GaussianMixture
from dask_gmm.estimators.inputs import (
    check_n_effective,
    checkpoint_at,
    open_input,
    scaling_asked,
)
from dask_gmm.estimators.ordering import check_order
from dask_gmm.estimators.selection_table import Selection, row_of
from dask_gmm.estimators.shown import feature_names
from dask_gmm.execution import choose_backend
from dask_gmm.execution.machine import single_threaded_blas
from dask_gmm.fitting.contest import CRITERIA
from dask_gmm.fitting.fit import FitReport, kept_of
from dask_gmm.fitting.grid_starts import GridPoint
from dask_gmm.fitting.selection import SelectionSettings, select_mixture
from dask_gmm.mixture.factors import FACTOR_FAMILIES
from dask_gmm.mixture.family import covariance_family
from dask_gmm.mixture.parsimonious import ALL_OF_MCLUST, MCLUST, MCLUST_IN_ONE_DIMENSION
from dask_gmm.mixture.prior import check_prior, prior_of
from dask_gmm.progress.observers import observed
from dask_gmm.progress.run import SELECTION

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np

    from dask_gmm.data.source import Source
    from dask_gmm.fitting.events import Observer
    from dask_gmm.fitting.selection import SelectionReport
    from dask_gmm.fitting.settings import FitSettings
    from dask_gmm.mixture.family import CovarianceFamily
    from dask_gmm.mixture.prior import Prior

__all__ = ["select_gaussian_mixture"]

_HELDOUT_FRACTION = 0.1


def select_gaussian_mixture(
    X: Any,
    n_components: int | Iterable[int] = range(2, 21),
    covariance_types: str | Iterable[str] = ("full", "diag"),
    *,
    n_factors: int | Iterable[int] | None = None,
    sample_weight: Any = None,
    where: Any = None,
    criterion: str = "bic",
    n_effective: float | None = None,
    heldout_fraction: float | None = None,
    noise: Any = False,
    n_init: int = 1,
    tol: float = 1e-3,
    reg_covar: float = 1e-6,
    prior: Prior | str | None = None,
    max_iter: int = 100,
    init_params: str = "kmeans",
    init_size: int | str = "auto",
    on_collapse: str = "stop",
    order: str | int | None = None,
    acceleration: str | None = "auto",
    search: str | int = "auto",
    stopping: str = "auto",
    max_passes: int | None = None,
    max_bytes: int | None = None,
    random_state: int | np.random.RandomState | None = None,
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
    kernel: str = "auto",
    cache: int | str = "auto",
    callbacks: Sequence[Observer] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: str = "auto",
) -> Selection:
    """Choose the number of components and the covariance type, in the reads of about one fit.

    All mixtures of the grid advance in the same passes over the data; each pass serves those that
    still run. Their starts come from one sample; the next larger mixture gives each another start
    by merging components. A mixture drops out when even a hundred times what it seems to have left
    to gain would not bring it to the best criterion attained so far: the larger of its last two
    estimates of that, or the largest gain of its last three passes where there are none.

    An accelerated mixture ends at the last one that a pass has evaluated and accepted, so that its
    criterion costs no read; `GaussianMixture` does another M-step.

    Parameters
    ----------
    X : as for `GaussianMixture.fit`
    n_components : int or iterable of int, default=range(2, 21)
    covariance_types : str or iterable of str, default=("full", "diag")
        As for `GaussianMixture`. 'mclust' stands for all of mclust's fourteen families, 'EII' to
        'VVV', in its order; of data with a single feature for 'EII' and 'VII', its E and V, as the
        others are the same there. They share every read, of which there are as many as the slowest
        of them needs.
        Of factor analysers as 'factors:5', with their number of factors, or 'factors' with
        `n_factors`.
    n_factors : int or iterable of int, optional
        Numbers of factors to try, with each covariance type that has factors and names no number.
    sample_weight, where : as for `GaussianMixture.fit`, optional
    criterion : {'bic', 'aic', 'icl', 'heldout'}, default='bic'
        BIC (Schwarz 1978), AIC (Akaike 1974), ICL (Biernacki, Celeux & Govaert 2000: BIC plus
        twice the entropy of the responsibilities), or the mean log-density of rows held out.
    n_effective : float, optional
        N of the criteria, the independent observations that all rows stand for; Σ_n w_n by
        default, which is right where weights count copies of rows.
    heldout_fraction : float, optional
        The part of the rows that no mixture is fitted to and all are scored on, in the same reads;
        a draw by (seed, block). 0.1 with ``criterion="heldout"``, else none.
    noise : bool or array-like of shape (2, D), default=False
        As for `GaussianMixture`: whether rows may be noise, in each mixture.
    n_init : int, default=1
        Starts of each mixture that advance to the full data; for an accelerated one the number of
        the sample's best ends between which the first read decides.
    acceleration : {'auto', 'variance-reduced', 'squarem'} or None, default='auto'
        As for `GaussianMixture`, for each mixture by its own number of parameters: 'auto' is
        'variance-reduced' for data that are read from a store or a Dask collection and exceed the
        sample, 'squarem' there for mixtures too large for it, and None, plain EM, for all else.
        For 'variance-reduced' five starts of each mixture, and the one from merging, are fitted to
        the sample in memory, and the best goes on.
    search : {'auto', 'off', 'thorough'} or int, default='auto'
        As for `GaussianMixture`, of each mixture that is fitted to the sample. The best mixture of
        fewer components then gives the next larger one another start, by splitting those whose
        rows two explain best, as the larger gives the smaller one by merging.
    stopping, max_passes, max_bytes
        As for `GaussianMixture`. A budget ends all mixtures that still run.
    tol, reg_covar, max_iter, init_params, on_collapse, order, random_state
        As for `GaussianMixture`.
    prior : None, 'fraley-raftery' or Prior, default=None
        As for `GaussianMixture`, one for all components; what it takes from the data it takes from
        the one sample, for each mixture by its number of components. Criteria are of the
        log-likelihood at the mode of each posterior (Fraley & Raftery 2007).
    feature_axis, array, arrays, features, columns, storage_options, missing_chunks, missing
        As for `GaussianMixture`.
    feature_transform, standardize, n_pca, whiten, scaling_from
        As for `GaussianMixture`; all mixtures are of the same scaled rows, and so are the
        likelihoods and criteria.
    kernel, cache, callbacks
        As for `GaussianMixture`.
    init_size : int or 'auto', default='auto'
        Rows of the sample; 'auto' takes 50 per parameter of the largest mixture, up to 256 MiB,
        and at least 100,000, or 25,000 where it leads no mixture.
    checkpoint, resume
        As for `GaussianMixture.fit`.

    Returns
    -------
    Selection

    Raises
    ------
    InputError (a ValueError)
        An empty or impossible grid, more components than rows, data that cannot be used, or a
        budget that does not pay for evaluating each mixture once.
    MemoryPlanError
        A single mixture would not fit in the memory of a worker. When all together do not, passes
        are split into more reads.

    Examples
    --------
    >>> import numpy as np
    >>> from dask_gmm import select_gaussian_mixture
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(m, 1.0, size=(500, 2)) for m in (-6.0, 0.0, 6.0)])
    >>> found = select_gaussian_mixture(X, range(1, 6), random_state=0)
    >>> found.best_n_components
    3

    All of mclust's families in the same reads:

    >>> found = select_gaussian_mixture(X, [2, 3], "mclust", random_state=0)
    >>> len(found.table), found.best_n_components, found.best_covariance_type
    (28, 3, 'EII')
    """
    counts, kinds = _counts(n_components), _kinds(covariance_types, n_factors)
    fraction = _fraction(criterion, heldout_fraction)
    shared: dict[str, Any] = {
        "noise": noise,
        "tol": tol,
        "reg_covar": reg_covar,
        "prior": prior,
        "max_iter": max_iter,
        "n_init": n_init,
        "init_params": init_params,
        "init_size": init_size,
        "on_collapse": on_collapse,
        "order": order,
        "acceleration": acceleration,
        "search": search,
        "stopping": stopping,
        "max_passes": max_passes,
        "max_bytes": max_bytes,
        "random_state": random_state,
        "feature_axis": feature_axis,
        "array": array,
        "arrays": arrays,
        "features": features,
        "columns": columns,
        "storage_options": storage_options,
        "missing_chunks": missing_chunks,
        "missing": missing,
        "feature_transform": feature_transform,
        "standardize": standardize,
        "n_pca": n_pca,
        "whiten": whiten,
        "scaling_from": scaling_from,
        "kernel": kernel,
        "cache": cache,
    }
    model = GaussianMixture(counts[0], callbacks=callbacks, **shared)
    model._validate_params()
    if n_effective is not None:
        check_n_effective(n_effective)
    place = checkpoint_at(checkpoint, resume, storage_options, random_state, missing_chunks)
    source = open_input(model, X, sample_weight, where, reset=True, checkpoint=place)
    scaling = scaling_asked(model)
    if scaling is not None:
        scaling.begin(source.n_features, source.feature_names)  # refuses features not there
    check_order(order, feature_names(model) or source.feature_names, source.n_features)
    n_features = source.n_features if scaling is None else scaling.n_outputs(source.n_features)
    families = _families(kinds, n_features)
    points = tuple(GridPoint(k, family) for family in families for k in counts)
    settings = _fit_settings(model, points, n_features)
    backend = choose_backend(source)
    with observed(callbacks, SELECTION, source, backend) as observers:
        report = select_mixture(
            source,
            backend,
            SelectionSettings(points, criterion, fraction, settings, n_effective),
            random_state=check_random_state(random_state),
            observers=observers,
            checkpoint=place,
        )
    model.set_params(callbacks=None)
    table = tuple(row_of(result) for result in report.results)
    best = table[report.results.index(report.winner)]
    _make_best(model, report, settings, source)
    return Selection(
        criterion=criterion,
        table=table,
        best=best,
        best_model=model,
        n_rows=report.n_rows,
        n_passes=len(report.history),
        history=report.history,
        seconds=report.record.seconds,
        record=report.record,
    )


def _counts(
    numbers: int | Iterable[int], name: str = "n_components", what: str = "number of components"
) -> tuple[int, ...]:
    """The numbers, each once, smallest first."""
    given: list[Any] = list(numbers) if isinstance(numbers, Iterable) else [numbers]
    if not given:
        raise InputError(f"{name} is empty: give at least one {what}.")
    for k in given:
        if type(k) is bool or not isinstance(k, Integral) or k < 1:
            raise InputError(f"{name} holds {k!r}: each must be a whole number from 1 on.")
    return tuple(sorted({int(k) for k in given}))


def _kinds(
    covariance_types: str | Iterable[str], n_factors: int | Iterable[int] | None
) -> tuple[str, ...]:
    """The covariance types, each once, in the order given; of factors each number of them."""
    given = [covariance_types] if isinstance(covariance_types, str) else list(covariance_types)
    if not given:
        raise InputError("covariance_types is empty: give at least one, such as 'full'.")
    if n_factors is None:
        for kind in given:
            if kind != ALL_OF_MCLUST:
                covariance_family(kind)
        return tuple(dict.fromkeys(given))
    numbers = _counts(n_factors, "n_factors", "number of factors")
    kinds, used = [], False
    for kind in given:
        if kind in FACTOR_FAMILIES:
            used = True
            kinds += [covariance_family(kind, number).name for number in numbers]
        else:
            kinds.append(kind if kind == ALL_OF_MCLUST else covariance_family(kind).name)
    if not used:
        raise InputError(
            f"n_factors={n_factors!r} goes with covariance_types {', '.join(FACTOR_FAMILIES)}, and "
            f"covariance_types={covariance_types!r} names none of them without a number."
        )
    return tuple(dict.fromkeys(kinds))


def _families(kinds: tuple[str, ...], n_features: int) -> tuple[CovarianceFamily, ...]:
    """The families of some covariance types, each once."""
    all_of_them = MCLUST if n_features > 1 else MCLUST_IN_ONE_DIMENSION
    names = [name for kind in kinds for name in (all_of_them if kind == ALL_OF_MCLUST else (kind,))]
    return tuple(covariance_family(name) for name in dict.fromkeys(names))


def _fraction(criterion: str, heldout_fraction: float | None) -> float | None:
    """The part of the rows to hold out."""
    if criterion not in CRITERIA:
        raise InputError(
            f"criterion={criterion!r} is unknown; choose one of {', '.join(CRITERIA)}."
        )
    if heldout_fraction is None:
        return _HELDOUT_FRACTION if criterion == "heldout" else None
    fraction: Any = heldout_fraction
    if not isinstance(fraction, float) or not 0.0 < fraction < 1.0:
        raise InputError(
            f"heldout_fraction={heldout_fraction!r} is no part of the rows: give a number between "
            f"0 and 1, such as 0.1."
        )
    return float(fraction)


def _fit_settings(
    model: GaussianMixture, points: Sequence[GridPoint], n_features: int
) -> FitSettings:
    """What all points share."""
    scaling, point, prior = scaling_asked(model), points[0], prior_of(model.prior)
    if prior is not None:
        _check_prior(prior, points, n_features)
        # Who has matrices asks the sample for one, of which the others take the diagonal.
        point = next((p for p in points if p.family.form.dense_factors), point)
    settings = model._settings(point.family, n_features, scaling)
    return replace(settings, n_components=points[0].n_components)


def _check_prior(prior: Prior, points: Sequence[GridPoint], n_features: int) -> None:
    """Refuse a prior that is not one for every mixture of a grid.

    Raises
    ------
    InputError
    """
    if prior.of_each:
        raise InputError(
            "The prior is one for each of so many components, and a grid has mixtures of several "
            "numbers: give one that all components have in common, or fit a GaussianMixture."
        )
    for point in points:
        check_prior(prior, point.family, point.n_components, n_features)


def _make_best(
    model: GaussianMixture,
    report: SelectionReport,
    settings: FitSettings,
    source: Source,
) -> None:
    """Turn the estimator into the winner, as its own `fit` would have left it."""
    best = report.winner.best
    assert best is not None
    with single_threaded_blas():
        kept = kept_of(best.result)
    model.set_params(
        n_components=report.winner.point.n_components,
        covariance_type=report.winner.point.family.name,
    )
    fitted = FitReport(
        best.result,
        report.history,
        best.judged.rows,
        report.record,
        report.winner.acceleration,
        report.scaling,
        report.model,
        kept,
    )
    fitted = model._in_order(fitted, source)
    model._keep(fitted, source.dtype)
    warn_of_ending(fitted, settings, "best mixture's fit", stacklevel=4)
    warn_of_heywood_cases(fitted, settings, stacklevel=4)
    warn_of_rounded_integers(fitted, source.dtype, stacklevel=4)
