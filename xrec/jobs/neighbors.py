"""Job `neighbors`: dataset and graph in, neighbors of items out (who chose what together)."""

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
