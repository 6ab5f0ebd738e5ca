"""The plan of each stage: its rows, and what its actors make of them."""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import Stage, stage_format
from xrec.annotate.identity import identify_stage
from xrec.annotate.stages import ItemStage, PairStage, TextStage, UserStage
from xrec.annotate.store import ReviewStore, StoreRecord
from xrec.annotate.tables import read_item_texts
from xrec.annotate.task import TextTask
from xrec.bulk import BulkRun, ChunkTask, RunRequest, clean_keys, open_run
from xrec.config.annotate import AnnotateConfig
from xrec.config.shared import StorageConfig
from xrec.storage import Location, fingerprint_of, location_of, open_location

Rows = Iterator[tuple[pa.Table, pa.Table]]


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is planned, and how an actor makes its task."""

    run: BulkRun
    make_task: Callable[[], ChunkTask]


def plan_stage(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    record: StoreRecord,
    files: Mapping[str, str],
    stage: Stage,
    versions: Mapping[Stage, int],
) -> PlannedStage:
    """Plan a stage, or open it if it was planned before.

    files: the hashes of the source's files. versions: of the stages before it. Raises what
    `open_run` raises.
    """
    output = location_of(config, "annotations")
    store = ReviewStore(output, record.num_files)
    uri, storage = output.shared_uri, config.storage
    batches: Mapping[Stage, Callable[[], Rows]] = {
        "items": lambda: _items(store, uri),
        "users": lambda: _users(store, uri),
        "pairs": lambda: _pairs(store, uri),
    }
    run = open_run(
        RunRequest(
            (output / stage).uri,
            identify_stage(config, spec, files, stage),
            stage_format(stage, spec.reasons),
            batches[stage],
            rows_per_chunk=config.rows_per_chunk,
            carry_from=f"{config.carry_from.rstrip('/')}/{stage}" if config.carry_from else None,
            storage=storage,
        )
    )
    settings = _StageSettings.of(config, record, stage, versions)
    return PlannedStage(run, functools.partial(_make_text_task, settings, spec))


@dataclass(frozen=True)
class _StageSettings:
    """What an actor of a stage of texts must know."""

    stage: Stage
    output: str
    storage: StorageConfig
    num_files: int
    items_version: int
    max_reviews_per_item: int
    max_reviews_per_user: int

    @classmethod
    def of(
        cls,
        config: AnnotateConfig,
        record: StoreRecord,
        stage: Stage,
        versions: Mapping[Stage, int],
    ) -> "_StageSettings":
        return cls(
            stage,
            location_of(config, "annotations").shared_uri,
            config.storage,
            record.num_files,
            versions.get("items", -1),
            config.max_reviews_per_item,
            config.max_reviews_per_user,
        )


def _make_text_task(settings: _StageSettings, spec: AnnotatorSpec) -> TextTask:
    output = open_location(settings.output, settings.storage)
    learned = [spec.learned(output)] if spec.learned else []
    return TextTask(
        _stage(settings, output),
        spec.make(output),
        stage_format(settings.stage, spec.reasons),
        fingerprint_of([dict(spec.settings), dict(spec.inputs), *learned]),
        spec.row_errors,
    )


def _stage(settings: _StageSettings, output: Location) -> "TextStage[object, object]":
    store = ReviewStore(output, settings.num_files)
    if settings.stage == "items":
        return ItemStage(store, settings.max_reviews_per_item)  # type: ignore[return-value]
    items = read_item_texts(output, settings.items_version, settings.storage)
    if settings.stage == "users":
        return UserStage(store, settings.max_reviews_per_user, items)  # type: ignore[return-value]
    return PairStage(store, items)  # type: ignore[return-value]


def _items(store: ReviewStore, uri: str) -> Rows:
    """All items of kept reviews, also of those that are held out, and of the source's table."""
    yield clean_keys(store.items.select(["item_id"]), ("item_id",), file=uri, first_line=1)
    for ids in store.ids("all_by_user"):
        distinct = ids.group_by("item_id").aggregate([])
        yield clean_keys(distinct, ("item_id",), file=uri, first_line=1)


def _users(store: ReviewStore, uri: str) -> Rows:
    """All users with training reviews."""
    for ids in store.ids("training_by_user"):
        distinct = ids.group_by("user_id").aggregate([])
        yield clean_keys(distinct, ("user_id",), file=uri, first_line=1)


def _pairs(store: ReviewStore, uri: str) -> Rows:
    for ids in store.ids("all_by_user"):
        yield clean_keys(ids, ("user_id", "item_id"), file=uri, first_line=1)
