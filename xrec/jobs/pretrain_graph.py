"""Job `pretrain-graph`: the dataset in, a vector for each user and item out."""

from xrec.config import PretrainGraphConfig
from xrec.graph.identity import graph_identity
from xrec.jobs.output import Output
from xrec.storage import Manifest, check_artifacts, location_of


def output(config: PretrainGraphConfig, *, exact: bool = True) -> Output:
    settings, inputs = graph_identity(config)
    return Output(
        location_of(config, "graph"), "graph", settings, inputs, records=("checkpoints/run.json",)
    )


def run(config: PretrainGraphConfig) -> Manifest:
    """Train on Ray, unless it is done; returns the manifest."""
    from xrec.cluster.connect import ensure_ray
    from xrec.cluster.preflight import check_cluster, demand_of_workers
    from xrec.train.graph import pretrain_graph

    check_artifacts(config, "dataset", "graph")
    if (done := output(config).done()) is not None:
        return done
    with ensure_ray(config.ray):
        check_cluster(demand_of_workers(config.workers), config.artifact("graph"), config.storage)
        return pretrain_graph(config)
