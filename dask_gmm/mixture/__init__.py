"""The mathematics: NumPy and SciPy only, no I/O, no Dask."""

# Whoever comes into this room finds the families of the package registered, a worker that unpickles
# a model too.
from dask_gmm.mixture import factors as factors
from dask_gmm.mixture import parsimonious as parsimonious
