"""Colours that everybody tells apart, and text that everybody can read."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dask_gmm.errors import InputError
from dask_gmm.plotting import component_colours, style
from dask_gmm.plotting.certainty import _SHADES
from dask_gmm.plotting.look import COLUMN, INK, PALE
from dask_gmm.plotting.timeline import _BEFORE, _COMPUTING, _WAITING

# Machado, Oliveira & Fernandes (2009), severity 1.0; of linear RGB.
SEEN_AS = {
    "all": np.eye(3),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def linear(colours: tuple[str, ...]) -> np.ndarray:
    c = np.array([to_rgb(colour) for colour in colours])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of linear sRGB, white at D65."""
    t = rgb @ TO_XYZ.T / (TO_XYZ @ np.ones(3))
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )


def differences(colours: tuple[str, ...], sight: str) -> np.ndarray:
    """ΔE*ab of each pair; infinite on the diagonal."""
    seen = lab(np.clip(linear(colours) @ SEEN_AS[sight].T, 0.0, 1.0))
    found: np.ndarray = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    np.fill_diagonal(found, np.inf)
    return found


def contrast(colour: str, ground: str = "white") -> float:
    """WCAG 2.2's ratio."""
    a, b = (float(linear((c,))[0] @ TO_XYZ[1]) + 0.05 for c in (colour, ground))
    return max(a, b) / min(a, b)


@pytest.mark.parametrize("sight", SEEN_AS)
def test_neighbours_are_told_apart_whatever_one_sees(sight: str) -> None:
    apart = differences(component_colours(60), sight)
    assert np.diagonal(apart, 1).min() > 20.0
    assert apart[:12, :12].min() > 15.0
    assert apart.min() > 7.0


@pytest.mark.parametrize("sight", SEEN_AS)
@pytest.mark.parametrize("used", [_SHADES, (_COMPUTING, _WAITING, _BEFORE)])
def test_what_stands_side_by_side_is_told_apart(used: tuple[str, ...], sight: str) -> None:
    assert differences(used, sight).min() > 18.0


def test_the_measure_is_cie_lab() -> None:
    assert lab(linear(("#ffffff", "#000000", "#ff0000"))) == pytest.approx(
        np.array([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]]), abs=0.02
    )


def test_a_component_keeps_its_colour_whatever_the_number() -> None:
    assert component_colours(60)[:7] == component_colours(7)
    assert len(set(component_colours(60))) == 60
    assert component_colours(61)[60] == component_colours(1)[0]


def test_no_component_is_as_pale_as_the_ground() -> None:
    assert min(map(contrast, component_colours(60))) > 1.7


def test_no_number_of_components_is_an_error() -> None:
    with pytest.raises(InputError, match="n_components=0"):
        component_colours(0)


def test_text_stands_out() -> None:
    assert contrast("#767676") == pytest.approx(4.54, abs=0.01)  # the measure itself
    assert contrast(INK) > 15.0
    assert contrast(PALE) >= 4.5


def test_style_lasts_as_long_as_its_block() -> None:
    before = dict(mpl.rcParams)
    with style():
        figure = Figure()
        assert mpl.rcParams["font.size"] == 8
    assert dict(mpl.rcParams) == before
    assert figure.get_figwidth() == COLUMN


def test_style_is_put_back_after_an_error() -> None:
    before = dict(mpl.rcParams)
    with pytest.raises(ZeroDivisionError), style():
        1 / 0  # noqa: B018
    assert dict(mpl.rcParams) == before
