"""What a contestant has made: its texts, why some are missing, and what they cost.

Texts that no bulk run writes are an artifact of kind `texts`, a row a pair.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xrec.backfill import read, read_failed
from xrec.config.shared import StorageConfig
from xrec.lab.compare.pairs import PairIds
from xrec.storage import Location, Manifest, finished, read_table, write_manifest, write_table

TEXTS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
    ]
)
_FILE = "texts.parquet"
NO_TEXT = "no_text"


@dataclass(frozen=True)
class Costs:
    """What a contestant costs; None where it was not measured, or there was no such work.

    training_seconds: by the clock, of the epochs with their validations.
    num_trained_parameters: 0 where nothing is trained, None of texts from elsewhere.
    pairs_per_second: texts that a process writes in a second.
    """

    training_seconds: float | None = None
    num_trained_parameters: int | None = None
    pairs_per_second: float | None = None


@dataclass(frozen=True)
class Made:
    """The texts of an entry by (user_id, item_id), None where it has none."""

    texts: Mapping[PairIds, str | None]
    fingerprint: str
    failed: Mapping[str, int] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)


def keep_texts(
    location: Location,
    texts: Mapping[PairIds, str | None],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write the texts as an artifact, and return its manifest.

    Nothing is written if it is there. Raises ArtifactMismatchError if another run's texts are.
    """
    if (done := finished(location, "texts", config, inputs)) is not None:
        return done
    rows = [{"user_id": ids[0], "item_id": ids[1], "text": text} for ids, text in texts.items()]
    table = pa.Table.from_pylist(rows, TEXTS)
    return write_manifest(
        location,
        "texts",
        config=config,
        inputs=inputs,
        files={_FILE: write_table(location / _FILE, table, TEXTS)},
        row_counts={"texts": sum(text is not None for text in texts.values())},
    )


def kept_texts(location: Location, manifest: Manifest) -> Made:
    """What `keep_texts` wrote."""
    rows = read_table(location / _FILE, TEXTS).to_pylist()
    texts = {(row["user_id"], row["item_id"]): row["text"] for row in rows}
    missing = sum(text is None for text in texts.values())
    return Made(texts, manifest.fingerprint, {NO_TEXT: missing} if missing else {})


def texts_of_run(location: Location, manifest: Manifest, storage: StorageConfig) -> Made:
    """The texts of a finished bulk run of explanations; its costs are not looked at."""
    source = (location.uri, manifest.version, storage)
    rows = read(*source).to_table(columns=["user_id", "item_id", "explanation"]).to_pylist()
    failed = read_failed(*source).to_table(columns=["user_id", "item_id", "reason"]).to_pylist()
    texts: dict[PairIds, str | None] = {
        (row["user_id"], row["item_id"]): row["explanation"] for row in rows
    }
    reasons: dict[str, int] = {}
    for row in failed:
        texts[row["user_id"], row["item_id"]] = None
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return Made(texts, manifest.fingerprint, dict(sorted(reasons.items())))
