"""`xrec forget`: people leave a project. Where they may be, and what becomes of it:

    the list               comes first: from now on nothing that is made has them
    tables                 get a version without their rows; a night writes again what others were
                           told in their words; then runs are deleted, and files by a vacuum
    annotations, dataset,  are made anew by that night, with the indices of before, and those that
    graph, aspects         have them are deleted
    evaluation,            are deleted, if they were made from such a dataset; so are adapters that
    comparison             are not in use
    the adapter in use     has no ids and no texts, and learned from them: it is named
    mapped files           of this machine are deleted

All steps may be done again: what they look for is what is there.
"""

import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import jobs.project_run
from jobs.catalogue import chosen_configs
from jobs.output import DELETING, last_night
from xrec import bulk
from xrec.config.project import Project
from xrec.config.shared import JobConfig, StorageConfig
from xrec.errors import ConfigError
from xrec.graph.artifact import START_FROM
from xrec.schemas import REJECTED
from xrec.storage import (
    MANIFEST,
    RUN_RECORD,
    Kind,
    Location,
    Manifest,
    location_of,
    manifest_there,
    node_folder,
    open_location,
    read_table,
    storage_errors,
    write_table,
)
from xrec.storage.forgotten import LIST, Forgotten, put_on_list
from xrec.train.lease import CHECKPOINTS, refuse_live_training

logger = logging.getLogger("xrec")

_MADE: tuple[Kind, ...] = ("comparison", "evaluation", "adapter", "aspects", "graph")
_SOURCES: tuple[Kind, ...] = ("dataset", "annotations")
"""They go last: who is in them tells what else is to be deleted."""
_OWN = (("recommend", "recommendations"), ("backfill", "explanations"))
"""The project's tables, and the jobs that make them."""
_REJECTED: Mapping[Kind, str] = {
    "dataset": "rejected.parquet",
    "annotations": "reviews/rejected.parquet",
}


def forget(
    project: Project,
    user_ids: Collection[str],
    *,
    retention: timedelta,
    later: bool = False,
    train: bool = False,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Forget people, and those of earlier calls; returns a report for programs, without ids.

    retention: earlier versions of the tables that are younger stay. later: do now what takes
    seconds; the next call does the rest. train: see `refresh`.

    Raises ConfigError if nobody is named nor on the list; LeaseError if a bulk job is at work; what
    a night raises. The same call then goes on.
    """
    configs = project.configs(project.jobs)
    if not configs:
        raise ConfigError(f"{project.source}: no job has a section, so there is nothing to look at")
    config = next(iter(configs.values()))
    people = put_on_list(config, user_ids)
    if not people:
        raise ConfigError(
            "nobody is on the list of the workspace: name people by --users or --user"
        )
    tables: dict[str, dict[str, Any]] = {}
    for uri in _tables(configs):
        gone = bulk.forget(uri, people, config.storage)
        tables[uri] = {"version": gone.version, "rows": gone.num_rows}
    look = _Look.of(configs, people)
    counts = {"given": len(set(user_ids)), "on_list": len(people.hashes), "found": look.num_found}
    report: dict[str, Any] = {"people": counts, "tables": tables, "is_done": not later}
    if later:
        return report
    deleted = _sweep(look)
    if look.held.get(look.in_use.get("dataset", "")):
        night = chosen_configs(project)
        jobs.project_run.refresh(night, train=train, anew=True, source=project.source, tell=tell)
        look = _Look.of(configs, people)
        deleted += _sweep(look)
    for uri, table in tables.items():
        table |= {"runs_deleted": bulk.delete_runs(uri, config.storage)}
        location = open_location(uri, config.storage)
        for name in (each for each in location.sizes() if each.startswith(".")):
            (location / name).delete()  # of a writer that was killed; a vacuum spares it
        table |= {"files_deleted": bulk.vacuum(uri, retention, config.storage)}
    shutil.rmtree(node_folder() / "mapped", ignore_errors=True)
    goes = (datetime.now(UTC) + retention).isoformat(timespec="minutes")
    report |= {"earlier_versions_go": goes, "deleted": deleted, "left_out": look.left_out()}
    report |= {"models": list(look.models())}
    return report | {"to_do": list(_to_do(configs, report, retention))}


def _tables(configs: Mapping[str, JobConfig]) -> list[str]:
    """The tables of the project, and those that lie in the workspace beside them."""
    config = next(iter(configs.values()))
    uris = [configs[job].artifact(kind) for job, kind in _OWN if job in configs]
    workspace = open_location(config.workspace, config.storage)
    there = (name for name in workspace.folders() if (workspace / name / "_xrec").exists())
    return list(dict.fromkeys([*uris, *(f"{config.workspace.rstrip('/')}/{n}" for n in there)]))


@dataclass(frozen=True)
class _Look:
    """What lies in the workspace and in its nights, and who is in it.

    places: the artifacts, in the order in which they may be deleted. held: the people in datasets
    and annotations, by URI. clean: the fingerprints of datasets without any. in_use: the URIs of
    what the published explanations were made from, by kind; none if none are published.
    """

    places: Sequence[tuple[Location, Kind]]
    held: Mapping[str, set[str]]
    clean: set[str]
    in_use: Mapping[Kind, str]
    storage: StorageConfig

    @classmethod
    def of(cls, configs: Mapping[str, JobConfig], people: Forgotten) -> "_Look":
        config = next(iter(configs.values()))
        workspace = open_location(config.workspace.rstrip("/"), config.storage)
        nights = workspace / "nights"
        folders = [workspace, *(nights / name for name in nights.folders())]
        all_places = [(folder / kind, kind) for kind in (*_MADE, *_SOURCES) for folder in folders]
        places = [place for place in all_places if place[0].exists()]
        in_use = _in_use(configs)
        sources = {location.uri: kind for location, kind in places if kind in _SOURCES}
        sources |= {uri: kind for kind, uri in in_use.items() if kind in _SOURCES}
        opened = {uri: open_location(uri, config.storage) for uri in sources}
        held = {uri: _found(opened[uri], kind, people) for uri, kind in sources.items()}
        none = [uri for uri, kind in sources.items() if kind == "dataset" and not held[uri]]
        manifests = filter(None, (manifest_there(opened[uri], "dataset") for uri in none))
        return cls(places, held, {each.fingerprint for each in manifests}, in_use, config.storage)

    @property
    def num_found(self) -> int:
        return len(set[str]().union(*self.held.values()))

    def is_left(self, location: Location, kind: Kind) -> bool:
        """Whether an artifact may stay; not one that was made from a dataset that is gone."""
        if location.uri in self.in_use.values():
            return True
        if (location / DELETING).is_file():
            return False
        if kind in _SOURCES:
            return not self.held[location.uri]
        return bool(made := _made_from(location)) and made <= self.clean

    def manifests(self, *kinds: Kind) -> Iterator[Manifest]:
        """Those of artifacts in use."""
        uris = (self.in_use[kind] for kind in kinds if self.in_use)
        opened = (open_location(uri, self.storage) for uri in uris)
        yield from filter(None, map(manifest_there, opened, kinds))

    def models(self) -> Iterator[dict[str, str]]:
        """Models in use that learned from the people, or began from a graph that may have."""
        for each in self.manifests("graph", "aspects", "adapter"):
            if each.inputs.get("dataset") not in self.clean or each.metrics.get(START_FROM):
                about = {"kind": each.kind, "fingerprint": each.fingerprint}
                yield {**about, "uri": self.in_use[each.kind]}

    def left_out(self) -> dict[str, int]:
        """How many rows of theirs the raw files had when what is in use was made."""
        names = {"annotations": "dropped", "dataset": "num_rejected"}
        return {
            f"{manifest.kind}: {name}": count
            for manifest in self.manifests("annotations", "dataset")
            for name, count in manifest.metrics[names[manifest.kind]].items()
            if name.endswith(LIST)
        }


def _in_use(configs: Mapping[str, JobConfig]) -> dict[Kind, str]:
    config = configs.get("backfill")
    if config is None or not manifest_there(location_of(config, "explanations"), "explanations"):
        return {}
    uris = last_night(config)[1]
    kinds: tuple[Kind, ...] = ("dataset", "graph", "aspects", "adapter")
    folder = uris["dataset"].rpartition("/")[0]
    return {"annotations": f"{folder}/annotations", **{kind: uris[kind] for kind in kinds}}


def _found(location: Location, kind: Kind, people: Forgotten) -> set[str]:
    """Which of the people are among the users of a dataset, or the authors of kept reviews."""
    names = ["users.parquet"]
    if kind == "annotations":
        reviews = (location / "reviews").files()
        names = [f"reviews/{each}" for each in reviews if "/" in each]  # not items and rejected
    found = set[str]()
    for file in (location / name for name in names):
        if file.is_file():
            with storage_errors(file.uri):
                opened = pq.ParquetFile(file.path, filesystem=file.arrow_filesystem())
                for batch in opened.iter_batches(columns=["user_id"]):
                    found.update(people.among(batch["user_id"]))
    return found


def _made_from(location: Location) -> set[str]:
    """The fingerprints of the datasets that the manifests and records below a place name."""
    names = (each for each in location.files() if each.endswith((MANIFEST, RUN_RECORD)))
    inputs = (json.loads((location / name).read_bytes()).get("inputs", {}) for name in names)
    return {each["dataset"] for each in inputs if "dataset" in each}


def _sweep(look: _Look) -> list[str]:
    """Delete what may not stay, and return the URIs.

    Rejected rows, in which no id can be found by its hash, lose their texts where they stay.
    """
    deleted = []
    for location, kind in look.places:
        if kind in ("adapter", "graph"):
            refuse_live_training(location / CHECKPOINTS)
        if not look.is_left(location, kind):
            _delete(location)
            deleted.append(location.uri)
        elif kind == "adapter":
            (location / CHECKPOINTS).delete()  # with examples, if it was killed at its very end
        elif kind in _SOURCES and (file := location / _REJECTED[kind]).is_file():
            rows = read_table(file, REJECTED)
            place, texts = REJECTED.get_field_index("text"), pa.repeat("", rows.num_rows)
            write_table(file, rows.set_column(place, REJECTED.field(place), texts), REJECTED)
    return deleted


def _delete(location: Location) -> None:
    """Delete an artifact, so that what is left after a kill is known for what it is."""
    logger.info("%s: deleted", location)
    (location / DELETING).write_bytes(b"")
    (location / MANIFEST).delete()
    location.delete_all_but(DELETING)
    location.delete()


def _to_do(
    configs: Mapping[str, JobConfig], report: Mapping[str, Any], retention: timedelta
) -> Iterator[str]:
    """What is left to those who call it, a line each."""
    config = next(iter(configs.values()))
    kinds = (*_MADE, *_SOURCES, "explanations", "recommendations")
    named = {getattr(each, kind, None) for each in configs.values() for kind in kinds}
    for uri in sorted(each for each in named if each and not each.startswith(config.workspace)):
        yield f"{uri}: lies outside of the workspace: only tables there were cleaned"
    own = {configs[job].artifact(kind) for job, kind in _OWN if job in configs}
    for uri in report["tables"].keys() - own:
        yield f"{uri}: run its backfill again: texts for others may be in their words"
    if any(each["kind"] != "graph" for each in report["models"]):
        yield "xrec refresh CONFIG --train: the models in use learned from them"
    if report["deleted"] and "backfill" in configs and not report["left_out"]:
        yield "xrec run CONFIG: makes again what was deleted"
    if retention:
        yield f"the same command after {report['earlier_versions_go']}: earlier versions go then"
    yield "kill -HUP each endpoint: its memory has the artifacts of before"
    yield "on other machines that ran jobs, delete $XDG_CACHE_HOME/xrec/mapped (~/.cache)"
    yield "delete their rows in the raw files: they are left out, and not deleted there"
