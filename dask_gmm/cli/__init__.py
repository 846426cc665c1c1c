"""The `dask-gmm` command."""
