"""The same data in other units: the same mixture in those units, or a refusal that says why.

The oracle is the same fit of the rows in standard units, mapped back. It gets the very numbers that
the fit gets: what a narrow type has made of them is mapped back in extended precision, so that what
is compared is the arithmetic and nothing else.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_gmm import GaussianMixture, select_gaussian_mixture
from dask_gmm.errors import CollapsedComponentError, InputError
from dask_gmm.mixture.family import COVARIANCE_TYPES
from dask_gmm.mixture.kernels import KERNELS, get_kernel
from dask_gmm.mixture.parameters import MixtureParameters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Long = NDArray[np.longdouble]

N, K, D = 600, 3, 2
# scikit-learn's tied starts of these take moments about the origin, which no offset leaves alone.
FROM_THE_ORIGIN = ("k-means++", "random_from_data")
FROM_A_PLATEAU = ("random", "random_from_data")
INITS = ("kmeans", "k-means++", "random", "random_from_data", "k-means||")
ACCELERATIONS = (None, "variance-reduced", "squarem")
# Added to each variance of rows in standard units; in other units it goes with their square.
REG = 1e-3
# Between these the squares that float64 must hold are float64.
LEAST, MOST = 1e-140, 1e140


@pytest.fixture(autouse=True)
def _no_word_of_overflow() -> Any:
    """Whatever overflows is refused by whoever computes it, and NumPy has nothing to say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        yield


def standard_rows() -> NDArray[np.float64]:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((N, D))
    rows[: N // 3] += [7.0, 0.0]
    rows[N // 3 : N // 2] += [0.0, 8.0]
    return rows


STANDARD = standard_rows()


@dataclass(frozen=True)
class Units:
    """Rows of some type, x = scale · (z + offset), and z as that type has left it."""

    dtype: str
    scale: Any
    offset: float = 0.0
    rows: NDArray[Any] = field(init=False, repr=False)
    standard: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        moved = (np.longdouble(STANDARD) + np.longdouble(self.offset)) * self._scale
        whole = np.rint(moved) if np.dtype(self.dtype).kind in "iu" else moved
        rows = whole.astype(np.float64).astype(self.dtype)
        assert np.all(np.isfinite(rows.astype(np.float64)))
        standard = np.longdouble(rows) / self._scale - np.longdouble(self.offset)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "standard", standard.astype(np.float64))

    @property
    def _scale(self) -> Long:
        return np.asarray(self.scale, dtype=np.longdouble)

    @property
    def reg_covar(self) -> float:
        """What `REG` is in these units; 0 where they are so small that it is nothing."""
        return float(min(REG * self._scale.max() ** 2, np.longdouble(1e300)))

    @property
    def log_volume(self) -> float:
        """By how much a log-density is less in these units."""
        return float(np.log(np.broadcast_to(self._scale, (D,))).sum())

    def standardised(self, p: MixtureParameters) -> tuple[Long, Long]:
        """Means and dense covariances of a mixture in these units, in standard ones."""
        scale = np.broadcast_to(self._scale, (D,))
        means = np.longdouble(p.means) / scale - np.longdouble(self.offset)
        dense = p.family.form.dense(p.covariances, *p.means.shape).astype(np.longdouble)
        return means, dense / scale / scale[:, None]

    @property
    def tolerance(self) -> float:
        """What the arithmetic allows: float32 1e-4, and an offset costs its own digits."""
        single = 3e-4 if self.dtype == "f4" else 0.0
        return 1e-8 + single + 100.0 * np.finfo(np.float64).eps * abs(self.offset)


def fitted(rows: NDArray[Any], reg_covar: float, **given: Any) -> GaussianMixture:
    kind = {"random_state": 0, "max_iter": 5, "tol": 0.0, **given}
    gm: GaussianMixture = GaussianMixture(K, reg_covar=reg_covar, **kind).fit(rows)
    return gm


def assert_same(gm: GaussianMixture, units: Units, oracle: GaussianMixture) -> None:
    """`gm` is the oracle in other units; accelerated, as good a one.

    Rounding decides where a climb ends on a sample, and which of five that tie is the best.
    """
    p, q = gm._parameters(), oracle._parameters()
    (means, covariances), tolerance = units.standardised(p), units.tolerance
    bound = gm.lower_bound_ + units.log_volume
    if gm.acceleration_ is not None:
        if gm.init_params in FROM_A_PLATEAU:  # which rounding lets it leave, and when
            return
        assert bound == pytest.approx(oracle.lower_bound_, abs=1e-2 + tolerance)
        return
    expected = q.family.form.dense(q.covariances, K, D)
    widths = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))
    assert np.max(np.abs(means - q.means) / widths) < tolerance
    relative = (covariances - expected) / (widths[:, :, None] * widths[:, None])
    assert np.max(np.abs(relative)) < tolerance
    np.testing.assert_allclose(p.weights, q.weights, atol=tolerance)
    assert bound == pytest.approx(oracle.lower_bound_, abs=4.0 * tolerance)


def assert_finite(gm: GaussianMixture) -> None:
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        assert np.all(np.isfinite(getattr(gm, name))), name
    assert np.isfinite(gm.lower_bound_)


def assert_applies(gm: GaussianMixture, units: Units, oracle: GaussianMixture) -> None:
    """Score, criteria and predictions are the oracle's own mixture's, in other units."""
    p, x = gm._parameters(), units.rows
    means, covariances = units.standardised(p)
    dense = MixtureParameters.create("full", p.weights, means, covariances)
    densities = get_kernel("reference").log_densities(units.standard, dense)
    slack = units.tolerance * 100.0  # of rows far out, by the condition of what was mapped back
    found = gm.score_samples(x) + units.log_volume
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, densities, rtol=slack, atol=slack)
    assert gm.score(x) == pytest.approx(gm.score_samples(x).mean(), rel=1e-6)
    assert np.isfinite([gm.bic(x), gm.aic(x)]).all()
    posteriors = gm.predict_proba(x)
    np.testing.assert_allclose(posteriors.sum(axis=1), 1.0, rtol=1e-6)
    assert np.mean(gm.predict(x) != np.argmax(posteriors, axis=1)) < 0.01
    assert gm.sample(4)[0].shape == (4, D)


def assert_right_or_refused(units: Units, **kind: Any) -> None:
    scale = np.broadcast_to(np.asarray(units.scale, dtype=np.float64), (D,))
    try:
        gm = fitted(units.rows, units.reg_covar, **kind)
    except (InputError, CollapsedComponentError) as refusal:
        assert "cale the" in str(refusal)  # noqa: PT017 -- the remedy
        assert not (scale.min() > LEAST and scale.max() < MOST), "refused without need"
        return
    assert_finite(gm)
    tied = kind.get("covariance_type") == "tied"
    if tied and units.offset and kind["init_params"] in FROM_THE_ORIGIN:
        return
    reg_covar = float(units.reg_covar / np.longdouble(units.scale) ** 2)
    oracle = fitted(units.standard, reg_covar, **kind)
    assert_same(gm, units, oracle)
    assert_applies(gm, units, oracle)


# -- examples of each kind ---------------------------------------------------------------------

EXAMPLES = [
    Units("f4", 1e20),
    Units("f4", 1e37),
    Units("f4", 1e-22),
    Units("f4", 1e-38),
    Units("f4", 200.0, 1e6),
    Units("f4", 1e20, -1e5),
    Units("f8", 1e150),
    Units("f8", 1e-150),
    Units("f8", 1e3, 1e12),
    Units("f8", 1e-20, -1e11),
    Units("f2", 1e3),
    Units("i8", 1e15),
    Units("i8", 1e3, 1e12),
    Units("f8", 1e300),
    Units("f8", 1e-300),
]


@pytest.mark.parametrize("units", EXAMPLES, ids=str)
@pytest.mark.parametrize(
    "init_params", ["kmeans", *(pytest.param(i, marks=pytest.mark.slow) for i in INITS[1:])]
)
def test_other_units(units: Units, init_params: str) -> None:
    assert_right_or_refused(units, init_params=init_params)


@pytest.mark.parametrize("covariance_type", ["tied", "diag", "spherical"])
@pytest.mark.parametrize("units", [EXAMPLES[0], EXAMPLES[2], EXAMPLES[8]], ids=str)
def test_other_units_of_each_family(units: Units, covariance_type: str) -> None:
    for init_params in ("k-means||", "random_from_data"):
        assert_right_or_refused(units, covariance_type=covariance_type, init_params=init_params)


@pytest.mark.parametrize("acceleration", ["variance-reduced", "squarem"])
@pytest.mark.parametrize("units", [EXAMPLES[0], EXAMPLES[8]], ids=str)
def test_other_units_accelerated(units: Units, acceleration: str) -> None:
    assert_right_or_refused(units, acceleration=acceleration)


@given(
    st.sampled_from(["f2", "f4", "f8", "i4", "i8"]),
    st.floats(-1.0, 1.0),
    st.floats(-1.0, 1.0),
    st.sampled_from(sorted(COVARIANCE_TYPES)),
    st.sampled_from(INITS),
)
@settings(max_examples=10, deadline=None)
def test_any_units(
    dtype: str, size: float, distance: float, covariance_type: str, init_params: str
) -> None:
    assert_right_or_refused(
        any_units(dtype, size, distance),
        covariance_type=covariance_type,
        init_params=init_params,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(
    st.sampled_from(["f2", "f4", "f8", "i4", "i8"]),
    st.floats(-1.0, 1.0),
    st.floats(-1.0, 1.0),
    st.sampled_from(sorted(COVARIANCE_TYPES)),
    st.sampled_from(INITS),
    st.sampled_from(ACCELERATIONS),
    st.sampled_from(KERNELS),
)
@settings(max_examples=30, deadline=None)
def test_any_units_any_way(
    dtype: str,
    size: float,
    distance: float,
    covariance_type: str,
    init_params: str,
    acceleration: str | None,
    kernel: str,
) -> None:
    assert_right_or_refused(
        any_units(dtype, size, distance),
        covariance_type=covariance_type,
        init_params=init_params,
        acceleration=acceleration,
        kernel=kernel,
    )


def any_units(dtype: str, size: float, distance: float) -> Units:
    """Any scale of a type from its smallest to its largest, and any offset of which it has digits.

    Both go from −1 to 1.
    """
    # What is left of a row at the largest offset: 12 digits in float64, and some in each type.
    digits = {"f2": 1.0, "f4": 5.0, "f8": 12.0, "i4": 4.0, "i8": 12.0}[dtype]
    offset = np.sign(distance) * 10.0 ** (digits * abs(distance)) if distance else 0.0
    least, most = {
        "f2": (-3.0, 3.5),
        "f4": (-40.0, 37.0),
        "f8": (-320.0, 306.0),
        "i4": (3.0, 8.0),
        "i8": (3.0, 17.5),
    }[dtype]
    room = most - np.log10(1.0 + abs(offset))
    return Units(dtype, 10.0 ** (least + (0.5 + 0.5 * size) * (room - least)), float(offset))


# -- features in units of their own ------------------------------------------------------------


def given_start(scale: NDArray[np.float64], family: str) -> dict[str, Any]:
    """A start in features of these scales."""
    precisions = {
        "full": np.broadcast_to(np.diag(scale**-2.0), (K, D, D)),
        "tied": np.diag(scale**-2.0),
        "diag": np.broadcast_to(scale**-2.0, (K, D)),
    }
    means = STANDARD[[5, N // 3 + 5, N - 5]]
    return {
        "weights_init": np.full(K, 1.0 / K),
        "means_init": means * scale,
        "precisions_init": precisions[family],
    }


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("f8", (1e-20, 1e20)),
        ("f8", (1e-140, 1e140)),
        ("f4", (1e-35, 1e30)),
        ("f4", (1e-22, 1e-5)),
        ("f4", (1.0, 1e20)),
    ],
)
@pytest.mark.parametrize("family", ["full", "tied", "diag"])
def test_each_feature_in_units_of_its_own(
    dtype: str, scale: tuple[float, float], family: str
) -> None:
    """From a start in the same units; and from random responsibilities, which have no units."""
    units, sizes = Units(dtype, scale), np.array(scale)
    for theirs, ours in (
        (given_start(np.ones(D), family), given_start(sizes, family)),
        ({"init_params": "random"}, {"init_params": "random"}),
    ):
        oracle = fitted(units.standard, 0.0, covariance_type=family, **theirs)
        gm = fitted(units.rows, 0.0, covariance_type=family, **ours)
        assert_finite(gm)
        assert_same(gm, units, oracle)


def test_given_precisions_are_judged_in_their_own_units() -> None:
    rows = STANDARD * 1e20
    crooked = np.broadcast_to(np.array([[1.0, 0.9], [0.0, 1.0]]) * 1e-40, (K, D, D))
    with pytest.raises(InputError, match="symmetric"):
        fitted(rows, 0.0, precisions_init=crooked)


# -- what a collapse and a grid make of it -------------------------------------------------------


@pytest.mark.parametrize("on_collapse", ["stop", "reseed", "merge", "raise"])
@pytest.mark.parametrize("scale", [1e60, pytest.param(1e-60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_collapse_is_one_in_any_units(
    on_collapse: str, scale: float, covariance_type: str
) -> None:
    """reg_covar is nothing beside the one and 0 with the other."""
    rows = STANDARD.copy()
    rows[:40] = [30.0, -30.0]  # as many copies of one row
    kind = {"on_collapse": on_collapse, "covariance_type": covariance_type, "max_iter": 20}
    start = {"means_init": [[30.0, -30.0], [0.0, 0.0], [0.0, 8.0]], "init_params": "random"}
    ours = start | {"means_init": np.array(start["means_init"]) * scale}

    def ended(rows: NDArray[Any], **given: Any) -> Any:
        try:
            gm = fitted(rows, 0.0, **kind, **given)
        except CollapsedComponentError as error:
            return str(error)
        assert_finite(gm)
        return gm

    found, right = ended(rows * scale, **ours), ended(rows, **start)
    if isinstance(right, str):
        assert found == right
        return
    assert found.outcome_ == right.outcome_
    # Reseeding begins when rounding has left no variance, perhaps a step sooner or later.
    slack = 1e-3 if on_collapse == "reseed" else 1e-8
    np.testing.assert_allclose(found.means_ / scale, right.means_, rtol=slack, atol=slack)


@pytest.mark.parametrize("units", [EXAMPLES[0], EXAMPLES[2]], ids=str)
@pytest.mark.parametrize(
    "acceleration", [None, pytest.param("variance-reduced", marks=pytest.mark.slow)]
)
def test_a_selection_in_other_units(units: Units, acceleration: str | None) -> None:
    def selected(rows: NDArray[Any], reg_covar: float) -> Any:
        return select_gaussian_mixture(
            rows,
            range(1, 5),
            ("full", "spherical"),
            reg_covar=reg_covar,
            acceleration=acceleration,
            tol=1e-6,
            random_state=0,
        )

    found, right = selected(units.rows, units.reg_covar), selected(units.standard, REG)
    assert found.best_n_components == right.best_n_components == K
    assert found.best_covariance_type == right.best_covariance_type
    shift = 2.0 * N * units.log_volume
    assert found.best.bic - shift == pytest.approx(right.best.bic, abs=N * 1e-3)
    best = found.best_model
    assert best.bic(units.rows) == pytest.approx(found.best.bic, rel=1e-4)
    assert_finite(best)
