"""Chooses which reviews are kept and which of them are held out, before any text is written.

Reviews are dropped if they address a language model, have a low rating, repeat a pair, or belong to
users or items with few reviews, in this order. The rest are split.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import LOW_RATED
from xrec.config import AnnotateConfig
from xrec.data import split_pairs
from xrec.data.language import gives_orders
from xrec.errors import DataError
from xrec.schemas import REVIEWS

_TRAIN, _VALIDATION, _TEST = "train", "validation", "test"
_MAX_WITHOUT_TIME = 0.1
_MIN_SPLIT = 3  # reviews of a user; with fewer, all are for training


@dataclass(frozen=True)
class KeptReviews:
    """The reviews (schema REVIEWS), one per pair, and how many were dropped, by reason.

    low_rated: reviews of kept items below `min_rating`, one per pair, without pairs in `reviews`.
    """

    reviews: pa.Table
    low_rated: pa.Table
    dropped: Mapping[str, int]


def keep_reviews(rows: pa.Table, config: AnnotateConfig) -> KeptReviews:
    """Drop and split reviews.

    rows: see `RawReviews.reviews`. Raises DataError if no review is left for training, or if the
    split is by time and more than a tenth of the reviews have no time.
    """
    if config.split.by == "time":
        _check_times(rows["time"])
    dropped: dict[str, int] = {}
    rows = _drop(rows, _is_for_readers(rows), "speaks to a language model", dropped)
    low_rated = rows.slice(0, 0)
    if config.min_rating is not None and rows["rating"].null_count < rows.num_rows:
        rows = _drop(rows, pc.is_valid(rows["rating"]), "no rating", dropped)
        is_liked = pc.greater_equal(rows["rating"], config.min_rating)
        low_rated = rows.filter(pc.invert(is_liked))
        rows = _drop(rows, is_liked, f"rating below {config.min_rating:g}", dropped)
    rows = _drop(rows, _is_newest_of_pair(rows), "another review of the same pair", dropped)
    rows = _drop(rows, _is_in_core(rows, config.core), "too few reviews (core)", dropped)
    if not rows.num_rows:
        raise DataError(
            f"no review is left ({listed(dropped)}); lower min_rating = {config.min_rating} or "
            f"core = {config.core}",
            code="no_review",
            saw=dropped,
        )
    if config.split.by == "time":
        splits = _by_time(rows)
    else:
        users, items = rows["user_id"].to_pylist(), rows["item_id"].to_pylist()
        splits = list(split_pairs(users, items, config.split))
    kept = rows.append_column("split", pa.array(splits, pa.string()))
    if not pc.any(pc.equal(kept["split"], _TRAIN)).as_py():
        raise DataError(
            f"no review is left for training: all {kept.num_rows} are held out; change split",
            code="no_training_pair",
            saw=kept.num_rows,
        )
    kept = kept.select(REVIEWS.names).cast(REVIEWS)
    return KeptReviews(kept, _of_items(low_rated, kept), dropped)


def _drop(rows: pa.Table, is_kept: Any, reason: str, dropped: dict[str, int]) -> pa.Table:
    kept = rows.filter(is_kept)
    if kept.num_rows < rows.num_rows:
        dropped[reason] = rows.num_rows - kept.num_rows
    return kept


def _is_for_readers(rows: pa.Table) -> pa.Array:
    """Return whether each review is for readers, rather than orders to a language model."""
    texts = zip(rows["summary"].to_pylist(), rows["review"].to_pylist(), strict=True)
    return pa.array([not gives_orders(". ".join(each)) for each in texts], pa.bool_())


def _of_items(low_rated: pa.Table, kept: pa.Table) -> pa.Table:
    """Return the low-rated reviews of kept items (schema REVIEWS), except of kept pairs."""
    low_rated = low_rated.filter(pc.is_in(low_rated["item_id"], kept["item_id"].unique()))
    low_rated = low_rated.filter(pc.invert(pc.is_in(_pairs(low_rated), _pairs(kept))))
    low_rated = low_rated.filter(_is_newest_of_pair(low_rated))
    splits = pa.repeat(LOW_RATED, low_rated.num_rows)
    return low_rated.append_column("split", splits).select(REVIEWS.names).cast(REVIEWS)


def _pairs(rows: pa.Table) -> pa.Array:
    """Return the pair of each row as one string."""
    pairs = pc.binary_join_element_wise(rows["user_id"], rows["item_id"], "\0")
    return pairs.combine_chunks()


def _frame(rows: pa.Table) -> pd.DataFrame:
    """Return the ids and times of the rows, oldest first; equal times keep their order."""
    columns = rows.select(["user_id", "item_id", "time"])
    frame: pd.DataFrame = columns.to_pandas(strings_to_categorical=True)
    return frame.sort_values("time", kind="stable", na_position="first")


def _is_newest_of_pair(rows: pa.Table) -> pa.Array:
    """Return whether each row is the newest of its pair; if times are equal, the last one is."""
    is_older = _frame(rows).duplicated(["user_id", "item_id"], keep="last")
    return pa.array(~is_older.sort_index())


def _is_in_core(rows: pa.Table, core: int) -> pa.Array:
    kept, num_left = _frame(rows), -1
    while num_left != len(kept):
        num_left = len(kept)
        for key in ("user_id", "item_id"):
            kept = kept[kept.groupby(key, observed=True)[key].transform("size") >= core]
    return pa.array(np.isin(np.arange(rows.num_rows), kept.index))


def _by_time(rows: pa.Table) -> list[str]:
    """Return each row's split: a user's last review is for test, the one before for validation.

    Reviews without a time count as the oldest.
    """
    of_user = _frame(rows).groupby("user_id", observed=True)["user_id"]
    place, is_split = of_user.cumcount(ascending=False), of_user.transform("size") >= _MIN_SPLIT
    splits = np.select(
        [is_split & (place == 0), is_split & (place == 1)], [_TEST, _VALIDATION], _TRAIN
    )
    return list(pd.Series(splits, place.index).sort_index())


def _check_times(times: pa.ChunkedArray) -> None:
    if times.null_count > _MAX_WITHOUT_TIME * len(times):
        raise DataError(
            f"split.by = time, but {times.null_count} of {len(times)} reviews have no time, more "
            f"than the allowed share of {_MAX_WITHOUT_TIME}; name the column in source.columns "
            "({time: <column>}), or set split.by to hash",
            code="no_times",
            key="split.by",
            saw=times.null_count,
        )


def listed(counts: Mapping[str, int]) -> str:
    """Format counts with their names, for messages."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no rows"
