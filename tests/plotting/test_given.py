"""What is given is what is drawn into, and nothing else of matplotlib's is touched."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.exceptions import NotFittedError

from dask_gmm import GaussianMixture, plotting
from dask_gmm.errors import InputError, MissingPackageError
from dask_gmm.plotting import captions
from tests.plotting.mixtures import made
from tests.plotting.test_merging import Merged
from tests.plotting.test_selection import selection
from tests.traced import timeline

if TYPE_CHECKING:
    from collections.abc import Callable

GM, INSPECTION = made("two features")
MERGED = Merged(2, np.array([0.0, 10.0, 40.0, 90.0]), np.array([40.0, 60.0, 100.0]), 100.0)
SINGLE: dict[str, Callable[..., Any]] = {
    "convergence": lambda **more: plotting.plot_convergence(GM, **more),
    "certainty": lambda **more: plotting.plot_certainty(GM, INSPECTION, **more),
    "overlap": lambda **more: plotting.plot_overlap(GM, INSPECTION, **more),
    "residuals": lambda **more: plotting.plot_residuals(GM, INSPECTION, **more),
    "selection": lambda **more: plotting.plot_selection(selection(), **more),
    "merging": lambda **more: plotting.plot_merging(MERGED, **more),
    "map": lambda **more: plotting.plot_map(np.arange(12).reshape(3, 4) % 4, **more),
    "timeline": lambda **more: plotting.plot_timeline(timeline(), **more),
}
MANY: dict[str, Callable[..., Any]] = {
    "components": lambda **more: plotting.plot_components(GM, INSPECTION, **more),
    "profiles": lambda **more: plotting.plot_profiles(GM, INSPECTION, **more),
}


@pytest.mark.parametrize("name", ["certainty", "overlap", "residuals", "components", "profiles"])
@pytest.mark.parametrize("given", [np.zeros((5, 2)), "rows.zarr"])
def test_data_in_place_of_an_inspection_are_named(name: str, given: Any) -> None:
    draw = getattr(plotting, f"plot_{name}")
    with pytest.raises(
        InputError, match=rf"inspection is {type(given).__name__}.*gm\.inspect\(X\)"
    ):
        draw(GM, given)
    with pytest.raises(InputError, match=r"The mixture comes first"):
        draw(INSPECTION, GM)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", SINGLE)
def test_axes_given_are_drawn_into_and_returned(name: str) -> None:
    before = dict(mpl.rcParams)
    figure = Figure()
    ax, other = figure.subplots(1, 2)
    assert SINGLE[name](ax=ax) is ax
    assert ax.has_data()
    assert not other.has_data()
    assert len(figure.axes) == 2
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("name", "shape"), [("components", (2, 2)), ("profiles", (1,))])
def test_arrays_of_axes_too(name: str, shape: tuple[int, ...]) -> None:
    before = dict(mpl.rcParams)
    figure = Figure()
    axes = np.array([figure.add_subplot(2, 2, i + 1) for i in range(int(np.prod(shape)))])
    found = MANY[name](axes=axes.reshape(shape))
    assert found.shape == shape
    assert set(found.flat) == set(axes)
    assert len(figure.axes) == len(axes)
    assert figure.get_suptitle() == ""
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", [*SINGLE, *MANY])
def test_without_axes_a_figure_of_a_column_is_made(name: str) -> None:
    found = {**SINGLE, **MANY}[name]()
    assert len(plt.get_fignums()) == 1
    figure = np.ravel(found)[0].figure
    assert figure is plt.gcf()
    assert figure.get_figwidth() == pytest.approx(3.35)


def test_one_axes_for_one_feature_or_a_pair() -> None:
    figure = Figure()
    one, two = figure.subplots(1, 2)
    assert plotting.plot_components(GM, INSPECTION, features=[1], axes=one) is one
    assert plotting.plot_components(GM, INSPECTION, axes=two) is two
    assert (two.get_xlabel(), two.get_ylabel()) == ("x0", "x1")
    assert one.get_xlabel() == "x1"


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_no_axes_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"ax (is|holds)"):
        SINGLE[name](ax="here")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", MANY)
def test_too_few_axes_are_refused(name: str) -> None:
    axes = Figure().subplots(1, 3)
    with pytest.raises(InputError, match=r"axes holds 3 Axes and this figure needs"):
        MANY[name](axes=axes)


@pytest.mark.parametrize("name", [*SINGLE, *MANY])
def test_a_missing_matplotlib_is_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'dask-gmm\[report\]'"):
        {**SINGLE, **MANY}[name]()
    with pytest.raises(ImportError, match="matplotlib"), plotting.style():
        pass


def test_a_matplotlib_that_lacks_something_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cycler", None)
    with pytest.raises(ModuleNotFoundError, match="cycler") as caught:
        plotting.plot_overlap(GM, INSPECTION)
    assert not isinstance(caught.value, MissingPackageError)


@pytest.mark.slow
def test_neither_import_nor_axes_given_need_pyplot() -> None:
    """So a thread, or a server without a screen, may draw."""
    code = (
        "import sys, dask_gmm.plotting as p; assert 'matplotlib' not in sys.modules\n"
        "from matplotlib.figure import Figure\n"
        "from tests.plotting.mixtures import made\n"
        "from tests.traced import timeline\n"
        "gm, found = made('two features')\n"
        "f = Figure(); a = f.subplots(3, 3)\n"
        "p.plot_convergence(gm, ax=a[0, :2]); p.plot_components(gm, found, axes=a[1:, :2])\n"
        "p.plot_certainty(gm, found, ax=a[0, 2]); p.plot_overlap(gm, found, ax=a[1, 2])\n"
        "b, c, d, e = (f.add_subplot() for _ in range(4)); p.plot_map([[0, 1]], ax=e)\n"
        "p.plot_profiles(gm, found, axes=b); p.plot_residuals(gm, found, ax=c)\n"
        "p.plot_timeline(timeline(), ax=d)\n"
        "f.draw_without_rendering(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["components", "profiles", "certainty", "overlap", "residuals"])
def test_what_is_not_fitted_or_another_mixtures(name: str) -> None:
    draw = getattr(plotting, f"plot_{name}")
    with pytest.raises(NotFittedError, match="GaussianMixture instance is not fitted"):
        draw(GaussianMixture(), INSPECTION)
    other = made("one component")[1]
    with pytest.raises(
        InputError, match="of 1 components of 3 features and the mixture has 4 of 2"
    ):
        draw(GM, other)
    assert plt.get_fignums() == []


def test_a_figure_that_fails_is_not_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Axes, "imshow", fail)
    with pytest.raises(ZeroDivisionError):
        plotting.plot_overlap(GM, INSPECTION)
    assert plt.get_fignums() == []


def test_text_keeps_its_size_after_the_style_is_gone() -> None:
    """Ticks are made when they are drawn, by settings that are others by then."""
    ax: Any = plotting.plot_residuals(GM, INSPECTION)
    ax.figure.draw_without_rendering()
    assert {label.get_fontsize() for label in ax.get_xticklabels()} == {7.0}


def test_each_figure_has_a_caption() -> None:
    drawn = {name.removeprefix("plot_") for name in plotting.__all__ if name.startswith("plot_")}
    assert drawn == set(plotting.FIGURES) == set(SINGLE) | set(MANY)
    for name in captions.FIGURES:
        assert 200 < len(plotting.caption(name)) < 900
    with pytest.raises(InputError, match="choose one of convergence"):
        plotting.caption("pie")
