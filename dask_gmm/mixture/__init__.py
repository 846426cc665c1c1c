"""The mathematics: NumPy and SciPy only, no I/O, no Dask."""
