"""`xrec forget`: remove people from a project. docs/night.md lists where their data may be.

They are put on the workspace's list first, so nothing made later contains them. Every step works
from what exists, so an interrupted command can be run again.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xrec import bulk
from xrec.backfill import last_night
from xrec.config import JobConfig, Project
from xrec.errors import ConfigError
from xrec.graph.identity import START_FROM
from xrec.schemas import REJECTED
from xrec.storage import (
    CHECKPOINTS,
    DELETING,
    FORGOTTEN,
    Forgotten,
    Kind,
    Location,
    delete_artifact,
    find_manifest,
    location_of,
    node_folder,
    open_location,
    put_on_list,
    read_manifest,
    read_table,
    refuse_driver,
    storage_errors,
    write_table,
)
from xrec.text.reply_store import forget_replies

_FROM_TEXTS: tuple[Kind, ...] = ("comparison", "evaluation")
"""The kinds that are made from the texts of any night."""
_MODELS: tuple[Kind, ...] = ("adapter", "graph")
_OF_FOLDER: tuple[Kind, ...] = ("recommendations", "neighbors", *_MODELS)
"""The kinds that are made from the dataset in the same folder."""
_SOURCES: Mapping[Kind, str] = {
    "dataset": "rejected.parquet",
    "annotations": "reviews/rejected.parquet",
}
"""The kinds that are read from raw files, with their files of rejected rows.

They are deleted last, because they show which other artifacts must be deleted.
"""


def forget(
    project: Project,
    user_ids: Collection[str],
    *,
    refresh: Callable[[], object],
    retention: timedelta,
    later: bool = False,
) -> dict[str, Any]:
    """Forget people, including those of earlier calls; return a report without ids.

    refresh: runs a night that reads the raw files again.
    retention: how long earlier versions of the tables are kept.
    later: only do what takes seconds, and leave the rest to the next call.

    Raises ConfigError if there are no users to forget, LeaseError if a bulk or training job is
    running, and what `refresh` raises. The same call can then be repeated.
    """
    configs = project.configs(project.jobs)
    config = next(iter(configs.values()), None)
    people = Forgotten() if config is None else put_on_list(config, user_ids)
    if config is None or not people:
        raise ConfigError(
            f"{project.source}: no users to forget; pass --user or --users"
            + (", and add a section for each job to the file" if config is None else ""),
            code="nobody_to_forget",
        )
    own, others = _table_uris(configs, config)
    tables = {uri: _take_down(uri, people, config) for uri in (*own, *others)}
    report = {"given": len(set(user_ids)), "on_list": len(people.hashes), "tables": tables}
    if later:
        return report
    in_use = _in_use(configs)
    by_folder, deleted = _sweep(config, people, in_use)
    if in_use and by_folder.get(in_use["dataset"].removesuffix("/dataset"), {"elsewhere"}):
        refresh()
        in_use = _in_use(configs)
        deleted += _sweep(config, people, in_use)[1]
    for uri, table in tables.items():
        table["runs_deleted"] = bulk.delete_runs(uri, config.storage)
        table["files_deleted"] = bulk.vacuum(uri, retention, config.storage)
    num_replies = forget_replies(config, people)
    shutil.rmtree(node_folder() / "mapped", ignore_errors=True)
    models = _models(config, in_use)
    to_do = {
        "run this command again once earlier versions are old enough": bool(retention and tables),
        "xrec run CONFIG: remakes what was deleted": bool(deleted and not in_use),
        "xrec refresh CONFIG --train: these models may have learned from them": bool(models),
        f"run their backfills again: {', '.join(others)}": bool(others),
        "endpoints, other machines, raw files: see Forget in docs/night.md": True,
    }
    return {
        **report,
        "found": len(set[str]().union(*by_folder.values())),
        "deleted": deleted,
        "replies_deleted": num_replies,
        "earlier_versions_go": (datetime.now(UTC) + retention).isoformat(timespec="minutes"),
        "models": models,
        "to_do": [step for step, is_left in to_do.items() if is_left],
    }


def _take_down(uri: str, people: Forgotten, config: JobConfig) -> dict[str, Any]:
    """Take down the people's rows; return the table's part of the report."""
    taken = bulk.take_down(uri, forgotten=people, reason=FORGOTTEN, storage=config.storage)
    return {"version": taken.version, "rows": taken.num_rows}


def _table_uris(configs: Mapping[str, JobConfig], config: JobConfig) -> tuple[list[str], list[str]]:
    """Return the URI of the project's table, and the URIs of other tables in the workspace."""
    own = [configs["backfill"].artifact("explanations")] if "backfill" in configs else []
    workspace = _folders(config)[0]
    tables = [workspace / name for name in workspace.folders()]
    return own, [t.uri for t in tables if t.uri not in own and (t / "_xrec").exists()]


def _folders(config: JobConfig) -> list[Location]:
    """Return the folders that contain artifacts: the workspace and its nights."""
    workspace = open_location(config.workspace.rstrip("/"), config.storage)
    return [workspace, *(workspace / "nights" / name for name in (workspace / "nights").folders())]


def _in_use(configs: Mapping[str, JobConfig]) -> dict[str, str]:
    """Return the URIs of the published explanations' artifacts, by kind; {} if there are none."""
    config = configs.get("backfill")
    if config is None or not bulk.find_published(
        location_of(config, "explanations"), "explanations"
    ):
        return {}
    uris = last_night(config)[1]
    return {**uris, "annotations": f"{uris['dataset'].removesuffix('/dataset')}/annotations"}


def _people_in(folder: Location, people: Forgotten) -> set[str]:
    """Return which people are users in a folder's dataset, or authors of its reviews."""
    reviews = folder / "annotations" / "reviews"
    files = [reviews / name for name in reviews.files() if "/" in name]  # no items or rejected rows
    users = set[str]()
    for file in (folder / "dataset" / "users.parquet", *files):
        if file.is_file():
            with storage_errors(file.uri):
                opened = pq.ParquetFile(file.path, filesystem=file.arrow_filesystem())
                for batch in opened.iter_batches(columns=["user_id"]):
                    users.update(people.among(batch["user_id"]))
    return users


def _sweep(
    config: JobConfig, people: Forgotten, in_use: Mapping[str, str]
) -> tuple[dict[str, set[str]], list[str]]:
    """Delete artifacts that contain the people and are not in use.

    Return the people found in each folder, and the URIs that were deleted. Rejected rows cannot be
    searched by hash, so they lose their texts if their artifact stays.
    """
    folders, deleted = _folders(config), list[str]()
    by_folder = {folder.uri: _people_in(folder, people) for folder in folders}
    for kind, folder in product((*_FROM_TEXTS, *_OF_FOLDER, *_SOURCES), folders):
        location = folder / kind
        has_them = any(by_folder.values()) if kind in _FROM_TEXTS else by_folder[folder.uri]
        if not location.exists():
            continue
        refuse_driver(location / CHECKPOINTS)
        if (location / DELETING).is_file() or (has_them and location.uri not in in_use.values()):
            delete_artifact(location)
            deleted.append(location.uri)
        elif kind == "adapter":
            (location / CHECKPOINTS).delete()  # left by a training that was killed at its very end
        elif kind in _SOURCES and (file := location / _SOURCES[kind]).is_file():
            rows = read_table(file, REJECTED)
            index, texts = REJECTED.get_field_index("text"), pa.repeat("", rows.num_rows)
            write_table(file, rows.set_column(index, REJECTED.field(index), texts), REJECTED)
    return by_folder, deleted


def _models(config: JobConfig, in_use: Mapping[str, str]) -> dict[str, str]:
    """Return the fingerprints of models in use that were trained on an earlier dataset, by URI."""
    if not in_use:
        return {}
    locations = {kind: open_location(uri, config.storage) for kind, uri in in_use.items()}
    dataset = read_manifest(locations["dataset"], "dataset").fingerprint
    models = filter(None, (find_manifest(locations[kind], kind) for kind in _MODELS))
    return {
        in_use[model.kind]: model.fingerprint
        for model in models
        if model.inputs.get("dataset") != dataset or START_FROM in model.metrics
    }
