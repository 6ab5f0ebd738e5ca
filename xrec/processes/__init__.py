"""Numbered pieces of work, done by processes of a Ray cluster that may die at any time.

`RayPool` does the chunks of a bulk run (xrec.bulk). `map_in_processes` does one call per item.
Importing this package imports Ray, so commands that only read import it where they need it.
"""

from xrec.processes.marks import WAIT, Attempt, Marks
from xrec.processes.pool import (
    Pool,
    RayPool,
    gpus_each,
    map_in_processes,
    num_cpus,
    portable,
)
