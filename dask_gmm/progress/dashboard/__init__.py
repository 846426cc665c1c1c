"""A page of a Dask scheduler's dashboard: the fits that run on the cluster, and those that did.

A driver posts the state of its fit to the scheduler's events about once a second
(`dask_gmm.progress.posting`), and brings the page along: it is at ``/dask-gmm`` as soon as a first
fit has begun, on a scheduler that has the same release of this package. To have it from the start
name this module among the scheduler's routes, in Dask's configuration::

    distributed:
      scheduler:
        http:
          routes:
            - distributed.http.scheduler.prometheus
            - distributed.http.scheduler.info
            - distributed.http.scheduler.json
            - distributed.http.health
            - distributed.http.proxy
            - distributed.http.statics
            - dask_gmm.progress.dashboard

``/dask-gmm/fits.json`` is what the page shows, for other programs.
"""

from __future__ import annotations

from dask_gmm.progress.dashboard.plugin import routes

__all__ = ["routes"]
