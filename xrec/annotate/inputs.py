"""The rows of the stages and what their texts are written from, and a preview of a run."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import (
    STAGES,
    Input,
    ItemInput,
    ItemText,
    Outlook,
    PairInput,
    Review,
    ReviewedItem,
    Stage,
    UserInput,
)
from xrec.annotate.formats import KEYS, KIND
from xrec.annotate.keep import keep_reviews
from xrec.annotate.source import find_review_files, read_reviews
from xrec.annotate.store import Folder, ReviewStore, read_record, write_store
from xrec.config import AnnotateConfig
from xrec.schemas import REVIEWS
from xrec.storage import location_of, open_location

_MAX_REVIEWS = 50  # per profile; the most helpful and newest ones
_REVIEW_COLUMNS = tuple(name for name in REVIEWS.names if name not in ("split", "helpful"))
_FOLDERS: Mapping[Stage, Folder] = {
    "items": "training_by_item",
    "users": "training_by_user",
    "pairs": "all_by_user",
}
"""The reviews that a stage's texts are written from."""
_NUM_SAMPLED = 48
_TITLE, _PROFILE = "(title of the item)", "(profile of the item, as the stage of items writes it)"
"""Placeholders for the texts of items, which are not written yet."""


class ItemTexts:
    """The texts of items by id: those that the stage `items` wrote."""

    def __init__(self, table: pa.Table):
        self._ids = table["item_id"].combine_chunks()
        self._texts = table.select(["title", "profile", "title_is_made"])

    def of(self, item_ids: Iterable[str]) -> dict[str, ItemText]:
        """Return the text of each item that has one, by id."""
        wanted = pa.array(sorted(set(item_ids)), pa.string())
        indices = pc.drop_null(pc.index_in(wanted, value_set=self._ids))
        ids, rows = self._ids.take(indices).to_pylist(), self._texts.take(indices).to_pylist()
        return {id_: ItemText(**row) for id_, row in zip(ids, rows, strict=True)}


@dataclass(frozen=True)
class InputReader:
    """Reads the inputs of a stage's rows; all stages but the first need `items`."""

    store: ReviewStore
    items: ItemTexts | None = None

    def of(self, stage: Stage, rows: pa.Table) -> Sequence[Input]:
        """Return the input of each row (columns: the stage's keys), in order."""
        reviews = self.store.of(_FOLDERS[stage], set(rows[KEYS[stage][0]].to_pylist()))
        if stage == "items":
            return self._items(rows["item_id"].to_pylist(), _by_id(reviews, "item_id"))
        assert self.items is not None, "the stage of the items comes first"
        if stage == "users":
            texts = self.items.of(reviews["item_id"].to_pylist())
            return _users(rows["user_id"].to_pylist(), _by_id(reviews, "user_id"), texts)
        pairs = rows.select(KEYS["pairs"]).to_pylist()
        return _pairs(pairs, reviews, self.items.of(pair["item_id"] for pair in pairs))

    def _items(self, ids: list[str], reviews: Mapping[str, Sequence[Review]]) -> list[Input]:
        items = self.store.items
        known = items.filter(pc.is_in(items["item_id"], value_set=pa.array(ids, pa.string())))
        by_id = {row["item_id"]: (row["title"], row["details"]) for row in known.to_pylist()}
        return [
            ItemInput(id_, *by_id.get(id_, ("", "")), found[:_MAX_REVIEWS], len(found))
            for id_ in ids
            for found in (tuple(reviews[id_]),)
        ]


def _users(
    ids: list[str], reviews: Mapping[str, Sequence[Review]], texts: Mapping[str, ItemText]
) -> list[Input]:
    return [
        UserInput(
            id_,
            tuple(ReviewedItem(each, texts.get(each.item_id)) for each in found[:_MAX_REVIEWS]),
            len(found),
        )
        for id_ in ids
        for found in (reviews[id_],)
    ]


def _pairs(
    pairs: list[dict[str, str]], reviews: pa.Table, texts: Mapping[str, ItemText]
) -> list[Input]:
    by_pair = {(row["user_id"], row["item_id"]): row for row in reviews.to_pylist()}
    return [
        PairInput(*ids, _review(row), texts.get(ids[1]), row["split"])
        for ids in ((pair["user_id"], pair["item_id"]) for pair in pairs)
        for row in (by_pair[ids],)
    ]


def _by_id(reviews: pa.Table, key: str) -> defaultdict[str, list[Review]]:
    assert set(reviews["split"].unique().to_pylist()) <= {"train"}, "a review is held out"
    by_id: defaultdict[str, list[Review]] = defaultdict(list)
    for row in reviews.to_pylist():
        by_id[row[key]].append(_review(row))
    return by_id


def _review(row: Mapping[str, Any]) -> Review:
    return Review(**{name: row[name] for name in _REVIEW_COLUMNS})


def stage_rows(store: ReviewStore, stage: Stage) -> Iterator[pa.Table]:
    """Yield the keys of the stage's rows; the same item may appear several times.

    The items are those in the source's table and those of all kept reviews, also held-out ones.
    """
    if stage == "items":
        yield store.items.select(KEYS[stage])
    for reviews in store.reviews("training_by_user" if stage == "users" else "all_by_user"):
        yield _distinct(reviews.select(KEYS[stage]))


def _distinct(keys: pa.Table) -> pa.Table:
    return keys.group_by(keys.column_names).aggregate([])


def read_outlook(config: AnnotateConfig) -> Outlook:
    """Return what a run would write, without writing anything or making an annotator.

    Reads the reviews unless an earlier run has stored them. Raises DataError if a file is missing,
    or no review is left.
    """
    output = location_of(config, KIND)
    if (record := read_record(output)) is not None:
        return _outlook(ReviewStore(output, record.num_files))
    raw = read_reviews(config, find_review_files(config))
    with TemporaryDirectory(prefix="xrec-outlook-") as folder:
        record = write_store(open_location(folder), raw, keep_reviews(raw.reviews, config))
        return _outlook(ReviewStore(open_location(folder), record.num_files))


def _outlook(store: ReviewStore) -> Outlook:
    rows = {stage: _distinct(pa.concat_tables(stage_rows(store, stage))) for stage in STAGES}
    item_ids = rows["items"]["item_id"]
    texts = {"title": _TITLE, "profile": _PROFILE, "title_is_made": False}
    columns = {name: pa.repeat(value, len(item_ids)) for name, value in texts.items()}
    reader = InputReader(store, ItemTexts(pa.table({"item_id": item_ids, **columns})))
    samples = {stage: reader.of(stage, _sampled(keys)) for stage, keys in rows.items()}
    return Outlook({stage: keys.num_rows for stage, keys in rows.items()}, samples)


def _sampled(keys: pa.Table) -> pa.Table:
    """Return some of the rows, evenly spaced."""
    num_chosen = min(_NUM_SAMPLED, keys.num_rows)
    indices = [number * keys.num_rows // num_chosen for number in range(num_chosen)]
    return keys.sort_by([(name, "ascending") for name in keys.column_names]).take(indices)
