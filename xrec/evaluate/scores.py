"""What an evaluation starts from: one row for each held-out pair, scored by the job.

The job makes the rows (explanations from the backfill, NLLs from the language model, planted aspects from the
dataset); all of xrec.evaluate only reads them.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

# `pairs.parquet` of the evaluation artifact.
SCORED_PAIRS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("explanation", pa.string(), nullable=False),
        pa.field("nll_own", pa.float64(), nullable=False),
        pa.field("nll_shuffled", pa.float64(), nullable=False),
        pa.field("shuffled_explanation", pa.string()),
        pa.field("aspect", pa.string()),
        pa.field("aspects", pa.list_(pa.field("element", pa.string(), nullable=False))),
    ]
)


@dataclass(frozen=True)
class ScoredPair:
    """A held-out pair: `reference` is the text it came with, `explanation` the generated one.

    `nll_own` and `nll_shuffled` are the reference's mean negative log-likelihood, nats per token, with the user's own
    vector and with another user's. `shuffled_explanation` is generated with that other vector; None: not generated.
    `aspect` is the right aspect to name and `aspects` all of the item's; None outside the generated sample.
    """

    user_id: str
    item_id: str
    reference: str
    explanation: str
    nll_own: float
    nll_shuffled: float
    shuffled_explanation: str | None = None
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("nll_own", "nll_shuffled"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(
                    f"pair ({self.user_id!r}, {self.item_id!r}): {name} is {getattr(self, name)}, expected a finite number of nats per token"
                )
        if self.aspect is not None and self.aspect not in (self.aspects or ()):
            raise ValueError(
                f"pair ({self.user_id!r}, {self.item_id!r}): aspect {self.aspect!r} is not among the item's aspects {self.aspects}"
            )


def scored_pairs_table(pairs: Sequence[ScoredPair]) -> pa.Table:
    """The pairs as a table of the schema SCORED_PAIRS, in their order."""
    return pa.Table.from_pylist([asdict(pair) for pair in pairs], schema=SCORED_PAIRS)


def scored_pairs_from_table(table: pa.Table) -> list[ScoredPair]:
    """What `scored_pairs_table` was made from."""
    return [
        ScoredPair(
            **{**row, "aspects": tuple(row["aspects"]) if row["aspects"] is not None else None}
        )
        for row in table.to_pylist()
    ]
