"""Train a vector per user and item.

Trains LightGCN on Ray Train, stops early on validation NDCG@20, and keeps the best epoch.

In:   <workspace>/dataset
Out:  <workspace>/graph, with Recall@20 and NDCG@20

Examples:
  xrec pretrain-graph configs/yelp.yaml
  xrec pretrain-graph configs/yelp.yaml workers.num_processes=4 training.num_epochs=100
"""

from xrec.config import PretrainGraphConfig
from xrec.graph.identity import graph_identity
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: PretrainGraphConfig, *, exact: bool = True) -> Output:
    """Return the job's output."""
    location, records = location_of(config, "graph"), ("checkpoints/run.json",)
    return Output(location, "graph", *graph_identity(config), records=records)


def run(config: PretrainGraphConfig) -> Manifest:
    """Train on Ray, unless the graph exists."""
    from xrec.cluster import demand_of_workers, ready_cluster
    from xrec.train.graph import pretrain_graph

    demand = demand_of_workers(config.workers)
    return pretrain_graph(config, lambda: ready_cluster(config, "graph", demand))
