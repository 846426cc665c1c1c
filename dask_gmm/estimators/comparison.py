"""`compare`: how alike two fitted mixtures are, component by component and as a whole."""

from __future__ import annotations

import operator
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from dask_gmm.errors import InputError
from dask_gmm.estimators.attributes import parameters_of
from dask_gmm.estimators.shown import feature_names, is_mixture
from dask_gmm.glance.comparison import ComparisonGlance, comparison_html, comparison_text
from dask_gmm.mixture.divergence import affinities, relative_entropies, wasserstein_squares
from dask_gmm.mixture.form import FORMS
from dask_gmm.mixture.parameters import MixtureParameters
from dask_gmm.mixture.similarity import Divergence, matched_components, similarity
from dask_gmm.scaling.original_units import mixture_in_original_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dask_gmm.scaling import Scaling

__all__ = ["ComponentMatch", "Divergence", "MixtureComparison", "compare", "compare_mixtures"]

_DATA, _SCALED = "the data's units", "units of the scaled rows"


@dataclass(frozen=True)
class ComponentMatch:
    """A component of one mixture and its counterpart in another, as single Gaussians.

    Attributes
    ----------
    first, second : int
        Their numbers.
    first_weight, second_weight : float
    symmetric_kl : float
        KL(i‖j) + KL(j‖i), in nats (Jeffreys 1946).
    hellinger : float
        √(1 − ∫√(f_i g_j)), from 0 (the same) to 1.
    wasserstein : float
        The 2-Wasserstein distance, a length (Dowson & Landau 1982).

    Examples
    --------
    >>> from dask_gmm import GaussianMixture, compare
    >>> a = GaussianMixture.from_parameters([1.0], [[0.0]], covariances=[[[1.0]]])
    >>> b = GaussianMixture.from_parameters([1.0], [[2.0]], covariances=[[[1.0]]])
    >>> match = compare(a, b).matches[0]
    >>> match.symmetric_kl, match.wasserstein, round(match.hellinger, 4)
    (4.0, 2.0, 0.6273)
    """

    first: int
    second: int
    first_weight: float
    second_weight: float
    symmetric_kl: float
    hellinger: float
    wasserstein: float


@dataclass(frozen=True, repr=False)
class MixtureComparison:
    """How alike two mixtures are.

    Attributes
    ----------
    matches : tuple of ComponentMatch
        By the first mixture's components; as many as the smaller mixture has.
    only_first, only_second : tuple of int
        Components without a counterpart.
    forward, backward : Divergence
        KL(first‖second) and KL(second‖first), in nats, with bounds.
    hellinger : Divergence
        √(1 − ∫√(f g)), from 0 (the same) to 1, with bounds.
    units : str
        What lengths are in: the data's units where the rows are scaled by affine maps.
    n_samples : int
        Rows that were drawn from each mixture.

    Examples
    --------
    >>> from dask_gmm import GaussianMixture, compare
    >>> a = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [9.0]], covariances=[1.0, 1.0])
    >>> b = GaussianMixture.from_parameters([0.4, 0.6], [[9.0], [0.5]], covariances=[1.0, 1.0])
    >>> found = compare(a, b)
    >>> found.order
    array([1, 0])
    >>> round(found.hellinger.lower, 3), round(found.hellinger.upper, 3)
    (0.148, 0.202)
    """

    matches: tuple[ComponentMatch, ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    forward: Divergence
    backward: Divergence
    hellinger: Divergence
    units: str
    n_samples: int

    @property
    def symmetric_kl(self) -> Divergence:
        """KL(first‖second) + KL(second‖first), in nats (Jeffreys 1946), with bounds."""
        f, g = self.forward, self.backward
        estimate = error = None
        if f.estimate is not None and g.estimate is not None:
            estimate = f.estimate + g.estimate
        if f.standard_error is not None and g.standard_error is not None:
            error = float(np.hypot(f.standard_error, g.standard_error))
        return Divergence(f.lower + g.lower, f.upper + g.upper, estimate, error)

    @property
    def order(self) -> NDArray[np.int64]:
        """The second mixture's components in the order of the first's, for `reordered`; (K,) int64.

        Its components without a counterpart come last.
        """
        return np.array([*(m.second for m in self.matches), *self.only_second], dtype=np.int64)

    def __repr__(self) -> str:
        return comparison_text(self._glance())

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return comparison_html(self._glance())

    def _glance(self) -> ComparisonGlance:
        k = len(self.matches)
        one, other = k + len(self.only_first), k + len(self.only_second)
        named = (
            ("KL(first‖second)", self.forward),
            ("KL(second‖first)", self.backward),
            ("symmetric KL", self.symmetric_kl),
            ("Hellinger", self.hellinger),
        )
        return ComparisonGlance(
            about=f"Two Gaussian mixtures, of {one} and {other} components; KL in nats, lengths in "
            f"{self.units}",
            divergences=tuple((name, *astuple(found)) for name, found in named),
            pairs=tuple(astuple(match) for match in self.matches),
            alone=(self.only_first, self.only_second),
        )


def compare(
    first: Any,
    second: Any,
    *,
    n_samples: int = 20_000,
    random_state: int | np.random.RandomState | None = 0,
) -> MixtureComparison:
    """Hold two fitted mixtures of the same features against each other.

    Components are matched so that Σ √(π_i ω_j) ∫√(f_i g_j) over the pairs is largest: what they
    have in common. Divergences of the mixtures themselves have no closed form: they are bounded
    (Hershey & Olsen 2007; Durrieu, Thiran & Kelly 2012), and estimated from rows drawn from both.
    No data are read.

    Parameters
    ----------
    first, second : fitted mixtures
        `GaussianMixture` or scikit-learn's. They may have different numbers of components and
        covariances of different kinds. Mixtures of scaled rows are compared in the data's units
        where the maps are affine, or as they are where both are of rows scaled in the same way.
        Where both know names of features these are matched by name.
    n_samples : int, default=20_000
        Rows drawn from each for the estimates; 0 for bounds alone.
    random_state : int, RandomState or None, default=0
        Seeds the rows.

    Returns
    -------
    MixtureComparison

    Raises
    ------
    sklearn.exceptions.NotFittedError (a ValueError)
    InputError (a ValueError)
        Something else than a mixture, or mixtures of different features, or of rows that were
        scaled differently and not by invertible affine maps.

    Examples
    --------
    >>> from dask_gmm import GaussianMixture, compare
    >>> a = GaussianMixture.from_parameters([0.5, 0.5], [[0.0], [9.0]], covariances=[1.0, 1.0])
    >>> b = GaussianMixture.from_parameters([0.4, 0.6], [[9.0], [0.5]], covariances=[1.0, 1.0])
    >>> compare(a, b, n_samples=0)
    Two Gaussian mixtures, of 2 and 2 components; KL in nats, lengths in the data's units
    <BLANKLINE>
                      at least  at most  estimate  ± error
    KL(first‖second)   0.04415  0.08291
    KL(second‖first)   0.04415  0.09514
    symmetric KL        0.0883    0.178
    Hellinger           0.1478   0.2015
    <BLANKLINE>
    first  second  weight  its weight  symmetric KL  Hellinger  Wasserstein
    0           1  0.5000      0.6000          0.25     0.1754          0.5
    1           0  0.5000      0.4000             0     0.0000            0
    """
    try:
        drawn = operator.index(n_samples)
    except TypeError:
        drawn = -1
    if isinstance(n_samples, bool) or drawn < 0 or drawn == 1:
        raise InputError(
            f"n_samples={n_samples!r} is no number of rows to draw: give 2 or more, or 0 for "
            f"bounds alone."
        )
    one, other = _Compared.of(first, "first"), _Compared.of(second, "second")
    a, b, units = _in_common(one, other)
    return compare_mixtures(a, b, units, drawn, check_random_state(random_state))


def compare_mixtures(
    a: MixtureParameters,
    b: MixtureParameters,
    units: str,
    n_samples: int,
    random_state: np.random.RandomState,
) -> MixtureComparison:
    """Hold two mixtures of the same features, in the same units, against each other."""
    pairs = matched_components(a, b)
    forward, backward, apart = relative_entropies(a, b), relative_entropies(b, a), affinities(a, b)
    lengths = np.sqrt(wasserstein_squares(a, b, pairs))
    matches = tuple(
        ComponentMatch(
            first=i,
            second=j,
            first_weight=float(a.weights[i]),
            second_weight=float(b.weights[j]),
            symmetric_kl=float(forward[i, j] + backward[j, i]),
            hellinger=float(np.sqrt(-np.expm1(-apart[i, j]))),
            wasserstein=float(length),
        )
        for (i, j), length in zip(pairs, lengths, strict=True)
    )
    found = similarity(a, b, n_samples, random_state)
    left, right = {i for i, _ in pairs}, {j for _, j in pairs}
    return MixtureComparison(
        matches=matches,
        only_first=tuple(i for i in range(a.n_components) if i not in left),
        only_second=tuple(j for j in range(b.n_components) if j not in right),
        forward=found.forward,
        backward=found.backward,
        hellinger=found.hellinger,
        units=units,
        n_samples=n_samples,
    )


@dataclass(frozen=True)
class _Compared:
    """One of the mixtures.

    Attributes
    ----------
    which : str
        How messages call it.
    parameters : MixtureParameters
    scaling : Scaling or None
    names : tuple of str or None
        Of the data's features.
    """

    which: str
    parameters: MixtureParameters
    scaling: Scaling | None
    names: tuple[str, ...] | None

    @classmethod
    def of(cls, gm: Any, which: str) -> _Compared:
        if not hasattr(gm, "get_params") or isinstance(gm, type):
            raise InputError(
                f"compare holds two fitted mixtures against each other, and the {which} is "
                f"{type(gm).__name__}: load a model with GaussianMixture.load(PLACE), or make one "
                f"of numbers with GaussianMixture.from_parameters."
            )
        check_is_fitted(gm)
        if not is_mixture(gm):
            raise InputError(f"compare is of Gaussian mixtures, and the {which} is {gm!r}.")
        found = parameters_of(gm)
        if found.kind != MixtureParameters.kind:
            raise InputError(
                f"compare is of mixtures of Gaussians, and the {which} is a {found.kind} mixture: "
                f"GaussianMixture.from_parameters makes one of its weights, means and covariances."
            )
        found = _of_known_form(found)
        return cls(which, found, getattr(gm, "scaling_", None), feature_names(gm))

    @property
    def n_features(self) -> int:
        """Of the data's rows."""
        return self.parameters.n_features if self.scaling is None else self.scaling.n_features

    @property
    def comes_back(self) -> bool:
        """Whether it is one of Gaussians in the data's units too."""
        return self.scaling is None or (self.scaling.linear and self.scaling.invertible)


def _of_known_form(parameters: MixtureParameters) -> MixtureParameters:
    """The mixture with covariances in one of the forms that have formulas here."""
    if parameters.form in FORMS[:4]:
        return parameters
    dense = parameters.form.dense(parameters.covariances, *parameters.means.shape)
    return MixtureParameters.create("full", parameters.weights, parameters.means, dense)


def _in_common(a: _Compared, b: _Compared) -> tuple[MixtureParameters, MixtureParameters, str]:
    """Both mixtures in the same units and the same order of features, and what lengths are in.

    Raises
    ------
    InputError
    """
    if a.n_features != b.n_features:
        raise InputError(
            f"The first mixture has {a.n_features} features and the second has {b.n_features}: "
            f"they are of different data. marginal(features) gives the mixture of some of the "
            f"features."
        )
    order = _matched_features(a, b)
    same = (a.scaling is None) is (b.scaling is None) and (
        a.scaling is None or b.scaling is None or a.scaling.fingerprint == b.scaling.fingerprint
    )
    if a.comes_back and b.comes_back:
        one = mixture_in_original_units(a.parameters, a.scaling)
        other = mixture_in_original_units(b.parameters, b.scaling)
        return one, other if order is None else _with_features(other, order), _DATA
    if same and order is None:
        return a.parameters, b.parameters, _SCALED
    raise InputError(
        f"The mixtures are of rows that were scaled differently, and the "
        f"{'second' if a.comes_back else 'first'} has no "
        f"Gaussians in the data's units (log1p, arcsinh, or fewer principal components than "
        f"features): fit both with the same scaling_, as warm_start does, or with none."
    )


def _matched_features(a: _Compared, b: _Compared) -> NDArray[np.intp] | None:
    """Where each feature of the first lies in the second; None where they lie alike.

    Raises
    ------
    InputError
        One has features that the other has not.
    """
    if a.names is None or b.names is None or a.names == b.names:
        return None
    lacking = [name for name in a.names if name not in b.names]
    more = [name for name in b.names if name not in a.names]
    if lacking or more or len(set(a.names)) < len(a.names):
        raise InputError(
            f"The mixtures are of different features: the first alone has {_listed(lacking)}, the "
            f"second alone has {_listed(more)}. Compare mixtures of the same ones."
        )
    return np.array([b.names.index(name) for name in a.names], dtype=np.intp)


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return (shown + (", ..." if len(names) > 5 else "")) or "none"


def _with_features(parameters: MixtureParameters, order: NDArray[np.intp]) -> MixtureParameters:
    """The mixture with its features in another order."""
    found, kind = parameters.covariances, parameters.form.name
    if kind == "diag":
        found = found[:, order]
    elif kind != "spherical":
        found = found[..., order, :][..., order]
    return MixtureParameters.create(kind, parameters.weights, parameters.means[:, order], found)
