"""scikit-learn for `bench_fit`. Its threads are those of BLAS, set by the driver."""

from __future__ import annotations

import numpy as np
import sklearn
from estimators import fit_of
from serving import serve
from sklearn.mixture import GaussianMixture

versions = {"scikit-learn": sklearn.__version__, "numpy": np.__version__}
serve(versions, fit_of(GaussianMixture), cpu=True)
