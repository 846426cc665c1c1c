"""What `dask-gmm doctor` looks at, and what it makes of what it sees."""
