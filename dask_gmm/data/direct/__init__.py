"""The reader of common Zarr layouts."""
