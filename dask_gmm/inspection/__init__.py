"""What one read of the data says of a fitted mixture, for whoever wants to see it."""

from dask_gmm.inspection.inspection import Inspection
from dask_gmm.inspection.job import InspectionJob, inspection_of

__all__ = ["Inspection", "InspectionJob", "inspection_of"]
