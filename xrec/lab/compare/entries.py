"""The entries of a comparison, each with a seed in a folder of its own, and the pairs of all."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from xrec.config.compare import CompareConfig
from xrec.data.dataset import Dataset, HeldOutPair, held_out_pairs
from xrec.data.splits import drawn_pairs
from xrec.errors import DataError
from xrec.lab.measures.measures import metrics_anywhere
from xrec.llm.source import anywhere
from xrec.schemas import PAIRS
from xrec.storage import Location, content_hash, location_of, parquet_bytes


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


def config_anywhere(config: CompareConfig) -> CompareConfig:
    """The config of a process, which may have another working directory: no path is relative."""
    names = ("dataset", "aspects", "comparison")
    uris = {name: location_of(config, name).shared_uri for name in names}
    llm = None if config.llm is None else anywhere(config.llm)
    return config.model_copy(
        update={"metrics": metrics_anywhere(config.metrics), "llm": llm, **uris}
    )


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
            "with; choose the other split, or prepare the dataset with a larger share for it"
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
    return ComparedPairs(tuple(pairs), location.shared_uri, fingerprint)
