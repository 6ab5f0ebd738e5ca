"""Job `neighbors`: dataset and graph in, neighbors of items out (who chose what together)."""

from xrec.config import NeighborsConfig
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: NeighborsConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    from xrec.neighbors.identity import neighbors_identity

    return Output(location_of(config, "neighbors"), "neighbors", *neighbors_identity(config))


def run(config: NeighborsConfig) -> Manifest:
    """Build them in this process, unless it is done."""
    from xrec.neighbors.make import make_neighbors

    return output(config).done() or make_neighbors(config)
