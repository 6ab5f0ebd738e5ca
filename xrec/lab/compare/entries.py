"""The entries of a comparison, each with a seed in a folder of its own, and the pairs of all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from xrec.config import ADAPTERS, BASELINES, CompareConfig, identity_of
from xrec.data import Dataset, HeldOutPair, drawn_pairs, held_out_pairs
from xrec.errors import DataError
from xrec.lab.baselines.baseline import recipe_of
from xrec.lab.measures.measures import metrics_identity
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    content_hash,
    location_of,
    manifest_of,
    open_location,
    parquet_bytes,
)


@dataclass(frozen=True)
class Entry:
    """An entry with a seed.

    seed: None if its texts do not depend on it; it is there once then.
    """

    name: str
    seed: int | None
    comparison: Location

    @property
    def title(self) -> str:
        """The name with the seed, which is the folder's name."""
        return self.name if self.seed is None else f"{self.name}-{self.seed}"

    @property
    def location(self) -> Location:
        """The folder that holds what is made of it, and its scores."""
        return self.comparison / self.title


def entries_of(config: CompareConfig) -> list[Entry]:
    """All entries, in the order of the config, each with its seeds in order."""
    comparison = location_of(config, "comparison")
    return [
        Entry(name, seed, comparison)
        for name in config.entries
        for seed in (config.seeds if config.is_seeded(name) else (None,))
    ]


def comparison_identity(
    config: CompareConfig, base_model: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and the inputs of a comparison, known before the work.

    base_model: the fingerprint of the language model, None if no entry has one.

    Raises ArtifactNotFoundError if an input is not finished, StorageNotFoundError if texts are
    missing.
    """
    names = set(config.entries)
    elsewhere = {name: config.texts[name] for name in config.entries if name in config.texts}
    unused = set() if config.has_language_model else {"llm", "engine", "decoding", "prompt"}
    unused |= set() if names & set(ADAPTERS) else {"model", "deepspeed"}
    settings = {
        **{name: each for name, each in identity_of(config).items() if name not in unused},
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "texts": {name: identity_of(texts) for name, texts in elsewhere.items()},
        "baselines": {
            kind: asdict(recipe_of(kind, config.training)) for kind in BASELINES if kind in names
        },
    }
    dataset = manifest_of(config, "dataset")
    inputs = {"dataset": dataset.fingerprint}
    if config.has_language_model or "nearest" in names:
        inputs["graph"] = manifest_of(config, "graph").fingerprint
    if config.has_language_model:
        inputs["base_model"] = base_model or ""
    for name, texts in elsewhere.items():
        content = open_location(texts.uri, config.storage).read_bytes()
        inputs[f"texts {name}"] = content_hash(content)
    return settings, inputs


@dataclass(frozen=True)
class ComparedPairs:
    """The held-out pairs that all entries write for, and the URI of the table of their ids."""

    pairs: tuple[HeldOutPair, ...]
    uri: str
    fingerprint: str


def compared_pairs(config: CompareConfig, dataset: Dataset) -> list[HeldOutPair]:
    """The split's explained pairs, or those of them that are drawn.

    Raises DataError if they are of fewer than two users: there is no interval then.
    """
    pairs = drawn_pairs(held_out_pairs(dataset, config.split), config.max_pairs)
    if len({pair.user_id for pair in pairs}) < 2:
        raise DataError(
            f"{config.artifact('dataset')}: {len(pairs)} explained pairs in split "
            f"{config.split!r}, of fewer than two users, so there are no references to compare "
            "with; choose the other split, or prepare the dataset with a larger share for it",
            code="no_references",
            key="split",
            saw=config.split,
        )
    return pairs


def write_pairs(comparison: Location, pairs: Sequence[HeldOutPair]) -> ComparedPairs:
    """Write the table of the pairs, unless it is there.

    Its name has its fingerprint, so a run of other pairs leaves it as it is.
    """
    table = pa.Table.from_pylist(
        [{"user_id": pair.user_id, "item_id": pair.item_id} for pair in pairs], PAIRS
    )
    data = parquet_bytes(table, PAIRS)
    fingerprint = content_hash(data)
    location = comparison / f"pairs-{fingerprint[:16]}.parquet"
    if not location.is_file() or location.read_bytes() != data:
        location.write_bytes(data)
    return ComparedPairs(tuple(pairs), location.uri, fingerprint)
