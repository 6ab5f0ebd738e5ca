"""The schemas of all tables that xrec writes.

A change here also changes SCHEMA_VERSION and CHANGELOG.md.
"""

import functools

import pyarrow as pa


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, dtype, nullable=False) for name, dtype in columns.items()])


USERS = _schema(user_id=pa.string(), user_index=pa.int32(), profile=pa.string())
ITEMS = _schema(item_id=pa.string(), item_index=pa.int32(), title=pa.string(), profile=pa.string())
# The indices of users and items sorted by the bytes of their IDs, in a dataset that extends an
# earlier one and so has its rows in another order. Rows whose ID is gone are left out.
USER_ORDER = _schema(user_index=pa.int32())
ITEM_ORDER = _schema(item_index=pa.int32())
# IDs that are gone whose index is kept for them, and for how many datasets they have been gone.
USER_HOLES = _schema(user_id=pa.string(), user_index=pa.int32(), num_datasets=pa.int32())
ITEM_HOLES = _schema(item_id=pa.string(), item_index=pa.int32(), num_datasets=pa.int32())
INTERACTIONS = _schema(user_index=pa.int32(), item_index=pa.int32(), split=pa.string())
# Pairs that are never recommended: items that the user returned or rated badly.
DISLIKES = _schema(user_index=pa.int32(), item_index=pa.int32())
EXPLANATIONS = _schema(
    user_index=pa.int32(), item_index=pa.int32(), explanation=pa.string(), split=pa.string()
)

# The profiles of explained training pairs, written without the pair's own review.
TRAINING_PROFILES = _schema(
    user_index=pa.int32(), item_index=pa.int32(), user_profile=pa.string(), item_profile=pa.string()
)

# What `xrec annotate` keeps of the reviews. `rating` is on the source's own scale; `helpful` is the
# number of votes.
_TEXTS = dict.fromkeys(("user_id", "item_id", "review", "summary", "split"), pa.string())
_FIGURES = dict.fromkeys(("rating", "time", "helpful"), pa.float64())  # null if unknown
REVIEWS = pa.schema([*_schema(**_TEXTS), *_FIGURES.items()])

# The columns of a source's table of items; empty if unknown.
ITEM_DETAILS = _schema(item_id=pa.string(), title=pa.string(), details=pa.string())

# The vocabulary of aspects that reviews of the catalog mention. The counts are of training reviews
# or of profiles (`Dataset.aspects_from`).
_ASPECT_COUNTS = dict.fromkeys(("num_reviews", "num_positive", "num_negative"), pa.int32())
ASPECTS = _schema(aspect_index=pa.int32(), aspect=pa.string(), **_ASPECT_COUNTS)
ITEM_ASPECTS = _schema(item_index=pa.int32(), aspect_index=pa.int32(), **_ASPECT_COUNTS)
# Counts of what users said about items that they disliked, such as reviews below the minimum
# rating. These pairs are not interactions and not counted elsewhere.
LOW_RATED_ASPECTS = ITEM_ASPECTS
USER_ASPECTS = _schema(user_index=pa.int32(), aspect_index=pa.int32(), **_ASPECT_COUNTS)
LOW_RATED_USER_ASPECTS = USER_ASPECTS  # the same, by the users
# The aspects that the review of an explained pair mentions, in its order. Those of held-out pairs
# are references, and nothing is trained on them. `sentiment` is positive, neutral, or negative.
EXPLANATION_ASPECTS = _schema(
    user_index=pa.int32(),
    item_index=pa.int32(),
    aspect_index=pa.int32(),
    opinion=pa.string(),
    sentiment=pa.string(),
    split=pa.string(),
)

# One row per rejected input row. `line` counts from 1; 0 is the whole file. `text` is the beginning
# of the row.
REJECTED = _schema(file=pa.string(), line=pa.int64(), reason=pa.string(), text=pa.string())

# The planted preferences, for aspect_accuracy; only in the dataset of the generated sample.
# `aspects` are the phrases of the item's aspects; `aspect` is the one that the user likes most, so
# an explanation should name it.
PLANTED = _schema(
    user_index=pa.int32(),
    item_index=pa.int32(),
    aspect=pa.string(),
    aspects=pa.list_(pa.field("element", pa.string(), nullable=False)),
)

# An aspect of an item, chosen for a user (xrec.data.AspectEvidence), and whether the text
# names it.
_COUNTS = ("item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
EVIDENCE = pa.struct(
    _schema(
        aspect=pa.string(),
        **dict.fromkeys(_COUNTS, pa.int32()),
        opinion=pa.string(),
        is_named=pa.bool_(),
    )
)


def _column(
    name: str, type_: pa.DataType, comment: str, unit: str | None = None, *, nullable: bool = False
) -> pa.Field:
    """Return a column whose meaning and unit are stored in the files and tables."""
    metadata = {"comment": comment, **({"unit": unit} if unit else {})}
    return pa.field(name, type_, nullable=nullable, metadata=metadata)


_nullable = functools.partial(_column, nullable=True)

PAIRS = pa.schema(
    [
        _column("user_id", pa.string(), "ID of the user, as in the dataset"),
        _column("item_id", pa.string(), "ID of the item, as in the dataset"),
    ]
)
# A recommender's rank and score of a pair; null if the pairs came without them.
RANKS = pa.schema(
    [
        _nullable("rank", pa.int32(), "1 is the user's best item"),
        _nullable(
            "score",
            pa.float32(),
            "how much the recommender expects the user to like the item; for xrec recommend, the "
            "dot product of their vectors plus what neighbors add, which is rounded to two digits",
        ),
    ]
)
# Why xrec recommended a pair, by what people did (xrec.neighbors); null if it did not.
SUPPORT = pa.schema(
    [
        _nullable(
            "evidence_kind",
            pa.string(),
            "others: people who chose the supporting item chose this one too; "
            "history: the user chose the supporting item; category: the user chose items of "
            "this one's category; popular: many chose this one; abstained: none of these",
        ),
        _nullable("evidence_item_id", pa.string(), "the supporting item, from the user's history"),
        _nullable(
            "evidence_category",
            pa.string(),
            "the category that the item shares with much of the history",
        ),
        _nullable(
            "evidence_at_least",
            pa.int32(),
            "a lower bound of how many other people, in steps: 5, 10, 20, 50, ...",
            "people",
        ),
    ]
)
GIVEN = pa.schema([*RANKS, *SUPPORT])
# The best new items for each user, sorted by user and rank.
RECOMMENDATIONS = pa.schema([*(field.with_nullable(False) for field in (*PAIRS, *RANKS)), *SUPPORT])
GENERATED = pa.schema(
    [
        *PAIRS,
        *GIVEN,
        _column("explanation", pa.string(), "why the user would like the item"),
        _column("num_prompt_tokens", pa.int32(), "length of the prompt", "tokens"),
        _column(
            "num_generated_tokens",
            pa.int32(),
            "length of the text that the language model wrote, without the end token",
            "tokens",
        ),
        _column(
            "finish_reason",
            pa.string(),
            "stop if the language model ended the text, length if it was cut off at the limit",
        ),
        _column(
            "model_fingerprint",
            pa.string(),
            "hash of the language model, adapter, and graph that made the text; empty without a "
            "language model",
        ),
        _column(
            "content_key",
            pa.string(),
            "hash of everything that the text depends on (texts, vectors, model, decoding), then "
            "short hashes of the parts",
        ),
        _column(
            "aspects",
            pa.list_(pa.field("element", EVIDENCE, nullable=False)),
            "the aspects of the item that were chosen for the user, best first, with the numbers "
            "of training reviews of the item and by the user that mention them, and whether the "
            "text names them",
        ),
        _column(
            "kind",
            pa.string(),
            "written if the language model wrote the text, plain if it is a sentence made from the "
            "evidence because the text was refused or there is no language model",
        ),
        _column(
            "refused",
            pa.string(),
            "why an earlier text for this pair was refused; empty if none was",
        ),
    ]
)
# Pairs that could not be explained, with the reason and the texts of the prompt.
FAILED = pa.schema(
    [
        *PAIRS,
        *GIVEN,
        _column("reason", pa.string(), "why there is no explanation"),
        _column("message", pa.string(), "details of the reason, for a human reader"),
        GENERATED.field("content_key"),
        _column("user_profile", pa.string(), "profile in the prompt; empty if the user is unknown"),
        _column("item_title", pa.string(), "the item's title; empty if it has none or is unknown"),
        _column("item_profile", pa.string(), "profile in the prompt; empty if the item is unknown"),
    ]
)
