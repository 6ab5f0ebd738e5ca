"""Looks at the reviews before a run: how many texts it would write, and some of their inputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.annotator import Outlook
from xrec.annotate.formats import STAGES
from xrec.annotate.keep import keep_reviews
from xrec.annotate.source import find_review_files, read_reviews
from xrec.annotate.stages import ItemStage, ItemTexts, PairStage, UserStage
from xrec.annotate.store import ReviewStore, read_record, write_store
from xrec.bulk import Rate, read_status
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import location_of, open_location

_NUM_SAMPLED = 48
_TITLE, _PROFILE = "(title of the item)", "(profile of the item, as the stage of items writes it)"
"""Stand in the inputs for the texts of items, which are not written yet."""


def look_at_reviews(config: AnnotateConfig) -> Outlook:
    """What a run of `config` would write.

    Nothing is written, and no annotator is made. The reviews are read, unless an earlier start has
    kept them. Raises DataError if a file is missing, or nothing is left of the reviews.
    """
    with _kept(config) as store:
        ids = pa.concat_tables(store.ids("all_by_user"))
        training = ids.filter(pc.equal(ids["split"], "train"))
        details = store.items["item_id"]
        all_items = pa.chunked_array([*ids["item_id"].chunks, *details.chunks], pa.string())
        written = _items_to_come(all_items.unique())
        items = ItemStage(store, config.max_reviews_per_profile)
        users = UserStage(store, config.max_reviews_per_profile, written)
        return Outlook(
            {
                "items": len(all_items.unique()),
                "users": len(training["user_id"].unique()),
                "pairs": ids.num_rows,
            },
            {
                "items": items.inputs(_some(training.group_by("item_id").aggregate([]))),
                "users": users.inputs(_some(training.group_by("user_id").aggregate([]))),
                "pairs": PairStage(store, written).inputs(_some(ids)),
            },
            _rates(config),
        )


@contextmanager
def _kept(config: AnnotateConfig) -> Iterator[ReviewStore]:
    """The kept reviews: those of an earlier start, or read now and kept in a folder for a while."""
    output = location_of(config, "annotations")
    record = read_record(output)
    if record is not None:
        yield ReviewStore(output, record.num_files)
        return
    raw = read_reviews(config, find_review_files(config))
    kept = keep_reviews(raw.reviews, config)
    with TemporaryDirectory(prefix="xrec-outlook-") as folder:
        there = open_location(folder)
        yield ReviewStore(there, write_store(there, raw, kept).num_files)


def _items_to_come(item_ids: pa.Array) -> ItemTexts:
    num_items = len(item_ids)
    texts = {"title": pa.repeat(_TITLE, num_items), "profile": pa.repeat(_PROFILE, num_items)}
    made = pa.repeat(False, num_items)
    return ItemTexts(pa.table({"item_id": item_ids, **texts, "title_is_made": made}))


def _some(rows: pa.Table) -> pa.Table:
    """Some of the rows, at even distances."""
    num_chosen = min(_NUM_SAMPLED, rows.num_rows)
    places = [number * rows.num_rows // num_chosen for number in range(num_chosen)]
    return rows.sort_by([(name, "ascending") for name in rows.column_names]).take(places)


def _rates(config: AnnotateConfig) -> dict[str, Rate]:
    output = location_of(config, "annotations")
    rates: dict[str, Rate] = {}
    for stage in STAGES:
        try:
            rate = read_status((output / stage).shared_uri, config.storage).rate
        except (ArtifactNotFoundError, StorageNotFoundError):
            continue  # the stage is not planned yet
        if rate is not None:
            rates[stage] = rate
    return rates
