"""What several contestants read and none of them pays for in the table: the graph's vectors."""

from xrec.config.comparison import ComparisonConfig
from xrec.config.contestants import ADAPTERS
from xrec.errors import StorageNotFoundError
from xrec.graph.artifact import read_metrics
from xrec.storage import location_of, manifest_of


def shared_costs(config: ComparisonConfig) -> tuple[str, ...]:
    """A sentence on the graph's training, if a contestant has its vectors."""
    readers = [name for name in config.contestants if name in (*ADAPTERS, "nearest")]
    if not readers:
        return ()
    graph = manifest_of(config, "graph")
    num_vectors = sum(graph.row_counts.values())
    num_parameters = num_vectors * graph.config["model"]["embedding_dim"]
    return (
        f"The graph, whose vectors {', '.join(readers)} read, is not in their costs: "
        f"{num_parameters:,} parameters, which the peers train with all else{_seconds(config)}.",
    )


def _seconds(config: ComparisonConfig) -> str:
    """The time of its epochs; "" for a graph without a history, which is only a log."""
    try:
        rows = read_metrics(location_of(config, "graph"))
    except StorageNotFoundError:
        return ""
    return f", and {sum(row.get('seconds', 0.0) for row in rows):,.0f} s of training"
