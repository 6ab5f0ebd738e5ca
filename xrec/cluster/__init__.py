"""Ray clusters: connect to one, check that it fits the job, send a job to one.

Import from here; `xrec.cluster.submit` is apart, because only `xrec submit` needs it.
"""

from xrec.cluster.connect import LOCAL_ENVIRONMENT, check_reachable, ensure_ray, environment
from xrec.cluster.preflight import (
    ONE_CPU,
    check_cluster,
    demand_of_actors,
    demand_of_workers,
    ready_cluster,
)
