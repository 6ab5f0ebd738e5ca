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

from xrec.config import AnnotateConfig
from xrec.data import LOW_RATED, split_pairs
from xrec.data.language import gives_orders
from xrec.errors import DataError
from xrec.schemas import REVIEWS

_PAIR = ["user_id", "item_id"]
_TRAIN = "train"
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
    if is_by_time := config.split.by == "time":
        _check_times(rows["time"])
    frame, dropped = _frame(rows), dict[str, int]()

    def keep(is_kept: Any, reason: str) -> pd.DataFrame:
        if num_gone := len(frame) - int(is_kept.sum()):
            dropped[reason] = num_gone
        return frame[is_kept]

    frame = keep(~frame["gives_orders"], "speaks to a language model")
    low_rated = frame[:0]
    if config.min_rating is not None and frame["rating"].notna().any():
        frame = keep(frame["rating"].notna(), "no rating")
        is_liked = frame["rating"] >= config.min_rating
        low_rated = frame[~is_liked]
        frame = keep(is_liked, f"rating below {config.min_rating:g}")
    frame = keep(~frame.duplicated(_PAIR, keep="last"), "another review of the same pair")
    frame = keep(frame.index.isin(_core(frame, config.core).index), "too few reviews (core)")
    if frame.empty:
        raise DataError(
            f"no review is left ({listed(dropped)}); lower min_rating = {config.min_rating} or "
            f"core = {config.core}",
            code="no_review",
            saw=dropped,
        )
    users, items = (frame[name].tolist() for name in _PAIR)
    by_hash = [] if is_by_time else split_pairs(users, items, config.split)
    frame = frame.assign(split=_by_time(frame) if is_by_time else by_hash)
    if not (frame["split"] == _TRAIN).any():
        raise DataError(
            f"no review is left for training: all {len(frame)} are held out; change split",
            code="no_training_pair",
            saw=len(frame),
        )
    # Of a low-rated pair the newest review counts, unless another review of the pair is kept.
    low_rated = low_rated[low_rated["item_id"].isin(frame["item_id"])].assign(split=LOW_RATED)
    is_older = pd.concat([low_rated, frame]).duplicated(_PAIR, keep="last")[: len(low_rated)]
    return KeptReviews(_taken(rows, frame), _taken(rows, low_rated[~is_older]), dropped)


def _frame(rows: pa.Table) -> pd.DataFrame:
    """Return what decides about the rows, oldest first; equal times keep their order."""
    columns = rows.select([*_PAIR, "time", "rating"])
    frame: pd.DataFrame = columns.to_pandas(strings_to_categorical=True)
    texts = zip(rows["summary"].to_pylist(), rows["review"].to_pylist(), strict=True)
    frame["gives_orders"] = np.array([gives_orders(". ".join(each)) for each in texts], np.bool_)
    return frame.sort_values("time", kind="stable", na_position="first")


def _core(frame: pd.DataFrame, core: int) -> pd.DataFrame:
    num_left = -1
    while num_left != len(frame):
        num_left = len(frame)
        for key in _PAIR:
            frame = frame[frame.groupby(key, observed=True)[key].transform("size") >= core]
    return frame


def _by_time(frame: pd.DataFrame) -> Any:
    """Return each row's split: a user's last review is for test, the one before for validation.

    Reviews without a time count as the oldest.
    """
    of_user = frame.groupby("user_id", observed=True)["user_id"]
    place, is_split = of_user.cumcount(ascending=False), of_user.transform("size") >= _MIN_SPLIT
    held_out = [is_split & (place == 0), is_split & (place == 1)]
    return np.select(held_out, ["test", "validation"], _TRAIN)


def _taken(rows: pa.Table, frame: pd.DataFrame) -> pa.Table:
    """Return the rows in `frame` with their splits (schema REVIEWS), in the order of the rows."""
    frame = frame.sort_index()
    splits = pa.array(frame["split"], pa.string())
    taken = rows.take(pa.array(frame.index)).append_column("split", splits)
    return taken.select(REVIEWS.names).cast(REVIEWS)


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
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"
