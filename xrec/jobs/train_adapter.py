"""Train the language model's adapter.

Trains mixtures of experts with Ray Train and DeepSpeed. The language model itself stays frozen.

In:   <workspace>/dataset and graph, llm.model
Out:  <workspace>/adapter, in the layout of model hubs

Examples:
  xrec train-adapter configs/yelp.yaml
  xrec train-adapter configs/yelp.yaml training.max_steps=200 model.injection=direct
"""

from xrec.adapter.config import training_identity
from xrec.config import TrainAdapterConfig
from xrec.data import check_has_explanations
from xrec.jobs.output import Output
from xrec.storage import Manifest, location_of


def output(config: TrainAdapterConfig, *, exact: bool = True) -> Output:
    """Return the job's output; without `exact`, without downloading the language model."""
    settings, inputs = training_identity(config, download=exact)
    return Output(
        location_of(config, "adapter"),
        "adapter",
        settings,
        inputs,
        unchecked=() if inputs["base_model"] else ("base_model",),
        records=("checkpoints/run.json",),
    )


def run(config: TrainAdapterConfig) -> Manifest:
    """Train on Ray, unless the adapter exists."""
    from xrec.cluster import demand_of_workers, ready_cluster
    from xrec.train.adapter import train_adapter

    check_has_explanations(location_of(config, "dataset"))
    demand = demand_of_workers(config.workers)
    return train_adapter(config, lambda: ready_cluster(config, "adapter", demand))
