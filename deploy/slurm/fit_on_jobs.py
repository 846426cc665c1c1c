"""A fit on workers that are SLURM jobs, of as many as there is work for.

On a machine that may submit jobs, with DASK_CONFIG naming a folder with jobqueue.yaml:

    python deploy/slurm/fit_on_jobs.py s3://bucket/points.zarr 8 points.checkpoint model.zarr

The same command goes on from the checkpoint if this process dies.
"""

import sys

from dask_jobqueue import SLURMCluster
from distributed import Client, Security

from dask_gmm import GaussianMixture

data, components, checkpoint, model = sys.argv[1:]
security = Security()  # of Dask's settings: with certificates, if they name some
secured = {"security": security} if security.require_encryption else {}
with SLURMCluster(**secured) as cluster, Client(cluster):
    # Workers that end, by their time or a failure, are replaced while there is work.
    cluster.adapt(minimum_jobs=1, maximum_jobs=16)
    mixture = GaussianMixture(int(components), random_state=0)
    mixture.fit(data, checkpoint=checkpoint)
mixture.save(model, overwrite=True)
