"""The options that say what to fit and how: for one mixture, and for a grid of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dask_gmm.cli.options import option, stack
from dask_gmm.cli.values import (
    BYTES,
    CACHE,
    COMPONENTS,
    COUNTS,
    DEGREES,
    FREEZE,
    ORDER,
    SEARCH,
    TRANSFORM,
)

__all__ = ["covariance_choice", "fit_options", "selection_options", "start_options"]

F = TypeVar("F", bound=Callable[..., Any])


class _CovarianceType(click.Choice[str]):
    """A covariance family: one of scikit-learn's, or one that somebody has registered."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.choices:  # most runs need no NumPy before they begin
            return super().convert(value, param, ctx)
        from dask_gmm.mixture.family import COVARIANCE_TYPES

        return value if value in COVARIANCE_TYPES else super().convert(value, param, ctx)


_NAMES = (
    *("full", "tied", "diag", "spherical", "factors", "ppca"),
    *("EII", "VII", "EEI", "VEI", "EVI", "VVI", "EEE", "VEE", "EVE", "VVE", "EEV", "VEV"),
    *("EVV", "VVV"),
)
covariance_choice = _CovarianceType(_NAMES)
_COVARIANCES_CHOICE = _CovarianceType((*_NAMES, "mclust"))
COVARIANCE_HELP = (
    "What the components' covariances may be: 'full' any, 'tied' one shared by all, 'diag' without "
    "correlations, 'spherical' one variance each; 'factors' a few factors (--factors) beside a "
    "variance for each feature, 'ppca' beside one variance. Use factors or diag for hundreds of "
    "features: full costs features squared. Or one of mclust's fourteen families, EII to VVV: a "
    "letter each for volume, shape and orientation, E for equal, V for varying, I for round or "
    "along the features (VEV: of one shape, each of its own size and direction)."
)


def fit_options() -> Callable[[F], F]:
    """Declare the settings of EM."""
    return stack(
        option(
            "--components",
            "-k",
            type=click.IntRange(1),
            required=True,
            metavar="K",
            section="Model",
            help="Number of Gaussian components. More of them cost proportionally more time.",
        ),
        option(
            "--covariance",
            type=covariance_choice,
            default="full",
            metavar="NAME",
            section="Model",
            help=COVARIANCE_HELP,
        ),
        *_bayesian_options(),
        option(
            "--factors",
            type=click.IntRange(1),
            metavar="Q",
            section="Model",
            help="Factors of each component, with --covariance factors or ppca: directions in "
            "which its features vary together.",
        ),
        option(
            "--degrees-of-freedom",
            type=DEGREES,
            metavar="HOW",
            section="Model",
            help="Fit t distributions, whose tails are heavier than a Gaussian's, so that outliers "
            "do not move them: 'each' estimates every component's degrees of freedom, 'shared' "
            "one for all, a number fixes them (4 is robust, 1 a Cauchy distribution).",
        ),
        *_em_options(),
    )


def _bayesian_options() -> tuple[Callable[[Any], Any], ...]:
    """Declare variational Bayes and its prior of the weights."""
    return (
        option(
            "--bayesian",
            type=click.Choice(["no", "process", "distribution"]),
            default="no",
            section="Model",
            help="Fit by variational Bayes, under a Dirichlet 'process' or 'distribution' of the "
            "weights: components that are not needed end without rows, so that --components is the "
            "most there may be. Priors of means and covariances are the data's own.",
        ),
        option(
            "--weight-concentration",
            type=click.FloatRange(0, min_open=True),
            metavar="NUMBER",
            section="Model",
            help="With --bayesian: the concentration of the weights' prior; a smaller one leaves "
            "fewer components with rows. Default: 1 / K.",
        ),
    )


def start_options() -> Callable[[F], F]:
    """Declare where a fit begins, and what it leaves as it is there."""
    return stack(
        option(
            "--start-from",
            metavar="MODEL",
            section="Model",
            help="A fitted model to go on from, a path or URL, instead of a start of its own: as "
            "many components (-k) of the same --covariance, of rows that are scaled alike.",
        ),
        option(
            "--freeze",
            type=FREEZE,
            multiple=True,
            metavar="PART",
            section="Model",
            help="What stays as it is in the model of --start-from: weights, means or covariances; "
            "a component, by its number from 0 on; or a part of some components, as means=0,3. "
            "Repeatable. BIC counts what is free.",
        ),
    )


def selection_options() -> Callable[[F], F]:
    """Declare the grid of a selection and the settings of its fits."""
    return stack(
        option(
            "--components",
            "-k",
            type=COUNTS,
            required=True,
            metavar="RANGE",
            section="Model",
            help="Numbers of components to try: 2:12 is 2 to 12, both included; 4:32:4 steps by "
            "4; 2,3,5 is a list.",
        ),
        option(
            "--covariance",
            type=_COVARIANCES_CHOICE,
            multiple=True,
            default=("full",),
            metavar="NAME",
            section="Model",
            help=COVARIANCE_HELP + " 'mclust' stands for all fourteen. Repeatable: each is tried "
            "with each number of components.",
        ),
        option(
            "--factors",
            type=COUNTS,
            metavar="RANGE",
            section="Model",
            help="Numbers of factors to try, with --covariance factors or ppca; written as those "
            "of --components.",
        ),
        option(
            "--criterion",
            type=click.Choice(["bic", "aic", "icl", "heldout"]),
            default="bic",
            section="Model",
            help="What the best is best at. 'bic' finds how many Gaussians describe the density; "
            "'icl' counts overlapping ones for less, as clusters; 'aic' is generous; 'heldout' is "
            "the log-density of rows that no fit has seen.",
        ),
        option(
            "--heldout",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            metavar="PART",
            section="Model",
            help="The part of the rows to hold out and score, in the same reads. Default: 0.1 "
            "with --criterion heldout, else none.",
        ),
        *_em_options(),
    )


def _em_options() -> tuple[Callable[[Any], Any], ...]:
    """The settings of EM that a fit and a selection share."""
    return (
        option(
            "--tol",
            type=click.FloatRange(0),
            default=1e-3,
            metavar="NATS",
            section="Model",
            help="Stop when the optimum is estimated to be less than this above, in nats per row; "
            "without acceleration, when a pass changes the mean log-likelihood by less. For "
            "overlapping components try 1e-5 then: 1e-3 stops early.",
        ),
        option(
            "--max-iter",
            type=click.IntRange(0),
            default=100,
            metavar="N",
            section="Model",
            help="Most iterations; each reads the data once. Ending here is exit code 3.",
        ),
        option(
            "--n-init",
            type=click.IntRange(1),
            default=1,
            metavar="N",
            section="Model",
            help="Starts, of which the best end is kept. All share the same reads, so 5 starts "
            "cost computing but no more reading.",
        ),
        option(
            "--init-params",
            type=click.Choice(["kmeans", "k-means++", "random", "random_from_data", "k-means||"]),
            default="kmeans",
            section="Model",
            help="How a start is found, on a sample of rows from all over the data. 'k-means||' "
            "reads all of them four times instead, and finds components too rare for a sample.",
        ),
        option(
            "--reg-covar",
            type=click.FloatRange(0),
            default=1e-6,
            metavar="VARIANCE",
            section="Model",
            help="Added to every variance, in squared units of the data (of the scaled rows, if "
            "they are). Raise it when a component collapses onto a few rows.",
        ),
        option(
            "--prior",
            type=click.Choice(["none", "fraley-raftery"]),
            default="none",
            section="Model",
            help="What is thought of the components before the data are seen. 'fraley-raftery' is "
            "mclust's weak prior on means and covariances, by the mean and covariance of a sample: "
            "a component that closes in on a few rows stays as wide as they make likely, instead "
            "of collapsing. The fit then maximises the posterior; BIC is as without a prior.",
        ),
        option(
            "--noise/--no-noise",
            default=False,
            section="Model",
            help="Whether rows may be noise, uniform in the box that the sample fills: outliers "
            "then belong to no component, and have the label -1.",
        ),
        option(
            "--on-collapse",
            type=click.Choice(["stop", "reseed", "merge", "raise"]),
            default="stop",
            section="Model",
            help="When a component collapses: 'stop' with the last sound mixture, 'reseed' it "
            "where the mixture fits worst, 'merge' it into another, or fail ('raise').",
        ),
        option(
            "--order",
            type=ORDER,
            metavar="HOW",
            section="Model",
            help="How components are numbered in the end, so that labels of several fits can be "
            "compared: 'weight', the heaviest first; 'principal', along the direction in which "
            "their means are spread most; or a feature by its name or number, the lowest mean "
            "first. Default: as EM leaves them.",
        ),
        *_scaling_options(),
        option(
            "--seed",
            type=click.IntRange(0, 2**32 - 1),
            metavar="INT",
            section="Model",
            help="Makes the starts, and so the whole result, repeatable to the last bit. Without "
            "it each run starts elsewhere.",
        ),
        option(
            "--acceleration",
            type=click.Choice(["auto", "variance-reduced", "squarem", "none"]),
            default="auto",
            section="Model",
            help="How to need few reads: 'variance-reduced' finds the steps on a sample in memory, "
            "and each read verifies one; 'squarem' extrapolates without a sample; 'none' is plain "
            "EM. 'auto' is variance-reduced for data larger than the sample.",
        ),
        option(
            "--search",
            type=SEARCH,
            default="auto",
            metavar="HOW",
            section="Model",
            help="Whether to look for a better optimum on the sample before the first read, by "
            "moving components from where two do the work of one to where one does that of two: "
            "'thorough' tries longer, a number is the most moves to try, 'off' leaves it. 'auto' "
            "does so for data larger than the sample. It costs no read. The first read then also "
            "finds components too rare for the sample, in the place of ones that nobody misses.",
        ),
        option(
            "--max-passes",
            type=click.IntRange(1),
            metavar="N",
            section="Model",
            help="Most passes, rejected steps included. Ending here is exit code 3.",
        ),
        option(
            "--max-bytes",
            type=BYTES,
            metavar="SIZE",
            section="Model",
            help="Most data to decode (500GB), the sample included. Ending here is exit code 3.",
        ),
        option(
            "--cache",
            type=CACHE,
            default="auto",
            metavar="SIZE",
            section="Compute",
            help="How much of the decoded data each process keeps from pass to pass: 2GB, 500MiB, "
            "0 for nothing. 'auto' takes up to three eighths of a worker's memory, less where the "
            "work itself needs it.",
        ),
    )


def _scaling_options() -> tuple[Callable[[Any], Any], ...]:
    """Declare what is done to rows before a mixture sees them."""
    return (
        option(
            "--transform",
            type=TRANSFORM,
            multiple=True,
            metavar="[NAME=]KIND",
            section="Model",
            help="Done to each value as it is read: log1p, or arcsinh, or arcsinh:150, which is "
            "arcsinh(x/150). With a feature's name or number for that one; repeatable.",
        ),
        option(
            "--standardize",
            type=click.Choice(["no", "moments", "robust"]),
            default="no",
            section="Model",
            help="Subtract each feature's mean and divide by its standard deviation ('moments'), "
            "or its median and interquartile range ('robust'), so that units do not matter.",
        ),
        option(
            "--n-pca",
            type=COMPONENTS,
            metavar="N|PART",
            section="Model",
            help="Fit to so many principal components, or to as many as have that part of the "
            "variance (0.95).",
        ),
        option(
            "--whiten/--no-whiten",
            default=True,
            section="Model",
            help="Whether principal components are divided by their standard deviations.",
        ),
        option(
            "--scaling-from",
            type=click.Choice(["sample", "all"]),
            default="sample",
            section="Model",
            help="The rows that means, deviations and components are taken from: the sample for "
            "the start, or all, in one read more.",
        ),
    )
