"""Count who chose what together.

Each item gets the items that its users chose most, and lower bounds of how many people chose both.
Recommendations are ranked by them too, and get reasons from them.

In:   <workspace>/dataset, and graph if there is one
Out:  <workspace>/neighbors

Examples:
  xrec neighbors configs/yelp.yaml
  xrec neighbors configs/yelp.yaml min_people=10
"""

from xrec.config import NeighborsConfig
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: NeighborsConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    from xrec.neighbors.identity import neighbors_identity

    return Output(location_of(config, "neighbors"), "neighbors", *neighbors_identity(config))


def run(config: NeighborsConfig) -> Manifest:
    """Count in this process, unless the neighbors exist."""
    from xrec.neighbors.make import make_neighbors

    return make_neighbors(config)
