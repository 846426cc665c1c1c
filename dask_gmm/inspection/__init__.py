"""What one read of the data says of a fitted mixture, for whoever wants to see it."""

from dask_gmm.inspection.inspection import Inspection

__all__ = ["Inspection"]
