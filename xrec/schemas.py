"""The schemas of all tables that xrec writes.

Whoever changes one changes SCHEMA_VERSION and CHANGELOG.md too.
"""

import pyarrow as pa


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in columns.items()])


USERS = _schema(user_id=pa.string(), user_index=pa.int32(), profile=pa.string())
ITEMS = _schema(item_id=pa.string(), item_index=pa.int32(), title=pa.string(), profile=pa.string())
INTERACTIONS = _schema(user_index=pa.int32(), item_index=pa.int32(), split=pa.string())
EXPLANATIONS = _schema(
    user_index=pa.int32(), item_index=pa.int32(), explanation=pa.string(), split=pa.string()
)

# One row for each input row that was left out. `line` counts from 1; 0 stands for the whole file.
# `text` is the beginning of the row.
REJECTED = _schema(file=pa.string(), line=pa.int64(), reason=pa.string(), text=pa.string())

# In the dataset of the generated sample only: what the town planted, for aspect_accuracy.
# `aspects` are the phrases of the item's aspects; `aspect` is the one of them that the user likes
# most, which is the right one to name.
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

# The best unseen items of each user, by user_id and rank. `rank` counts from 1; `score` is the dot
# product of the vectors.
RECOMMENDATIONS = _schema(
    user_id=pa.string(), item_id=pa.string(), rank=pa.int32(), score=pa.float32()
)

PAIRS = _schema(user_id=pa.string(), item_id=pa.string())
# `content_key` is a hash of everything that the explanation depends on (xrec.backfill.content_key).
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
# A pair that could not be explained, the reason, and the texts that its prompt was made of; the
# texts of an unknown user or item are empty.
FAILED = _schema(
    user_id=pa.string(),
    item_id=pa.string(),
    reason=pa.string(),
    message=pa.string(),
    user_profile=pa.string(),
    item_title=pa.string(),
    item_profile=pa.string(),
)
