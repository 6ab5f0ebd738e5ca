"""Job `train-adapter`: dataset, graph and a frozen language model in, adapter artifact out."""

from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.room import demand_of_workers
from xrec.config.adapter import TrainAdapterConfig
from xrec.data import check_has_explanations
from xrec.llm.source import folder_uris
from xrec.storage import Manifest, check_access, open_location
from xrec.train.adapter import train_adapter


def run(config: TrainAdapterConfig) -> Manifest:
    """Check that the storage can be used, connect to Ray, train."""
    for name in ("dataset", "graph", "adapter"):
        check_access(open_location(config.artifact(name), config.storage), config.storage)
    check_has_explanations(open_location(config.artifact("dataset"), config.storage))
    with ensure_ray(config.ray):
        reads = [
            config.artifact("dataset"),
            config.artifact("graph"),
            *folder_uris(config.llm.model),
        ]
        check_cluster(
            demand_of_workers(config.scaling),
            reads=reads,
            writes=[config.artifact("adapter")],
            storage=config.storage,
        )
        return train_adapter(config)


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("train-adapter")
