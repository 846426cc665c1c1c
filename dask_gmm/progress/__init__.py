"""Shows how fits advance: bars, lines, JSON, a widget in notebooks, a page in Dask's dashboard.

`ProgressState` makes the numbers, from events alone (`state.py`); a view only writes them down, a
file each. `observers.py` is the one place where observers are put together. rich, IPython, tornado
and distributed are imported by the view that needs them, when it shows something.
"""

from __future__ import annotations

from dask_gmm.progress.observers import observed
from dask_gmm.progress.progress_bar import ProgressBar
from dask_gmm.progress.run import Ending, Run

__all__ = ["Ending", "ProgressBar", "Run", "observed"]
