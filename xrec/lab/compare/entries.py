"""The entries of a comparison: a contestant with a seed, each in a folder of its own."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.config.compare import CompareConfig
from xrec.errors import ArtifactMismatchError
from xrec.storage import (
    MANIFEST,
    Kind,
    Location,
    Manifest,
    finished,
    location_of,
    write_manifest,
    write_table,
)

logger = logging.getLogger("xrec")


@dataclass(frozen=True)
class Entry:
    """A contestant with a seed.

    seed: None if the contestant's texts do not depend on it; there is one entry of it then.
    location: the folder that holds what the contestant makes and its scores.
    """

    contestant: str
    seed: int | None
    location: Location

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.contestant if self.seed is None else f"{self.contestant}-{self.seed}"

    @property
    def drawn_with(self) -> int:
        """The seed to draw with, where one is asked for."""
        return self.seed or 0


def entries_of(config: CompareConfig) -> dict[str, list[Entry]]:
    """The entries of each contestant, in the order of the config, a seed each."""
    comparison = location_of(config, "comparison")
    return {
        contestant: [
            _entry(comparison, contestant, seed)
            for seed in (config.seeds if config.is_seeded(contestant) else (None,))
        ]
        for contestant in config.contestants
    }


def _entry(comparison: Location, contestant: str, seed: int | None) -> Entry:
    entry = Entry(contestant, seed, comparison)
    return Entry(contestant, seed, comparison / entry.name)


def kept_table(
    location: Location, kind: Kind, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[pa.Table, Manifest] | None:
    """What `keep_table` kept; None without any, or if it is of other settings or inputs.

    Such a table is made again: texts cost much more than what is measured of them.
    """
    try:
        manifest = finished(location, kind, config, inputs)
    except ArtifactMismatchError as error:
        logger.info("%s; they are made again", str(error).rsplit("\n", 1)[0])
        return None
    if manifest is None:
        return None
    data = (location / f"{kind}.parquet").read_bytes()
    return pq.read_table(pa.BufferReader(data)), manifest


def keep_table(
    location: Location,
    kind: Kind,
    table: pa.Table,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write the table as an artifact of its own, in the place of another one."""
    (location / MANIFEST).delete()  # it is of another table
    name = f"{kind}.parquet"
    return write_manifest(
        location,
        kind,
        config=config,
        inputs=inputs,
        files={name: write_table(location / name, table, table.schema)},
        row_counts={"pairs": table.num_rows},
    )
