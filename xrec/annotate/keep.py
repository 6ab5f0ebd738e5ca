"""Which of the reviews are kept, and which of these are held out; nothing is written from them yet.

The order matters: reviews that speak to a language model go first, then low ratings, then repeated
pairs, then users and items with few reviews, and what is left is split.
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
from xrec.data.smuggled import gives_orders
from xrec.data.splits import split_pairs
from xrec.errors import DataError
from xrec.schemas import REVIEWS

_TRAIN, _VALIDATION, _TEST = "train", "validation", "test"
_MOST_WITHOUT_TIME = 0.1
_LEAST_SPLIT = 3  # reviews of a user, by time; users with fewer have all of them in training


@dataclass(frozen=True)
class KeptReviews:
    """The reviews (schema REVIEWS), each pair once, and how many were dropped, by reason.

    low_rated: those of the kept items that are below `min_rating`; of other pairs, each once.
    """

    reviews: pa.Table
    low_rated: pa.Table
    dropped: Mapping[str, int]


def keep_reviews(rows: pa.Table, config: AnnotateConfig) -> KeptReviews:
    """Drop and split.

    rows: as `RawReviews.reviews`. Raises DataError if nothing is left to train on, or if the split
    is by time and more than a tenth of the reviews have none.
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
            f"no review is left for training: all {kept.num_rows} are held out",
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
    """Whether each review gives no orders: one that does is no review, whatever else it says."""
    texts = zip(rows["summary"].to_pylist(), rows["review"].to_pylist(), strict=True)
    return pa.array([not gives_orders(". ".join(each)) for each in texts], pa.bool_())


def _of_items(low_rated: pa.Table, kept: pa.Table) -> pa.Table:
    """The low-rated reviews of the kept items (schema REVIEWS), without the kept pairs."""
    low_rated = low_rated.filter(pc.is_in(low_rated["item_id"], kept["item_id"].unique()))
    low_rated = low_rated.filter(pc.invert(pc.is_in(_pairs(low_rated), _pairs(kept))))
    low_rated = low_rated.filter(_is_newest_of_pair(low_rated))
    splits = pa.repeat(LOW_RATED, low_rated.num_rows)
    return low_rated.append_column("split", splits).select(REVIEWS.names).cast(REVIEWS)


def _pairs(rows: pa.Table) -> pa.Array:
    """The pair of each row as one string."""
    pairs = pc.binary_join_element_wise(rows["user_id"], rows["item_id"], "\0")
    return pairs.combine_chunks()


def _frame(rows: pa.Table) -> pd.DataFrame:
    """The ids and times of the rows, the oldest first; of equal times the first row."""
    columns = rows.select(["user_id", "item_id", "time"])
    frame: pd.DataFrame = columns.to_pandas(strings_to_categorical=True)
    return frame.sort_values("time", kind="stable", na_position="first")


def _is_newest_of_pair(rows: pa.Table) -> pa.Array:
    """Of rows with the same user and item, True for the newest; of equal times the last."""
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
    """Each user's last review is for the test, and the one before for validation.

    Those without a time are the oldest.
    """
    of_user = _frame(rows).groupby("user_id", observed=True)["user_id"]
    place, is_split = of_user.cumcount(ascending=False), of_user.transform("size") >= _LEAST_SPLIT
    splits = np.select(
        [is_split & (place == 0), is_split & (place == 1)], [_TEST, _VALIDATION], _TRAIN
    )
    return list(pd.Series(splits, place.index).sort_index())


def _check_times(times: pa.ChunkedArray) -> None:
    if times.null_count > _MOST_WITHOUT_TIME * len(times):
        raise DataError(
            f"split.by = time, but {times.null_count} of {len(times)} reviews have no time, at "
            f"most a share of {_MOST_WITHOUT_TIME} is allowed; name its column in source.columns "
            "({time: <column>}), or set split.by to hash",
            code="no_times",
            key="split.by",
            saw=times.null_count,
        )


def listed(counts: Mapping[str, int]) -> str:
    """The counts with their names, for a reader."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no rows"
