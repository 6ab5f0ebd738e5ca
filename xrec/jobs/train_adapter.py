"""Job `train-adapter`: dataset, graph and a frozen language model in, adapter out."""

from xrec.adapter.config import adapter_inputs
from xrec.aspects.artifact import aspects_of
from xrec.config import TrainAdapterConfig, identity_of
from xrec.data import check_has_explanations
from xrec.jobs.output import Output
from xrec.llm.source import known_fingerprint
from xrec.storage import Manifest, check_artifacts, location_of, manifest_of


def output(config: TrainAdapterConfig, *, exact: bool = True) -> Output:
    """Return the job's output; without `exact`, without downloading the language model."""
    base_model = known_fingerprint(config.llm, config.storage, download=exact)
    dataset = manifest_of(config, "dataset")
    aspects = aspects_of(config.prompt, config.artifact("aspects"), dataset, config.storage)
    return Output(
        location_of(config, "adapter"),
        "adapter",
        identity_of(config),
        adapter_inputs(dataset, manifest_of(config, "graph"), base_model or "", aspects),
        unchecked=() if base_model else ("base_model",),
        records=("checkpoints/run.json",),
    )


def run(config: TrainAdapterConfig) -> Manifest:
    """Train on Ray, unless it is done."""
    from xrec.cluster import demand_of_workers, ready_cluster
    from xrec.train.adapter import train_adapter

    check_artifacts(config, "dataset", "graph", "adapter")
    check_has_explanations(location_of(config, "dataset"))
    if (done := output(config).done()) is not None:
        return done
    with ready_cluster(config, "adapter", demand_of_workers(config.workers)):
        return train_adapter(config)
