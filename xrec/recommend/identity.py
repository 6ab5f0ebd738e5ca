"""What a run's recommendations depend on; it is known before the work, and decides whose an output
is.
"""

from xrec.bulk import Identity
from xrec.config.backfill import RecommendConfig
from xrec.data.cold_start import read_cold_start
from xrec.errors import ConfigError
from xrec.graph.artifact import check_graph_of_dataset
from xrec.storage import Kind, manifest_of

KIND: Kind = "recommendations"


def identify_recommendations(config: RecommendConfig) -> Identity:
    """The run that `config` asks for; reads manifests and the tables of a cold start.

    Raises ArtifactNotFoundError without dataset or graph, ArtifactMismatchError if the graph is of
    another dataset, ConfigError if k is more than there are items or user_ids is empty.
    """
    dataset, graph = manifest_of(config, "dataset"), manifest_of(config, "graph")
    check_graph_of_dataset(graph, dataset, config.artifact("graph"), config.artifact("dataset"))
    num_items = graph.row_counts["items"]
    if config.k > num_items:
        raise ConfigError(f"k = {config.k}, but the dataset has {num_items} items; lower k")
    if config.user_ids is not None and not config.user_ids:
        raise ConfigError("user_ids is an empty list; name users, or leave it out for all")
    user_ids = None if config.user_ids is None else sorted(set(config.user_ids))
    inputs = {"dataset": dataset.fingerprint, "graph": graph.fingerprint}
    if config.cold_start is not None:
        inputs["cold_start"] = read_cold_start(config.cold_start, config.storage).fingerprint
    return Identity(kind=KIND, config={"k": config.k, "user_ids": user_ids}, inputs=inputs)
