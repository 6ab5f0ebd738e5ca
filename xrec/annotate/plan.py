"""The rows of the stages, and a preview of a run."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from tempfile import TemporaryDirectory

import pyarrow as pa

from xrec.annotate.annotator import STAGES, Outlook, Stage
from xrec.annotate.formats import KEYS, KIND
from xrec.annotate.keep import keep_reviews
from xrec.annotate.source import find_review_files, read_reviews
from xrec.annotate.stages import InputReader, ItemTexts
from xrec.annotate.store import Folder, ReviewStore, read_record, write_store
from xrec.bulk import Rate, Status, read_status
from xrec.config import AnnotateConfig, StorageConfig
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import Location, location_of, open_location

_NUM_SAMPLED = 48
_TITLE, _PROFILE = "(title of the item)", "(profile of the item, as the stage of items writes it)"
"""Placeholders for the texts of items, which are not written yet."""
_FOLDERS: Mapping[Stage, Folder] = {
    "items": "training_by_item",
    "users": "training_by_user",
    "pairs": "all_by_user",
}
"""The reviews that a stage's texts are written from."""


def stage_rows(store: ReviewStore, stage: Stage) -> Iterator[pa.Table]:
    """Yield the keys of the stage's rows; the same item may appear several times.

    The items are those in the source's table and those of all kept reviews, also held-out ones.
    """
    if stage == "items":
        yield store.items.select(KEYS[stage])
    yield from _keys(store, "training_by_user" if stage == "users" else "all_by_user", stage)


def _keys(store: ReviewStore, folder: Folder, stage: Stage) -> Iterator[pa.Table]:
    for reviews in store.reviews(folder):
        yield _distinct([reviews.select(KEYS[stage])])


def _distinct(keys: Iterable[pa.Table]) -> pa.Table:
    table = pa.concat_tables(keys)
    return table.group_by(table.column_names).aggregate([])


def read_outlook(config: AnnotateConfig) -> Outlook:
    """Return what a run would write, without writing anything or making an annotator.

    Reads the reviews unless an earlier run has stored them. Raises DataError if a file is missing,
    or no review is left.
    """
    output = location_of(config, KIND)
    record = read_record(output)
    if record is None:
        raw = read_reviews(config, find_review_files(config))
        kept = keep_reviews(raw.reviews, config)
        with TemporaryDirectory(prefix="xrec-outlook-") as folder:
            temporary = open_location(folder)
            num_files = write_store(temporary, raw, kept).num_files
            return _outlook(ReviewStore(temporary, num_files), {})
    statuses = stage_statuses(output, config.storage)
    rates = {stage: each.rate for stage, each in statuses.items() if each.rate is not None}
    return _outlook(ReviewStore(output, record.num_files), rates)


def _outlook(store: ReviewStore, rates: Mapping[Stage, Rate]) -> Outlook:
    rows = {stage: _distinct(stage_rows(store, stage)) for stage in STAGES}
    item_ids = rows["items"]["item_id"]
    texts = {"title": _TITLE, "profile": _PROFILE, "title_is_made": False}
    columns = {name: pa.repeat(value, len(item_ids)) for name, value in texts.items()}
    items = ItemTexts(pa.table({"item_id": item_ids, **columns}))
    reader = InputReader(store, items)
    samples = {
        stage: reader.of(stage, _sampled(_distinct(_keys(store, _FOLDERS[stage], stage))))
        for stage in STAGES
    }
    return Outlook({stage: keys.num_rows for stage, keys in rows.items()}, samples, rates)


def _sampled(keys: pa.Table) -> pa.Table:
    """Return some of the rows, evenly spaced."""
    num_chosen = min(_NUM_SAMPLED, keys.num_rows)
    indices = [number * keys.num_rows // num_chosen for number in range(num_chosen)]
    return keys.sort_by([(name, "ascending") for name in keys.column_names]).take(indices)


def stage_statuses(output: Location, storage: StorageConfig) -> dict[Stage, Status]:
    """Return the last reported status of each planned stage."""
    statuses: dict[Stage, Status] = {}
    for stage in STAGES:
        with suppress(ArtifactNotFoundError, StorageNotFoundError):
            statuses[stage] = read_status((output / stage).uri, storage)
    return statuses
