"""Figures of a fitted mixture: did it converge, are these clusters, which rows are unexplained.

Every function draws into the axes that it is given and returns them, or makes a figure one column
wide; `caption` says what to look for in it. matplotlib is imported when the first figure is drawn:
``pip install 'dask-gmm[report]'``.
"""

from dask_gmm.plotting.captions import FIGURES, caption
from dask_gmm.plotting.certainty import plot_certainty
from dask_gmm.plotting.components import plot_components
from dask_gmm.plotting.convergence import plot_convergence
from dask_gmm.plotting.look import component_colours, style
from dask_gmm.plotting.maps import plot_map
from dask_gmm.plotting.merging import plot_merging
from dask_gmm.plotting.overlap import plot_overlap
from dask_gmm.plotting.profiles import plot_profiles
from dask_gmm.plotting.residuals import plot_residuals
from dask_gmm.plotting.selection import plot_selection
from dask_gmm.plotting.timeline import plot_timeline

__all__ = [
    "FIGURES",
    "caption",
    "component_colours",
    "plot_certainty",
    "plot_components",
    "plot_convergence",
    "plot_map",
    "plot_merging",
    "plot_overlap",
    "plot_profiles",
    "plot_residuals",
    "plot_selection",
    "plot_timeline",
    "style",
]
