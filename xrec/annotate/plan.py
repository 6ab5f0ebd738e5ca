"""The rows of each stage, what its actors make of them, and a look at them before a run."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from tempfile import TemporaryDirectory

import pyarrow as pa

from xrec.annotate.annotator import STAGES, AnnotatorSpec, Outlook, Stage
from xrec.annotate.formats import KEYS, KIND, identify_annotations, stage_format
from xrec.annotate.keep import keep_reviews
from xrec.annotate.read import read_item_texts
from xrec.annotate.source import find_review_files, read_reviews
from xrec.annotate.stages import InputReader, ItemTexts, TextTask
from xrec.annotate.store import Folder, ReviewStore, StoreRecord, read_record, write_store
from xrec.bulk import (
    BulkRun,
    ChunkTask,
    Rate,
    RunRequest,
    Status,
    clean_keys,
    open_run,
    read_status,
)
from xrec.config import AnnotateConfig, StorageConfig, settings_of_texts
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import Location, fingerprint_of, location_of, open_location

_NUM_SAMPLED = 48
_ROWS_PER_CHUNK = 256
_TITLE, _PROFILE = "(title of the item)", "(profile of the item, as the stage of items writes it)"
"""Stand in the inputs for the texts of items, which are not written yet."""
_FOLDERS: Mapping[Stage, Folder] = {
    "items": "training_by_item",
    "users": "training_by_user",
    "pairs": "all_by_user",
}
"""The reviews that the texts of a stage are written from."""


def plan_stage(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    record: StoreRecord,
    files: Mapping[str, str],
    stage: Stage,
    items_version: int,
    limit: int | None = None,
) -> tuple[BulkRun, Callable[[], ChunkTask]]:
    """Plan a stage, or open it if it was planned before; returns it, and what makes its task.

    files: the hashes of the source's files. items_version: of the table of items, which the other
    stages read. limit: the number of rows after which the run will end.

    Raises what `open_run` raises.
    """
    output = location_of(config, KIND)
    storage, num_files = config.storage, record.num_files
    identity = identify_annotations(config, spec, files, stage)
    form, uri = stage_format(stage, spec.reasons), output.shared_uri

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        for rows in _rows(ReviewStore(output, num_files), stage):
            yield clean_keys(rows, KEYS[stage], file=uri, first_line=1)

    def make() -> TextTask:
        """Called in an actor, whose folder is another one: `uri` is no relative path."""
        folder = open_location(uri, storage)
        learned = [spec.learned(folder)] if spec.learned else []
        items = None if stage == "items" else read_item_texts(folder, items_version, storage)
        reader = InputReader(ReviewStore(folder, num_files), items)
        of_texts = settings_of_texts(identity.config)
        settings = fingerprint_of([of_texts, dict(spec.inputs), *learned])
        inputs = partial(reader.of, stage)
        return TextTask(inputs, spec.make(folder), form, settings, spec.folds)

    run = open_run(
        RunRequest(
            (output / stage).uri,
            identity,
            form,
            batches,
            rows_per_chunk=config.rows_per_chunk or _ROWS_PER_CHUNK,
            limit=limit,
            carry_from=f"{config.carry_from.rstrip('/')}/{stage}" if config.carry_from else None,
            storage=storage,
        )
    )
    return run, make


def _rows(store: ReviewStore, stage: Stage) -> Iterator[pa.Table]:
    """The keys of the stage's rows; an item may come several times.

    Items are those of all kept reviews, also of those that are held out, and of the source's table.
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
    """What a run of `config` would write.

    Nothing is written, and no annotator is made. The reviews are read, unless an earlier start has
    kept them. Raises DataError if a file is missing, or nothing is left of the reviews.
    """
    output = location_of(config, KIND)
    record = read_record(output)
    if record is None:
        raw = read_reviews(config, find_review_files(config))
        kept = keep_reviews(raw.reviews, config)
        with TemporaryDirectory(prefix="xrec-outlook-") as folder:
            there = open_location(folder)
            return _outlook(ReviewStore(there, write_store(there, raw, kept).num_files), {})
    statuses = stage_statuses(output, config.storage)
    rates = {stage: each.rate for stage, each in statuses.items() if each.rate is not None}
    return _outlook(ReviewStore(output, record.num_files), rates)


def _outlook(store: ReviewStore, rates: Mapping[Stage, Rate]) -> Outlook:
    rows = {stage: _distinct(_rows(store, stage)) for stage in STAGES}
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
    """Some of the rows, at even distances."""
    num_chosen = min(_NUM_SAMPLED, keys.num_rows)
    places = [number * keys.num_rows // num_chosen for number in range(num_chosen)]
    return keys.sort_by([(name, "ascending") for name in keys.column_names]).take(places)


def stage_statuses(output: Location, storage: StorageConfig) -> dict[Stage, Status]:
    """The status of each stage that is planned already, as its driver last said."""
    found: dict[Stage, Status] = {}
    for stage in STAGES:
        with suppress(ArtifactNotFoundError, StorageNotFoundError):
            found[stage] = read_status((output / stage).shared_uri, storage)
    return found
