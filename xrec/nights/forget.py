"""`xrec forget`: remove people from a project. docs/night.md lists where their data may be.

They are put on the workspace's list first, so nothing made later contains them. Then it waits for
jobs that are running, which may have read an earlier list. Every step works from what exists, so an
interrupted command can be run again.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from xrec import bulk
from xrec.backfill import last_night
from xrec.config import JobConfig, Project
from xrec.errors import ConfigError
from xrec.graph.identity import START_FROM
from xrec.nights.places import Place, places_in
from xrec.schemas import REJECTED
from xrec.storage import (
    CHECKPOINTS,
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
    read_forgotten,
    read_manifest,
    read_table,
    refuse_driver,
    wait_for_jobs,
    write_table,
)
from xrec.text.reply_store import forget_replies

_FROM_TEXTS: tuple[Kind, ...] = ("comparison", "evaluation")
"""The kinds that are made from the texts of any night."""
_MODELS: tuple[Kind, ...] = ("adapter", "graph")
_SOURCES: Mapping[str, str] = {
    "dataset": "rejected.parquet",
    "annotations": "reviews/rejected.parquet",
}
"""The kinds that are read from raw files, with their files of rejected rows.

They are deleted last, because they show which other artifacts must be deleted.
"""
_OUTSIDE = (
    "raw files, tables of pairs, exports, backups, and artifacts outside the workspace",
    "mapped files of other machines ($XDG_CACHE_HOME/xrec/mapped), and memory of endpoints",
    "logs of Ray and of Kubernetes, which show ten users with their texts after xrec run",
    "what a hosted language model keeps of its requests",
)


def forget(
    project: Project,
    user_ids: Collection[str],
    *,
    refresh: Callable[[], object],
    retention: timedelta,
    later: bool = False,
    allow_unknown: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Forget people, including those of earlier calls; keep and return a report without ids.

    refresh: runs a night that reads the raw files again.
    retention: how long earlier versions of the tables are kept.
    later: only do what takes seconds, and leave the rest to the next call.
    allow_unknown: accept IDs that are neither in an artifact nor on the list.

    Raises ConfigError if there are no users to forget or some are unknown, LeaseError if a bulk or
    training job is running, and what `refresh` raises. The same call can then be repeated.
    """
    config, configs = _config_of(project)
    workspace, in_use = _workspace(config), _in_use(configs)
    if user_ids and not allow_unknown:
        _refuse_unknown(config, user_ids)
    people = put_on_list(config, user_ids)
    if not people:
        raise ConfigError(
            f"{project.source}: no users to forget; pass --user or --users",
            code="nobody_to_forget",
        )
    own, others = _table_uris(configs, workspace)
    tables = {uri: _take_down(uri, people, config) for uri in (*own, *others)}
    report = {"given": len(set(user_ids)), "on_list": len(people.hashes), "tables": tables}
    if later:
        return report
    wait_for_jobs(workspace, tell)
    by_place, deleted = _sweep(workspace, people, in_use)
    if in_use and (
        in_use["dataset"] not in by_place or any(by_place.get(in_use[kind]) for kind in _SOURCES)
    ):
        refresh()
        in_use = _in_use(configs)
        deleted += _sweep(workspace, people, in_use)[1]
    for uri, table in tables.items():
        table["runs_deleted"] = bulk.delete_runs(uri, config.storage)
        table["files_deleted"] = bulk.vacuum(uri, retention, config.storage)
    num_replies = forget_replies(config, people)
    shutil.rmtree(node_folder() / "mapped", ignore_errors=True)
    models = _models(config, in_use)
    other = [place.location.uri for place in places_in(workspace) if place.kind == "other"]
    to_do = {
        "run this command again once earlier versions are old enough": bool(retention and tables),
        "xrec run CONFIG: remakes what was deleted": bool(deleted and not in_use),
        "xrec refresh CONFIG --train: these models may have learned from them": bool(models),
        f"run their backfills again: {', '.join(others)}": bool(others),
        f"look yourself, because xrec did not make these files: {', '.join(other)}": bool(other),
        "endpoints, other machines, raw files: see Forget in docs/night.md": True,
        "xrec forget CONFIG --check: shows what is left": True,
    }
    report |= {
        "found": len(set[str]().union(*by_place.values())),
        "deleted": deleted,
        "replies_deleted": num_replies,
        "not_understood": other,
        "earlier_versions_go": (datetime.now(UTC) + retention).isoformat(timespec="minutes"),
        "models": models,
        "to_do": [step for step, is_left in to_do.items() if is_left],
    }
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    (workspace / FORGOTTEN / "reports" / f"{now}.json").create_bytes(json.dumps(report).encode())
    return report


def check_forgotten(project: Project, retention: timedelta) -> dict[str, Any]:
    """Return where forgotten people remain; change nothing.

    `remains` has each file with the number of people in it and until when; a file of an earlier
    version of a table goes with the first `forget` after that time, and an earlier version of a
    file in a bucket by the bucket's lifecycle. `not_read` has the number of files without a column
    of IDs by place. `is_clean` is false if somebody remains, or if the store does not say whether
    it keeps what was deleted. Raises ConfigError if nobody was forgotten.
    """
    config, _ = _config_of(project)
    people, workspace = read_forgotten(config), _workspace(config)
    if not people:
        raise ConfigError(f"{project.source}: nobody was forgotten", code="nobody_to_forget")
    remains, not_read = list[dict[str, Any]](), dict[str, int]()
    kept, versions, ends = workspace.kept_after_deletion()
    there = [(place, _until(place, retention)) for place in places_in(workspace)]
    there.append((Place(versions, "", "versions", tuple(ends or ())), ends or {}))
    for place, until in there:
        for name in place.with_ids:
            if found := place.users_in(name, people.among):
                file = place.location / name
                known = {"until": until.get(name, "the next xrec forget")}
                remains.append({"file": file.uri, "people": len(found), **known})
        if num_others := len(place.files) - len(place.with_ids):
            not_read[f"{place.location.uri} ({place.kind})"] = num_others
    return {
        "on_list": len(people.hashes),
        "is_clean": not remains and ends is not None,
        "remains": remains,
        "not_read": not_read,
        "deleted_objects": kept,
        "outside": list(_OUTSIDE),
    }


def _until(place: Place, retention: timedelta) -> Mapping[str, str]:
    """Return, for the files of a table's earlier versions, when a vacuum may delete them."""
    log = bulk.open_log(place.location) if place.kind == "table" else None
    if log is None:
        return {}
    since = datetime.fromtimestamp(int(log.info(log.version).get("timestamp", 0)) / 1000, UTC)
    until = (since + retention).isoformat(timespec="minutes")
    current = set(log.files(log.version)["path"].to_pylist())
    return {name: until for name in place.files if "/" not in name and name not in current}


def _config_of(project: Project) -> tuple[JobConfig, dict[str, JobConfig]]:
    """Return one of the project's configs, and all; raise ConfigError if there are none."""
    configs = project.configs(project.jobs)
    if not configs:
        raise ConfigError(
            f"{project.source}: no users to forget; add a section for each job to the file",
            code="nobody_to_forget",
        )
    return next(iter(configs.values())), configs


def _workspace(config: JobConfig) -> Location:
    return open_location(config.workspace.rstrip("/"), config.storage)


def _refuse_unknown(config: JobConfig, user_ids: Collection[str]) -> None:
    """Raise ConfigError if an ID is neither in the workspace nor on its list."""
    listed = read_forgotten(config)
    left = {user for user in user_ids if not listed.has(user)}

    def among(ids: pa.Array) -> set[str]:
        return left.intersection(ids.unique().to_pylist())

    for place in places_in(_workspace(config)):
        for name in place.with_ids if left else ():
            left.difference_update(place.users_in(name, among))
    if left:
        raise ConfigError(
            f"{len(left)} of {len(set(user_ids))} users are in no artifact and not on the list; "
            "check the IDs, or pass --allow-unknown to keep them out of everything made later",
            code="unknown_users",
            key="--user",
            saw=len(left),
        )


def _take_down(uri: str, people: Forgotten, config: JobConfig) -> dict[str, Any]:
    """Take down the people's rows; return the table's part of the report."""
    taken = bulk.take_down(uri, forgotten=people, reason=FORGOTTEN, storage=config.storage)
    return {"version": taken.version, "rows": taken.num_rows}


def _table_uris(
    configs: Mapping[str, JobConfig], workspace: Location
) -> tuple[list[str], list[str]]:
    """Return the URI of the project's table, and the URIs of other tables in the workspace."""
    own = [configs["backfill"].artifact("explanations")] if "backfill" in configs else []
    tables = (place.location for place in places_in(workspace) if place.kind == "table")
    return own, [t.uri for t in tables if t.uri not in own and (t / "_xrec").exists()]


def _in_use(configs: Mapping[str, JobConfig]) -> dict[str, str]:
    """Return the URIs of the published explanations' artifacts, by kind; {} if there are none."""
    config = configs.get("backfill")
    if config is None or not bulk.find_published(
        location_of(config, "explanations"), "explanations"
    ):
        return {}
    uris = last_night(config)[1]
    named: dict[str, str] = {
        kind: uri for c in configs.values() for kind, uri in c.artifacts.items() if uri
    }
    return {
        **named,
        **uris,
        "annotations": f"{uris['dataset'].removesuffix('/dataset')}/annotations",
    }


def _affected(places: Sequence[Place], by_place: Mapping[str, set[str]]) -> Iterable[Place]:
    """Yield the places that contain people or were made from a dataset or annotations that do.

    by_place: the people found in each place. Sources come last.
    """
    sources = [place for place in places if place.kind in _SOURCES and by_place[place.location.uri]]
    prints = {place.manifest.fingerprint for place in sources if place.manifest}
    folders = {place.folder.rpartition("/")[0] for place in sources}
    for place in sorted(places, key=lambda place: place.kind in _SOURCES):
        inputs = {} if place.manifest is None else place.manifest.inputs
        is_beside = place.manifest is None and place.folder.rpartition("/")[0] in folders
        if (
            by_place[place.location.uri]
            or place.is_being_deleted
            or (place.kind in _FROM_TEXTS and any(by_place.values()))
            or {inputs.get(kind) for kind in _SOURCES} & prints
            or is_beside
        ):
            yield place


def _sweep(
    workspace: Location, people: Forgotten, in_use: Mapping[str, str]
) -> tuple[dict[str, set[str]], list[str]]:
    """Delete artifacts that contain the people and are not in use.

    Return the people found in each place, and the URIs that were deleted. Rejected rows cannot be
    searched by hash, so they lose their texts if their artifact stays.
    """
    places = [
        place
        for place in places_in(workspace)
        if place.kind not in ("table", "other") or place.is_being_deleted
    ]
    by_place, deleted = {p.location.uri: p.people(people) for p in places}, list[str]()
    for location in [place.location for place in places]:
        refuse_driver(location / CHECKPOINTS)
    for place in _affected(places, by_place):
        if place.is_being_deleted or place.location.uri not in in_use.values():
            delete_artifact(place.location)
            deleted.append(place.location.uri)
    for place in places:
        location = place.location
        if location.uri in deleted:
            continue
        if place.kind == "adapter":
            (location / CHECKPOINTS).delete()  # left by a training that was killed at its very end
        elif place.kind in _SOURCES and (file := location / _SOURCES[place.kind]).is_file():
            rows = read_table(file, REJECTED)
            index, texts = REJECTED.get_field_index("text"), pa.repeat("", rows.num_rows)
            write_table(file, rows.set_column(index, REJECTED.field(index), texts), REJECTED)
    return by_place, deleted


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
