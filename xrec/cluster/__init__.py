"""Ray clusters: connect to one, check that it fits the job, send a job to one.

Import from here, except for `xrec.cluster.submit`, which only `xrec submit` needs.
"""

from xrec.cluster.connect import LOCAL_ENVIRONMENT, check_reachable, ensure_ray, environment
from xrec.cluster.preflight import (
    ONE_CPU,
    check_cluster,
    demand_of_actors,
    demand_of_workers,
    ready_cluster,
)
