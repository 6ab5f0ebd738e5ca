"""Plans the stages: their rows, the tasks of their actors, and a preview of a run."""

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
"""Placeholders for the texts of items, which are not written yet."""
_FOLDERS: Mapping[Stage, Folder] = {
    "items": "training_by_item",
    "users": "training_by_user",
    "pairs": "all_by_user",
}
"""The reviews that a stage's texts are written from."""


def plan_stage(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    record: StoreRecord,
    files: Mapping[str, str],
    stage: Stage,
    items_version: int,
    limit: int | None = None,
) -> tuple[BulkRun, Callable[[], ChunkTask]]:
    """Plan a stage, or open it if it is planned; also return what makes its task in an actor.

    files: the hashes of the source's files. items_version: of the table of items, which later
    stages read. limit: the number of rows after which the run will end.

    Raises what `open_run` raises.
    """
    output = location_of(config, KIND)
    storage, num_files = config.storage, record.num_files
    identity = identify_annotations(config, spec, files, stage)
    form, uri = stage_format(stage, spec.reasons), output.uri

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        for rows in _rows(ReviewStore(output, num_files), stage):
            yield clean_keys(rows, KEYS[stage], file=uri, first_line=1)

    def make() -> TextTask:
        """Make the task in an actor, where relative paths mean something else."""
        folder = open_location(uri, storage)
        learned = [spec.learned(folder)] if spec.learned else []
        items = None if stage == "items" else read_item_texts(folder, items_version, storage)
        reader = InputReader(ReviewStore(folder, num_files), items)
        settings = settings_of_texts(identity.config)
        fingerprint = fingerprint_of([settings, dict(spec.inputs), *learned])
        inputs = partial(reader.of, stage)
        return TextTask(inputs, spec.make(folder), form, fingerprint, spec.folds)

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
    """Yield the keys of the stage's rows; items may come several times.

    Items are those of all kept reviews, including held-out ones, and of the source's table.
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

    Reads the reviews unless an earlier start has kept them. Raises DataError if a file is missing,
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
