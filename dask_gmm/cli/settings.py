"""What the shared options say, as values, and what can be checked about them at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import click

from dask_gmm.cli.kinds import BAYESIAN, GAUSSIAN, STUDENT, MixtureKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dask_gmm.data.base import Source
    from dask_gmm.scaling import ScalingRequest

__all__ = [
    "CheckpointPlace",
    "Compute",
    "DataPlace",
    "EMSettings",
    "SelectionChoice",
    "check_components",
    "check_data",
    "check_storage_options",
    "options_for",
]


@dataclass(frozen=True)
class DataPlace:
    """Which array to read, and how."""

    data: str
    array: str | None
    feature_axis: int | str
    missing_chunks: str | Mapping[str, str]
    storage_options: Mapping[str, Any]
    weights: str | None = None
    features: tuple[str, ...] | None = None
    where: str | None = None
    missing: str | None = None
    columns: tuple[str, ...] | None = None
    arrays: tuple[str, ...] | None = None
    equal_per_array: bool = False

    @property
    def sample_weight(self) -> Any:
        """What the library calls the weights."""
        if not self.equal_per_array:
            return self.weights
        from dask_gmm import EqualPerArray

        return EqualPerArray(self.weights)

    @property
    def weighing(self) -> str | None:
        """What to call the weights; None where there are none."""
        own = [self.weights] if self.weights is not None else []
        return ", ".join([*own, *(["equal-per-array"] if self.equal_per_array else [])]) or None

    def estimator_arguments(self, *others: str | None) -> dict[str, Any]:
        """Return what `GaussianMixture` calls these; `others` are URLs that it uses too."""
        named = (self.data, self.weights, self.where, *others)
        places = [url for url in named if url is not None]
        options = next(filter(None, (options_for(u, self.storage_options) for u in places)), {})
        return {
            "array": self.array,
            "arrays": None if self.arrays is None else list(self.arrays),
            "features": None if self.features is None else list(self.features),
            "columns": None if self.columns is None else list(self.columns),
            "feature_axis": self.feature_axis,
            "missing_chunks": self.missing_chunks,
            "storage_options": options or None,
            **({} if self.missing is None else {"missing": self.missing}),
        }

    def described(self) -> dict[str, Any]:
        """Return what was read, for JSON: what the user gave, by the estimator's names."""
        return {
            "data": self.data,
            "arrays": self.arrays,
            "features": self.features,
            "columns": self.columns,
            "sample_weight": self.weighing,  # a mixture has weights too
            "where": self.where,
        }

    def open(self, fitted_columns: Sequence[str] | None = None) -> Source:
        """Describe the data, and their weights if they have some; only metadata are read.

        Parameters
        ----------
        fitted_columns : sequence of str, optional
            What a model was fitted to.
        """
        from dask_gmm.data.source import open_source
        from dask_gmm.data.taking_part import with_missing

        arguments = self.estimator_arguments()
        missing = arguments.pop("missing", "error")
        source = open_source(
            self.data,
            sample_weight=self.sample_weight,
            where=self.where,
            fitted_columns=fitted_columns,
            **arguments,
        )
        return with_missing(source, missing)

    @classmethod
    def take(cls, values: dict[str, Any]) -> DataPlace:
        """Take its own values out of a command's arguments."""
        return cls(
            values.pop("data"),
            values.pop("array"),
            values.pop("feature_axis"),
            values.pop("missing_chunks"),
            dict(values.pop("storage_option")),
            values.pop("weights", None),
            values.pop("features"),
            values.pop("where", None),
            values.pop("missing", None),
            values.pop("columns"),
            values.pop("arrays"),
            values.pop("equal_per_array", False),
        )


def options_for(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage options where they mean something: for a URL, not for a local path.

    So one set of options can serve remote data and a local model.
    """
    return dict(options) if "://" in url and not url.startswith("file://") else {}


@dataclass(frozen=True)
class CheckpointPlace:
    """Where a fit commits, and whether it may begin there."""

    url: str | None
    resume: bool | None

    @classmethod
    def take(cls, values: dict[str, Any]) -> CheckpointPlace:
        """Take its own values out of a command's arguments.

        Raises
        ------
        click.UsageError
        """
        place = cls(values.pop("checkpoint"), values.pop("resume"))
        if place.url is None and place.resume is not None:
            switch = "--resume" if place.resume else "--no-resume"
            raise click.UsageError(f"{switch} needs to know where: say so with --checkpoint.")
        return place

    def arguments(self) -> dict[str, Any]:
        """Return what `GaussianMixture.fit` calls these."""
        how = {None: "auto", True: "must", False: "never"}[self.resume]
        return {"checkpoint": self.url, "resume": how}


@dataclass(frozen=True)
class Compute:
    """Which processors work: this process's, local workers', or a cluster's."""

    scheduler: str | None
    workers: int | None
    threads_per_worker: int | None
    memory_limit: int | None
    timeout: float

    @classmethod
    def take(cls, values: dict[str, Any]) -> Compute:
        """Take its own values out of a command's arguments."""
        compute = cls(
            values.pop("scheduler"),
            values.pop("workers"),
            values.pop("threads_per_worker"),
            values.pop("memory_limit"),
            values.pop("timeout"),
        )
        if compute.scheduler and (compute.workers or compute.threads_per_worker):
            raise click.UsageError(
                "--scheduler joins a cluster that has its workers already: leave out --workers "
                "and --threads-per-worker."
            )
        if compute.memory_limit and not compute.workers:
            raise click.UsageError(
                "--memory-limit is the limit of each local worker: say how many with --workers."
            )
        return compute


@dataclass(frozen=True)
class _Fits:
    """How a mixture is fitted: what a fit and a selection have in common."""

    tol: float
    max_iter: int
    n_init: int
    init_params: str
    reg_covar: float
    prior: str
    noise: bool
    on_collapse: str
    order: int | str | None
    seed: int | None
    cache: int | str
    acceleration: str
    search: int | str
    max_passes: int | None
    max_bytes: int | None
    transform: tuple[tuple[str | int | None, Any], ...]
    standardize: str
    n_pca: int | float | None
    whiten: bool
    scaling_from: str

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """Take its own values out of a command's arguments."""
        return cls(**{name: values.pop(name) for name in cls.__dataclass_fields__})

    def common_arguments(self) -> dict[str, Any]:
        """Return what the library calls these."""
        return {
            "tol": self.tol,
            "max_iter": self.max_iter,
            "n_init": self.n_init,
            "init_params": self.init_params,
            "reg_covar": self.reg_covar,
            "prior": None if self.prior == "none" else self.prior,
            "noise": self.noise,
            "on_collapse": self.on_collapse,
            "order": self.order,
            "random_state": self.seed,
            "cache": self.cache,
            "acceleration": None if self.acceleration == "none" else self.acceleration,
            "search": self.search,
            "max_passes": self.max_passes,
            "max_bytes": self.max_bytes,
            **self.scaling_arguments(),
        }

    def scaling_arguments(self) -> dict[str, Any]:
        """Return what the library calls what is done to rows."""
        return _scaling_arguments(
            self.transform, self.standardize, self.n_pca, self.scaling_from, whiten=self.whiten
        )

    def scaling(self, missing: str = "error") -> ScalingRequest | None:
        """Return it as a value; None for nothing.

        Raises
        ------
        InputError
        """
        from dask_gmm.scaling import ScalingRequest

        return ScalingRequest.of(**self.scaling_arguments(), missing=missing)


@dataclass(frozen=True)
class EMSettings(_Fits):
    """What to fit and when to stop."""

    components: int
    covariance: str
    factors: int | None
    degrees_of_freedom: float | str | None
    bayesian: str
    weight_concentration: float | None

    @property
    def kind(self) -> MixtureKind:
        """Of which kind the mixture is to be."""
        if self.bayesian != "no":
            return BAYESIAN
        return GAUSSIAN if self.degrees_of_freedom is None else STUDENT

    def __post_init__(self) -> None:
        # One name says both from here on, as in tables and model files.
        (kind,) = _with_factors(
            (self.covariance,), None if self.factors is None else (self.factors,)
        )
        object.__setattr__(self, "covariance", kind)

    def estimator_arguments(self, freeze: Sequence[Any] = ()) -> dict[str, Any]:
        """Return what the estimator of its kind calls these.

        Parameters
        ----------
        freeze : sequence
            What is to stay as it is, which not all kinds know.

        Raises
        ------
        click.UsageError
            Options that do not go together.
        """
        if self.bayesian == "no" and self.weight_concentration is not None:
            raise click.UsageError(
                "--weight-concentration is of the prior of a Bayesian mixture: say which by "
                "--bayesian process or --bayesian distribution."
            )
        kind = self.kind
        kind.check({**vars(self), "freeze": tuple(freeze)})
        arguments = {
            **kind.arguments(self.common_arguments()),
            "n_components": self.components,
            "covariance_type": self.covariance,
        }
        if kind is STUDENT:
            arguments["degrees_of_freedom"] = self.degrees_of_freedom
        elif kind is BAYESIAN:
            arguments["weight_concentration_prior_type"] = f"dirichlet_{self.bayesian}"
            arguments["weight_concentration_prior"] = self.weight_concentration
        return arguments


@dataclass(frozen=True)
class SelectionChoice(_Fits):
    """What to select among, by what, and how each is fitted."""

    components: tuple[int, ...]
    covariance: tuple[str, ...]
    factors: tuple[int, ...] | None
    criterion: str
    heldout: float | None
    n_effective: float | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "covariance", _with_factors(self.covariance, self.factors))

    def arguments(self) -> dict[str, Any]:
        """Return what `select_gaussian_mixture` calls these."""
        return {
            **self.common_arguments(),
            "n_components": self.components,
            "covariance_types": self.covariance,
            "criterion": self.criterion,
            "heldout_fraction": self.heldout,
            "n_effective": self.n_effective,
        }


FACTOR_KINDS = ("factors", "ppca", "UCU", "UCC", "CUU", "CUC", "CCU", "CCC")
"""Covariances that have a number of factors: `mixture.factors`, without NumPy."""


def _with_factors(kinds: Sequence[str], factors: Sequence[int] | None) -> tuple[str, ...]:
    """Covariances with their numbers of factors, as ``factors:5``, each with each.

    Raises
    ------
    click.UsageError
        A kind needs a number that is not given, or one is given that no kind needs.
    """
    open_ones = [kind for kind in kinds if kind in FACTOR_KINDS]
    if open_ones and factors is None:
        raise click.UsageError(
            f"--covariance {open_ones[0]} needs the number of factors: --factors 5, say."
        )
    if factors is not None and not open_ones:
        raise click.UsageError(
            f"--factors goes with --covariance {', '.join(FACTOR_KINDS)}, of which there is none "
            f"without a number of its own."
        )
    found: list[str] = []
    for kind in kinds:
        numbers = factors if kind in FACTOR_KINDS and factors is not None else ()
        found += [f"{kind}:{number}" for number in numbers] or [kind]
    return tuple(dict.fromkeys(found))


def _scaling_arguments(
    transform: Sequence[tuple[str | int | None, Any]],
    standardize: str,
    n_pca: float | None,
    scaling_from: str,
    *,
    whiten: bool,
) -> dict[str, Any]:
    """Return what the library calls these.

    Raises
    ------
    click.UsageError
        Transforms of all features, and of some.
    """
    asked: Any = dict(transform) or None
    if len(dict(transform)) < len(transform) or (asked and None in asked and len(asked) > 1):
        raise click.UsageError(
            "--transform says twice what becomes of a feature: give one for all, or one for each "
            "that is to have some."
        )
    if asked and None in asked:
        asked = asked[None]
    return {
        "feature_transform": asked,
        "standardize": {"no": False, "moments": True, "robust": "robust"}[standardize],
        "n_pca": n_pca,
        "whiten": whiten,
        "scaling_from": scaling_from,
    }


def check_storage_options(options: Mapping[str, Any], *urls: str | None) -> None:
    """Refuse options that carry a credential, or that none of the command's URLs can use.

    Raises
    ------
    InputError
    click.UsageError
    """
    if not options:
        return
    from dask_gmm.data.urls import check_options

    check_options(options)
    if not any(options_for(url, options) for url in urls if url is not None):
        raise click.UsageError(
            "--storage-option says how to reach an object store, but only local paths are given: "
            "leave it out."
        )


def check_components(source: Source, components: int) -> None:
    """Refuse more components than there are rows.

    Raises
    ------
    InputError
    """
    from dask_gmm.errors import InputError

    if source.n_rows is not None and source.n_rows < components:
        raise InputError(
            f"{source.name} has {source.n_rows:,} rows, too few for {components:,} components: "
            f"lower --components, or check --feature-axis {source.feature_axis}."
        )


def check_data(data: DataPlace, components: int) -> Source:
    """Find out what is wrong with the data before a cluster is started for them."""
    source = data.open()
    check_components(source, components)
    return source
