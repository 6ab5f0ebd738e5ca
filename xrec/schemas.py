"""Pinned schemas of every table that xrec writes. A change here is a change of SCHEMA_VERSION and of CHANGELOG.md."""

import pyarrow as pa


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in columns.items()])


USERS = _schema(user_id=pa.string(), user_index=pa.int32(), profile=pa.string())
ITEMS = _schema(item_id=pa.string(), item_index=pa.int32(), title=pa.string(), profile=pa.string())
INTERACTIONS = _schema(user_index=pa.int32(), item_index=pa.int32(), split=pa.string())
EXPLANATIONS = _schema(
    user_index=pa.int32(), item_index=pa.int32(), explanation=pa.string(), split=pa.string()
)

# One row for each input row that was left out: `line` counts from 1 (0: the file as a whole), `text` is its beginning.
REJECTED = _schema(file=pa.string(), line=pa.int64(), reason=pa.string(), text=pa.string())

# Only in the dataset of the generated sample: what is planted, for aspect_accuracy. `aspects` are the phrases of the
# item's aspects; `aspect` is the one that the user likes most among them, and so the right one to name.
PLANTED = pa.schema(
    [
        pa.field("user_index", pa.int32(), nullable=False),
        pa.field("item_index", pa.int32(), nullable=False),
        pa.field("aspect", pa.string(), nullable=False),
        pa.field(
            "aspects", pa.list_(pa.field("element", pa.string(), nullable=False)), nullable=False
        ),
    ]
)

# Of each user the best unseen items: `rank` from 1, `score` the dot product of the vectors; by user_id and rank.
RECOMMENDATIONS = _schema(
    user_id=pa.string(), item_id=pa.string(), rank=pa.int32(), score=pa.float32()
)

PAIRS = _schema(user_id=pa.string(), item_id=pa.string())
# `content_key` is a hash of all that the explanation depends on (xrec.backfill.content_key).
GENERATED = _schema(
    user_id=pa.string(),
    item_id=pa.string(),
    explanation=pa.string(),
    num_prompt_tokens=pa.int32(),
    num_generated_tokens=pa.int32(),
    finish_reason=pa.string(),
    model_fingerprint=pa.string(),
    content_key=pa.string(),
)
# A pair without an explanation, why, and the texts that its prompt was made of; of an unknown user or item they are empty.
FAILED = _schema(
    user_id=pa.string(),
    item_id=pa.string(),
    reason=pa.string(),
    message=pa.string(),
    user_profile=pa.string(),
    item_title=pa.string(),
    item_profile=pa.string(),
)
