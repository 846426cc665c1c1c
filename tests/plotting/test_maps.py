"""Labels on a grid."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from dask_gmm.errors import InputError
from dask_gmm.plotting import component_colours, plot_map
from tests.plotting.legible import faults
from tests.plotting.mixtures import made


def mesh_of(ax: Any) -> Any:
    (found,) = (c for c in ax.collections if isinstance(c, QuadMesh))
    return found


def colours(ax: Any) -> np.ndarray:
    mesh = mesh_of(ax)
    array = mesh.get_array()
    found: np.ndarray = mesh.to_rgba(array)
    return found.reshape(*array.shape, 4)


LABELS = np.array([[0, 1, -1], [3, 2, 2]])


def test_each_place_has_its_components_colour() -> None:
    ax: Any = plot_map(LABELS)
    found = colours(ax)
    for place, k in np.ndenumerate(LABELS):
        expected = to_rgba(component_colours(4)[k]) if k >= 0 else (0, 0, 0, 0)
        assert found[place] == pytest.approx(expected)
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["0: 20 %", "1: 20 %", "2: 40 %", "3: 20 %"]
    assert ax.get_ylim() == (1.5, -0.5)  # the first line is on top, as in a picture
    assert ax.get_aspect() == 1.0
    assert faults(ax.figure) == []


def test_colours_do_not_hang_on_which_labels_there_are() -> None:
    gm = made("two features")[0]
    ax: Any = plot_map([[3, 3]], gm=gm)
    assert colours(ax)[0, 0] == pytest.approx(to_rgba(component_colours(4)[3]))


@pytest.mark.parametrize("kind", ["float with NaN", "dask", "zarr", "list", "int8"])
def test_arrays_of_every_kind(kind: str) -> None:
    values: Any = {
        "float with NaN": lambda: np.where(LABELS < 0, np.nan, LABELS),
        "dask": lambda: da.from_array(LABELS, chunks=2),
        "zarr": lambda: zarr.array(LABELS),
        "list": LABELS.tolist,
        "int8": lambda: LABELS.astype("i1"),
    }[kind]()
    ax: Any = plot_map(values)
    assert colours(ax) == pytest.approx(colours(plot_map(LABELS)))


def test_large_grids_are_thinned_and_say_so() -> None:
    labels = np.arange(40 * 7).reshape(40, 7) % 5
    ax: Any = plot_map(labels, most=10)
    assert np.ma.getdata(mesh_of(ax).get_array()).tolist() == labels[::4].tolist()
    assert ax.get_title(loc="left") == "every 4th line, every single column"
    assert ax.get_ylim() == (39.5, -0.5)  # lines count as before


def test_coordinates_are_the_axes() -> None:
    labels = xr.DataArray(
        LABELS,
        dims=("lat", "lon"),
        coords={"lat": [50.0, 40.0], "lon": ("lon", [10.0, 20.0, 40.0], {"units": "degrees_east"})},
    )
    ax: Any = plot_map(labels)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("lon in degrees_east", "lat")
    assert sorted(ax.get_ylim()) == [35.0, 55.0]
    assert ax.get_ylim()[0] < ax.get_ylim()[1]  # north is up, whatever the order of lines
    assert ax.get_xlim() == (5.0, 50.0)
    assert mesh_of(ax).get_coordinates()[0, :, 0].tolist() == [5.0, 15.0, 30.0, 50.0]
    assert ax.get_aspect() == 1.0


def test_depth_and_time() -> None:
    labels = xr.DataArray(
        np.arange(12).reshape(3, 4) % 3,
        dims=("depth", "time"),
        coords={"depth": [5, 10, 50], "time": xr.date_range("2020-01-01", periods=4, freq="MS")},
    )
    ax: Any = plot_map(labels)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_aspect() == "auto"
    assert faults(ax.figure) == []


@pytest.mark.parametrize("places", [["a", "b", "c"], [3.0, 1.0, 2.0], [1.0, np.nan, 2.0]])
def test_coordinates_that_are_no_axis_are_names(places: Any) -> None:
    ax: Any = plot_map(xr.DataArray(LABELS, dims=("y", "x"), coords={"x": places}))
    assert [label.get_text() for label in ax.get_xticklabels()] == [str(place) for place in places]
    assert faults(ax.figure) == []


def test_a_single_line_and_place() -> None:
    for labels in (LABELS[:1], LABELS[:, :1], LABELS[:1, :1]):
        assert faults(plot_map(labels).figure) == []
        grid = xr.DataArray(labels, dims=("y", "x"), coords={"y": np.arange(len(labels)) + 3.0})
        assert faults(plot_map(grid).figure) == []


def test_nothing_has_a_label() -> None:
    ax: Any = plot_map(np.full((3, 4), -1))
    assert [text.get_text() for text in ax.texts] == ["no place has a label"]
    assert ax.get_legend() is None


def test_of_many_components_the_most_frequent_are_named() -> None:
    ax: Any = plot_map(np.arange(60).reshape(6, 10))
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(legend) == 13
    assert legend[-1] == "and 48 more"
    assert faults(ax.figure) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 3, 4), int), r"shape \(2, 3, 4\).*labels\[0\]"),
        (
            xr.DataArray(np.zeros((2, 3, 4), int), dims=("time", "y", "x")),
            r"labels\.isel\(time=0\)",
        ),
        (np.zeros(3, int), "two dimensions"),
        (np.zeros((0, 3), int), "none of them empty"),
        ("labels.zarr", r"labels is the name 'labels\.zarr': open it"),
        (np.full((2, 2), 0.25), "fractions"),
        (np.full((2, 2), "a"), "whole numbers"),
        (np.full((2, 2), -2), "labels hold -2"),
        (np.full((2, 2), 4), "labels hold 4, and the mixture has components 0 to 3"),
    ],
)
def test_what_are_no_labels(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plot_map(labels, gm=made("two features")[0], ax=Figure().subplots())


@pytest.mark.parametrize("most", [0, 2.5, True])
def test_numbers_of_lines(most: Any) -> None:
    with pytest.raises(InputError, match="is no number of lines"):
        plot_map(LABELS, most=most)
