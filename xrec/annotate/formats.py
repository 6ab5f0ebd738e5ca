"""The stages, and the columns of their tables."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa

from xrec.bulk import RowFormat
from xrec.storage import Kind

KIND: Kind = "annotations"
Stage = Literal["items", "users", "pairs"]
STAGES: tuple[Stage, ...] = ("items", "users", "pairs")
NO_REVIEWS, EMPTY_REVIEW = "no_reviews", "empty_review"
MERGED = "merged_aspects.json"
"""Aspects of the vocabulary that are another one by their vectors, and that one."""


def _text(name: str, comment: str) -> pa.Field:
    return pa.field(name, pa.string(), metadata={"comment": comment})


ASPECT_LIST = pa.list_(
    pa.struct([(name, pa.string()) for name in ("aspect", "opinion", "sentiment")])
)
_KEY = _text("content_key", "hash of all that the text depends on: reviews, texts, annotator")
_REPLY = pa.schema([_text("reply", "what the annotator had written, as it was")])
KEYS: Mapping[Stage, tuple[str, ...]] = {
    "items": ("item_id",),
    "users": ("user_id",),
    "pairs": ("user_id", "item_id"),
}
_OK: Mapping[Stage, pa.Schema] = {
    "items": pa.schema(
        [
            _text("title", "the source's title, or one that the annotator made"),
            _text("profile", "what the item is like, from training reviews"),
            pa.field(
                "title_is_made",
                pa.bool_(),
                metadata={"comment": "whether the annotator made the title"},
            ),
            _KEY,
        ]
    ),
    "users": pa.schema([_text("profile", "what the user likes, from training reviews"), _KEY]),
    "pairs": pa.schema(
        [
            _text(
                "split",
                "train, validation or test; a held-out explanation is a reference. Or low_rated: a "
                "review below min_rating, of which only the aspects count",
            ),
            _text(
                "explanation",
                "why the user would enjoy the item, from the pair's review; empty if that praises "
                "nothing",
            ),
            pa.field(
                "aspects",
                ASPECT_LIST,
                metadata={"comment": "what the review speaks of, in the annotator's words"},
            ),
            _KEY,
        ]
    ),
}


def stage_format(stage: Stage, reasons: Sequence[str]) -> RowFormat:
    """The columns of a stage's table; `reasons` are the annotator's own."""
    own = {"items": (NO_REVIEWS,), "users": (), "pairs": (EMPTY_REVIEW,)}
    return RowFormat(
        keys=KEYS[stage],
        ok=_OK[stage],
        failed=_REPLY,
        reasons=tuple(dict.fromkeys((*own[stage], *reasons))),
        error_reason="annotator_error",
    )
