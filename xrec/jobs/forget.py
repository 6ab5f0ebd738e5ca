"""`xrec forget`: people leave a project; docs/night.md says where they may be, and what is done.

The list of them comes first, so that nothing that is made later has them. Each step looks for what
is there, so all of them may be done again.
"""

import shutil
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import xrec.jobs.project_run
from xrec import bulk
from xrec.config import JobConfig, Project
from xrec.errors import ConfigError
from xrec.graph.identity import START_FROM
from xrec.jobs.catalogue import chosen_configs
from xrec.jobs.output import DELETING, delete_artifact
from xrec.schemas import REJECTED
from xrec.storage import (
    Kind,
    Location,
    last_night,
    location_of,
    manifest_there,
    node_folder,
    open_location,
    read_manifest,
    read_table,
    storage_errors,
    write_table,
)
from xrec.storage.forgotten import LIST, Forgotten, put_on_list
from xrec.train.lease import CHECKPOINTS, refuse_live_training

_OF_TEXTS: tuple[Kind, ...] = ("comparison", "evaluation")
"""Made from the texts of whichever night."""
_MODELS: tuple[Kind, ...] = ("adapter", "aspects", "graph")
_SOURCES: Mapping[Kind, str] = {
    "dataset": "rejected.parquet",
    "annotations": "reviews/rejected.parquet",
}
"""With the file of rejected rows; they go last, as who is in them tells what else is to go."""
_TABLES: Mapping[str, Kind] = {"recommend": "recommendations", "backfill": "explanations"}


def forget(
    project: Project,
    user_ids: Collection[str],
    *,
    retention: timedelta,
    later: bool = False,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Forget people, and those of earlier calls; returns a report for programs, without ids.

    retention: earlier versions of the tables that are younger stay. later: do now what takes
    seconds; the next call does the rest.

    Raises ConfigError if nobody is named nor on the list; LeaseError if a bulk job or a training is
    at work; what a night raises. The same call then goes on.
    """
    configs = project.configs(project.jobs)
    config = next(iter(configs.values()), None)
    people = Forgotten() if config is None else put_on_list(config, user_ids)
    if config is None or not people:
        raise ConfigError(
            f"{project.source}: nobody is on the list of the workspace, or no job has a section: "
            "name people by --users or --user",
            code="nobody_to_forget",
        )
    own, beside = _tables(configs, config)
    tables: dict[str, dict[str, Any]] = {}
    for uri in (*own, *beside):
        gone = bulk.take_down(uri, forgotten=people, reason=LIST, storage=config.storage)
        tables[uri] = {"version": gone.version, "rows": gone.num_rows}
    report: dict[str, Any] = {"given": len(set(user_ids)), "on_list": len(people.hashes)}
    report["tables"] = tables
    if later:
        return report
    in_use = _in_use(configs)
    found, deleted = _sweep(config, people, in_use)
    if in_use and found.get(in_use["dataset"].removesuffix("/dataset"), {"elsewhere"}):
        night = chosen_configs(project)
        xrec.jobs.project_run.refresh(night, anew=True, source=project.source, tell=tell)
        in_use = _in_use(configs)
        deleted += _sweep(config, people, in_use)[1]
    for uri, table in tables.items():
        table["runs_deleted"] = bulk.delete_runs(uri, config.storage)
        table["files_deleted"] = bulk.vacuum(uri, retention, config.storage)
    shutil.rmtree(node_folder() / "mapped", ignore_errors=True)
    goes, models = datetime.now(UTC) + retention, _models(config, in_use)
    to_do = {
        "the same command when earlier versions go": bool(retention and tables),
        "xrec run CONFIG: makes again what was deleted": bool(deleted and not in_use),
        "xrec refresh CONFIG --train: these models may have learned from them": bool(models),
        f"run their backfills again: {', '.join(beside)}": bool(beside),
        "endpoints, other machines, raw files: see Forget in docs/night.md": True,
    }
    return {
        **report,
        "found": len(set[str]().union(*found.values())),
        "deleted": deleted,
        "earlier_versions_go": goes.isoformat(timespec="minutes"),
        "models": models,
        "to_do": [each for each, is_left in to_do.items() if is_left],
    }


def _tables(configs: Mapping[str, JobConfig], config: JobConfig) -> tuple[list[str], list[str]]:
    """The tables of the project's jobs, and those that lie in the workspace beside them."""
    own = [configs[job].artifact(kind) for job, kind in _TABLES.items() if job in configs]
    workspace = _folders(config)[0]
    there = (workspace / name for name in workspace.folders())
    return own, [t.uri for t in there if t.uri not in own and (t / "_xrec").exists()]


def _folders(config: JobConfig) -> list[Location]:
    """Where artifacts lie: the workspace, and its nights."""
    workspace = open_location(config.workspace.rstrip("/"), config.storage)
    return [workspace, *(workspace / "nights" / each for each in (workspace / "nights").folders())]


def _in_use(configs: Mapping[str, JobConfig]) -> dict[str, str]:
    """What the published explanations were made from, by kind; nothing if none are published."""
    config = configs.get("backfill")
    if config is None or not manifest_there(location_of(config, "explanations"), "explanations"):
        return {}
    uris = last_night(config)[1]
    return {**uris, "annotations": f"{uris['dataset'].removesuffix('/dataset')}/annotations"}


def _found(folder: Location, people: Forgotten) -> set[str]:
    """Which of the people are users of the dataset in a folder, or authors of kept reviews."""
    reviews = folder / "annotations" / "reviews"
    files = [reviews / name for name in reviews.files() if "/" in name]  # not items and rejected
    found = set[str]()
    for file in (folder / "dataset" / "users.parquet", *files):
        if file.is_file():
            with storage_errors(file.uri):
                opened = pq.ParquetFile(file.path, filesystem=file.arrow_filesystem())
                for batch in opened.iter_batches(columns=["user_id"]):
                    found.update(people.among(batch["user_id"]))
    return found


def _sweep(
    config: JobConfig, people: Forgotten, in_use: Mapping[str, str]
) -> tuple[dict[str, set[str]], list[str]]:
    """Delete what has the people and is not in use; who was found in which folder, and the URIs.

    Rejected rows, in which no id can be found by its hash, lose their texts where they stay.
    """
    folders, deleted = _folders(config), list[str]()
    found = {folder.uri: _found(folder, people) for folder in folders}
    for kind, folder in product((*_OF_TEXTS, *_MODELS, *_SOURCES), folders):
        location = folder / kind
        has_them = any(found.values()) if kind in _OF_TEXTS else found[folder.uri]
        if not location.exists():
            continue
        refuse_live_training(location / CHECKPOINTS)
        if (location / DELETING).is_file() or (has_them and location.uri not in in_use.values()):
            delete_artifact(location)
            deleted.append(location.uri)
        elif kind == "adapter":
            (location / CHECKPOINTS).delete()  # with examples, if it was killed at its very end
        elif kind in _SOURCES and (file := location / _SOURCES[kind]).is_file():
            rows = read_table(file, REJECTED)
            place, texts = REJECTED.get_field_index("text"), pa.repeat("", rows.num_rows)
            write_table(file, rows.set_column(place, REJECTED.field(place), texts), REJECTED)
    return found, deleted


def _models(config: JobConfig, in_use: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints of those in use that learned of another dataset than that in use, by URI."""
    if not in_use:
        return {}
    opened = {kind: open_location(uri, config.storage) for kind, uri in in_use.items()}
    dataset = read_manifest(opened["dataset"], "dataset").fingerprint
    made = filter(None, (manifest_there(opened[kind], kind) for kind in _MODELS))
    return {
        in_use[each.kind]: each.fingerprint
        for each in made
        if each.inputs.get("dataset") != dataset or START_FROM in each.metrics
    }
