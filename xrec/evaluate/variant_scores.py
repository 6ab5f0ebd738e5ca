"""What an ablation starts from: each variant's scores of the same held-out pairs, kept as an artifact, so that a run goes on by variant."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from xrec.storage import Location, Manifest, read_manifest, read_table, write_manifest, write_table

# `pairs.parquet` of a variant's scores, and with `variant` before the rest that of the ablation.
VARIANT_SCORES = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("nll_own", pa.float64(), nullable=False),
        pa.field("nll_shuffled", pa.float64(), nullable=False),
        pa.field("explanation", pa.string()),
        pa.field("aspect", pa.string()),
    ]
)

_PAIRS = "pairs.parquet"


@dataclass(frozen=True)
class VariantScore:
    """A held-out pair under one variant: the reference's NLL, nats a token, with the user's own vector and with another user's.

    `explanation` is a text made with the own vector; None: not asked for. `aspect`: the planted one; None outside the generated sample.
    """

    user_id: str
    item_id: str
    reference: str
    nll_own: float
    nll_shuffled: float
    explanation: str | None = None
    aspect: str | None = None

    @property
    def pair(self) -> tuple[str, str]:
        """By which the scores of variants are matched."""
        return self.user_id, self.item_id


def write_scores(
    location: Location,
    scores: Sequence[VariantScore],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Manifest:
    """Write one variant's scores."""
    table = pa.Table.from_pylist([asdict(score) for score in scores], schema=VARIANT_SCORES)
    files = {_PAIRS: write_table(location / _PAIRS, table, VARIANT_SCORES)}
    return write_manifest(
        location,
        "scores",
        config=config,
        inputs=inputs,
        files=files,
        row_counts={"pairs": len(scores)},
    )


def read_scores(location: Location) -> list[VariantScore]:
    """What `write_scores` wrote; raises ArtifactNotFoundError."""
    read_manifest(location, "scores")
    return [
        VariantScore(**row) for row in read_table(location / _PAIRS, VARIANT_SCORES).to_pylist()
    ]


def of_the_same_pairs(
    scores: Mapping[str, Sequence[VariantScore]],
) -> dict[str, list[VariantScore]]:
    """Each variant's scores of the pairs that all variants have, in the first one's order; where a prompt was too long, a pair is lacking."""
    by_pair = {variant: {score.pair: score for score in rows} for variant, rows in scores.items()}
    shared = [
        score.pair
        for score in next(iter(scores.values()))
        if all(score.pair in rows for rows in by_pair.values())
    ]
    return {variant: [rows[pair] for pair in shared] for variant, rows in by_pair.items()}
