"""The plan of each stage: its rows, and what its actors make of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import Stage, stage_format
from xrec.annotate.identity import identify_annotations
from xrec.annotate.read import read_item_texts
from xrec.annotate.stages import ItemStage, PairStage, TextStage, UserStage
from xrec.annotate.store import ReviewStore, StoreRecord
from xrec.annotate.task import TextTask
from xrec.bulk import BulkRun, ChunkTask, RunRequest, clean_keys, open_run
from xrec.config.annotate import AnnotateConfig
from xrec.storage import Location, fingerprint_of, location_of, open_location

Rows = Iterator[tuple[pa.Table, pa.Table]]


def plan_stage(
    config: AnnotateConfig,
    spec: AnnotatorSpec,
    record: StoreRecord,
    files: Mapping[str, str],
    stage: Stage,
    versions: Mapping[Stage, int],
) -> tuple[BulkRun, Callable[[], ChunkTask]]:
    """Plan a stage, or open it if it was planned before; returns it, and what makes its task.

    files: the hashes of the source's files. versions: of the stages before it. Raises what
    `open_run` raises.
    """
    output = location_of(config, "annotations")
    store = ReviewStore(output, record.num_files)
    uri = output.shared_uri
    batches: Mapping[Stage, Callable[[], Rows]] = {
        "items": lambda: _items(store, uri),
        "users": lambda: _users(store, uri),
        "pairs": lambda: _pairs(store, uri),
    }
    run = open_run(
        RunRequest(
            (output / stage).uri,
            identify_annotations(config, spec, files, stage),
            stage_format(stage, spec.reasons),
            batches[stage],
            rows_per_chunk=config.rows_per_chunk,
            carry_from=f"{config.carry_from.rstrip('/')}/{stage}" if config.carry_from else None,
            storage=config.storage,
        )
    )
    return run, _MakeTask(stage, config, spec, uri, record.num_files, versions.get("items", -1))


@dataclass(frozen=True)
class _MakeTask:
    """Makes a stage's task in an actor, whose folder is another one: `output` is no relative path.

    items_version: of the table of items, which the other stages read.
    """

    stage: Stage
    config: AnnotateConfig
    spec: AnnotatorSpec
    output: str
    num_files: int
    items_version: int

    def __call__(self) -> TextTask:
        spec, output = self.spec, open_location(self.output, self.config.storage)
        learned = [spec.learned(output)] if spec.learned else []
        return TextTask(
            self._stage(output),
            spec.make(output),
            stage_format(self.stage, spec.reasons),
            fingerprint_of([dict(spec.settings), dict(spec.inputs), *learned]),
            spec.row_errors,
        )

    def _stage(self, output: Location) -> TextStage[Any, Any]:
        store, config = ReviewStore(output, self.num_files), self.config
        if self.stage == "items":
            return ItemStage(store, config.max_reviews_per_profile)
        items = read_item_texts(output, self.items_version, config.storage)
        if self.stage == "users":
            return UserStage(store, config.max_reviews_per_profile, items)
        return PairStage(store, items)


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
