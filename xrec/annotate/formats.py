"""The formats of the output: the stages' tables, and the run's identity in `run.json`."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from xrec.annotate.annotator import AnnotatorSpec, Stage
from xrec.bulk import Identity, RowFormat
from xrec.config import REVIEW_COLUMNS, AnnotateConfig, identity_of
from xrec.errors import StorageNotFoundError
from xrec.storage import RUN_RECORD, Kind, Location

KIND: Kind = "annotations"
NO_REVIEWS, EMPTY_REVIEW, SOLICITS = "no_reviews", "empty_review", "solicits"

KEYS: Mapping[Stage, tuple[str, ...]] = {
    "items": ("item_id",),
    "users": ("user_id",),
    "pairs": ("user_id", "item_id"),
}
ASPECT_LIST = pa.list_(
    pa.struct([(name, pa.string()) for name in ("aspect", "opinion", "sentiment")])
)
_LEFT_OUT = pa.list_(pa.struct([("id", pa.string()), ("profile", pa.string())]))
_WITHOUT = "for training pairs: profiles, each written without the review of one of these {}"
_REPLY = {"reply": "what the annotator had written, unchanged"}
_TABLES: Mapping[Stage, Mapping[str, str]] = {
    "items": {
        "title": "the source's title, or one that the annotator made",
        "profile": "what the item is like, from training reviews",
        "title_is_made": "whether the annotator made the title",
        "left_out": _WITHOUT.format("users"),
    },
    "users": {
        "profile": "what the user likes, from training reviews",
        "left_out": _WITHOUT.format("items"),
    },
    "pairs": {
        "split": "train, validation or test, where a held-out explanation is a reference; or "
        "low_rated, for a review below min_rating, which has no explanation",
        "explanation": "why the user would enjoy the item, from the pair's review; empty if the "
        "review has no praise",
        "aspects": "what the review mentions, in the annotator's words",
    },
}
_KEY = {
    "content_key": "hashes of what the text depends on (reviews, texts, annotator): "
    "without the reviews of a profile, and with them"
}
_TYPES = {"title_is_made": pa.bool_(), "left_out": _LEFT_OUT, "aspects": ASPECT_LIST}


def stage_format(stage: Stage, reasons: Sequence[str]) -> RowFormat:
    """Return the columns of a stage's table; `reasons` are those of the annotator."""
    return RowFormat(
        keys=KEYS[stage],
        ok=_schema({**_TABLES[stage], **_KEY}),
        failed=_schema(_REPLY),
        reasons=(NO_REVIEWS, EMPTY_REVIEW, SOLICITS, *reasons),
        error_reason="annotator_error",
    )


def _schema(comments: Mapping[str, str]) -> pa.Schema:
    return pa.schema(
        [
            pa.field(name, _TYPES.get(name, pa.string()), metadata={"comment": comment})
            for name, comment in comments.items()
        ]
    )


def identify_annotations(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    files: Mapping[str, str],
    stage: Stage | None = None,
) -> Identity:
    """Return the identity of the run that `config` describes, or of one of its stages.

    files: the hash of each file of the source, by table.
    """
    settings = identity_of(config)
    of_stage = {} if stage is None else {"stage": stage}
    return Identity(
        kind=KIND,
        config={**settings, "annotator": dict(spec.settings), **of_stage},
        inputs={**files, **spec.inputs},
    )


def begun_files(output: Location) -> dict[str, str]:
    """Return the hashes of a started run's source files, by table; empty if it has not started."""
    try:
        inputs: dict[str, str] = json.loads((output / RUN_RECORD).read_text())["inputs"]
    except StorageNotFoundError:
        return {}
    return {table: inputs[table] for table in REVIEW_COLUMNS if table in inputs}
