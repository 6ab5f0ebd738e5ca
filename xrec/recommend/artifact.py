"""The artifact `recommendations`: what it depends on, and its rows.

Its files `part-N.parquet` have the schema RECOMMENDATIONS, sorted by user and rank.
"""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.config import RecommendConfig, identity_of
from xrec.errors import ConfigError, install_command
from xrec.neighbors.identity import find_neighbors, fingerprints, ranking_manifests
from xrec.recommend.eligible import table_inputs
from xrec.schemas import RECOMMENDATIONS
from xrec.storage import Location, manifest_of, read_content, read_manifest


def identify(
    config: RecommendConfig, find_spec: Callable[[str], object] = importlib.util.find_spec
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and the inputs that recommendations depend on.

    Raises ArtifactNotFoundError if the dataset or both graph and neighbors are missing,
    ArtifactMismatchError if these were made from another dataset, ConfigError if k exceeds the
    number of items or the index's package is not installed, StorageError if a table of eligible or
    unnamed items cannot be read.
    """
    if config.index == "hnsw" and find_spec("faiss") is None:
        raise ConfigError(
            "index=hnsw needs faiss, which is not installed; "
            f"run: {install_command('index')}, or set index=exact",
            code="package_missing",
            key="index",
            saw=config.index,
        )
    manifests = ranking_manifests(config)
    num_items = manifests["dataset"].row_counts["items"]
    if (neighbors := find_neighbors(config, manifests)) is not None:
        manifests["neighbors"] = neighbors
    elif "graph" not in manifests:
        manifest_of(config, "graph")  # raises that there is none
    if config.k > num_items:
        raise ConfigError(
            f"k = {config.k}, but the dataset has {num_items} items; lower k",
            code="too_large",
            key="k",
            saw=config.k,
        )
    return identity_of(config), fingerprints(manifests) | table_inputs(config)


def read_recommendations(location: Location) -> Iterator[pa.Table]:
    """Yield the best items of each user, one table per part.

    The tables have the schema RECOMMENDATIONS, sorted by user and rank. Raises
    ArtifactNotFoundError if the artifact is not finished, ArtifactMismatchError if a file was
    changed.
    """
    manifest = read_manifest(location, "recommendations")
    for name in sorted(manifest.files):
        data = read_content(location, manifest, name, remedy="run xrec recommend again")
        yield parse_rows(data)


def parse_rows(data: bytes) -> pa.Table:
    """Return the rows of a file."""
    return pq.read_table(pa.BufferReader(data)).cast(RECOMMENDATIONS)
