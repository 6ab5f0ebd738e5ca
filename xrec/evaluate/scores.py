"""Held-out pairs with their scores: what metrics and reports are computed from.

The jobs make them from explanations, from the language model's likelihoods and from what is planted
in the sample; the rest of xrec.evaluate only reads them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

# `pairs.parquet` of an evaluation.
SCORED_PAIRS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("reference", pa.string(), nullable=False),
        pa.field("explanation", pa.string()),
        pa.field("nll_own", pa.float64()),
        pa.field("nll_shuffled", pa.float64()),
        pa.field("shuffled_explanation", pa.string()),
        pa.field("aspect", pa.string()),
        pa.field("aspects", pa.list_(pa.field("element", pa.string(), nullable=False))),
        pa.field("item_title", pa.string(), nullable=False),
        pa.field("names_item", pa.bool_()),
        pa.field("other_title", pa.string()),
        pa.field("reference_names_item", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class ScoredPair:
    """A held-out pair: `reference` is the text it came with, `explanation` the generated one.

    `explanation` and `shuffled_explanation`, which is generated with another user's vector, are
    None if they were not asked for, and "" if none was written or a rule refused it. `nll_own` and
    `nll_shuffled` are the reference's mean negative log-likelihood, nats a token, with the user's
    own vector and with another user's; both are None if the prompt is too long. `aspect` is the
    right aspect to name and `aspects` are all of the item's; both are None outside the generated
    sample. `names_item` and `reference_names_item` say whether explanation and reference name the
    item by its title; they are None for an item without a title. `other_title` is the title of
    another item that the explanation names, if it does.
    """

    user_id: str
    item_id: str
    reference: str
    explanation: str | None
    nll_own: float | None
    nll_shuffled: float | None
    shuffled_explanation: str | None = None
    aspect: str | None = None
    aspects: tuple[str, ...] | None = None
    item_title: str = ""
    names_item: bool | None = None
    other_title: str | None = None
    reference_names_item: bool | None = None

    def __post_init__(self) -> None:
        for name in ("nll_own", "nll_shuffled"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(
                    f"pair ({self.user_id!r}, {self.item_id!r}): {name} is {value}, expected a "
                    "finite number of nats per token, or None"
                )
        if (self.nll_own is None) != (self.nll_shuffled is None):
            raise ValueError(
                f"pair ({self.user_id!r}, {self.item_id!r}): nll_own is {self.nll_own} and "
                f"nll_shuffled {self.nll_shuffled}; expected both or neither"
            )
        if self.aspect is not None and self.aspect not in (self.aspects or ()):
            raise ValueError(
                f"pair ({self.user_id!r}, {self.item_id!r}): aspect {self.aspect!r} is not among "
                f"the item's aspects {self.aspects}"
            )

    @property
    def text(self) -> str:
        """The explanation, "" if there is none."""
        return self.explanation or ""

    @property
    def gain(self) -> float | None:
        """How much likelier the reference is with the own vector, nats a token."""
        if self.nll_own is None or self.nll_shuffled is None:
            return None
        return self.nll_shuffled - self.nll_own


@dataclass(frozen=True)
class Coverage:
    """How many held-out pairs the backfill explained, and how many it did not, by reason.

    A pair without a text counts as an empty text in every metric. A text that names another item is
    refused in the backfill, so this is where such texts are counted.
    """

    num_explained: int
    failed: Mapping[str, int]

    @property
    def sentence(self) -> str:
        """The counts in words."""
        num_failed = sum(self.failed.values())
        num_pairs = self.num_explained + num_failed
        if not num_failed:
            return (
                f"All {num_pairs:,} held-out pairs of the backfill have a text; none was refused."
            )
        by_reason = sorted(self.failed.items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in by_reason)
        return (
            f"Of {num_pairs:,} held-out pairs of the backfill, {num_failed:,} have no text, which "
            f"was refused or failed, and count as empty texts: {reasons}."
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
