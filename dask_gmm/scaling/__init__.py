"""What becomes of rows before a mixture sees them: transforms, units, principal components."""

from dask_gmm.scaling.request import ScalingRequest
from dask_gmm.scaling.scaling import Scaling

__all__ = ["Scaling", "ScalingRequest"]
