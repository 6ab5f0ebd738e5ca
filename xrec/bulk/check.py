"""What is wrong with the output of a run, and what mends it. Nothing is written.

It reads the plan, the log up to its newest version, and one listing of the output's files. It opens
no data file, so a file that has its size and other bytes is not found.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import ValidationError

from xrec.bulk.plan import FOLDER, PLAN, PlanRecord, read_plan
from xrec.bulk.publish import PIN
from xrec.bulk.state import RunState, read_state, state_of
from xrec.config.shared import StorageConfig
from xrec.errors import DataError, StorageNotFoundError, TableError
from xrec.storage import MANIFEST, Location, open_location, request_each, storage_errors
from xrec.storage.process import may_be_at_work
from xrec.table import Commit, Snapshot, Table
from xrec.table.pins import pins
from xrec.table.vacuum import data_file_pattern

Severity = Literal["error", "warning", "note"]
_SHOWN = 3  # names of files in a message


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an output, or worth knowing.

    severity: `error` if the run cannot go on, or readers miss rows, until it is mended; `warning`
        if something is to be done; `note` if nothing need be done.
    what: what is so, with the place and the values seen. mend: what to do about it.
    """

    severity: Severity
    what: str
    mend: str


def check_output(uri: str, storage: StorageConfig | None = None) -> list[Finding]:
    """What is wrong with the output of the run at `uri`, or worth knowing, errors first.

    Raises StorageError if the store cannot be used.
    """
    storage = storage or StorageConfig()
    output = open_location(uri, storage)
    findings = list(_findings(output, _sizes(output), storage))
    return sorted(findings, key=lambda finding: get_args(Severity).index(finding.severity))


def _findings(
    output: Location, sizes: Mapping[str, int], storage: StorageConfig
) -> Iterator[Finding]:
    if PLAN not in sizes:
        yield _unplanned(output, sizes)
        return
    try:
        record = PlanRecord.model_validate_json((output / PLAN).read_bytes())
        read_plan(output)
    except ValidationError as error:
        yield Finding(
            "error",
            f"{output / PLAN}: not a plan that this xrec reads: {error}",
            "use the xrec that wrote it, or give another output URI",
        )
        return
    except DataError as error:
        yield Finding("error", str(error), "restore the file, or give another output URI")
    yield from _of_leftovers(output, sizes, record)
    try:
        table = Table.open(output.uri, run=record.identity.run, storage=storage)
    except TableError as error:
        yield Finding("error", str(error), "restore `_delta_log/`, or give another output URI")
        return
    yield from _of_table(table, sizes, record)


def _unplanned(output: Location, sizes: Mapping[str, int]) -> Finding:
    """Why there is no plan."""
    others = [name for name in sizes if not name.startswith((f"{FOLDER}/", "_delta_log/"))]
    if not sizes:
        return Finding("error", f"{output}: holds no files", "check the URI, or run its job first")
    if not any(name.startswith("_delta_log/") for name in sizes):
        return Finding(
            "error",
            f"{output}: holds no run, but {_some(others or sizes)}: the output of an older "
            "version of xrec, or of something else",
            "give another output URI; an older output is read by the xrec that wrote it",
        )
    if others:
        return Finding(
            "error",
            f"{output / PLAN}: the plan is missing, and the table has data: {_some(others)}; the "
            "table can still be read",
            "restore the file, or give another output URI",
        )
    return Finding(
        "warning",
        f"{output}: the run was begun and its plan not finished; a driver may be at it",
        "if none is, run the job again",
    )


def _of_leftovers(
    output: Location, sizes: Mapping[str, int], record: PlanRecord
) -> Iterator[Finding]:
    """Files of drivers that were not the first to finish a plan, or were killed."""
    left = [
        name
        for name in sizes
        if name.startswith((f"{FOLDER}/plan/", f"{FOLDER}/conditional-write-"))
        and not name.startswith(f"{record.folder}/")
    ]
    if left:
        yield Finding(
            "note",
            f"{output}: {_some(left)} of {_bytes(sizes, left)} are left of drivers that were "
            "killed at their start, or were not the first to finish the plan",
            "they may be deleted, if no driver starts at the moment",
        )


def _of_table(table: Table, sizes: Mapping[str, int], record: PlanRecord) -> Iterator[Finding]:
    newest = table.newest_version()
    version, finding = _newest_own_version(table, newest)
    if finding is not None:
        yield finding
    if version is None:
        return
    try:
        snapshot = table.snapshot(version)
    except TableError as error:
        yield Finding("error", str(error), "restore `_delta_log/`, or give another output URI")
        return
    try:
        commit, state = read_state(table, version)
    except TableError as error:
        yield Finding("error", str(error), "use the xrec that wrote it")
        return
    yield from _of_state(snapshot, commit, state, record)
    pinned = pins(table.location)
    yield from _of_manifest(table, version, state, MANIFEST in sizes, pinned)
    kept = {version: snapshot}
    yield from _of_pins(table, pinned, kept)
    yield from _of_files(table, sizes, kept)
    yield from _of_carry(table, record, state)


def _newest_own_version(table: Table, newest: int) -> tuple[int | None, Finding | None]:
    """The newest version that xrec committed, and what is to be said of later ones."""
    finding = None
    for version in range(newest, -1, -1):
        try:
            table.commit(version)
        except TableError as error:
            finding = Finding(
                "error",
                str(error),
                f"let no other program write to the table; {_advice(version)}",
            )
        except StorageNotFoundError:
            break
        else:
            return version, finding
    return None, finding


def _advice(version: int) -> str:
    return f"read version {version - 1}, and give another output URI to go on"


def _of_state(
    snapshot: Snapshot, commit: Commit, state: RunState | None, record: PlanRecord
) -> Iterator[Finding]:
    place = f"version {snapshot.version}"
    num_stated = state.num_table_rows if state else 0
    if num_stated != snapshot.rows:
        yield Finding(
            "error",
            f"{place}: the run's state counts {num_stated} rows, the table has {snapshot.rows}",
            "read an earlier version, and give another output URI to go on",
        )
    if state is None:
        yield Finding("note", f"no driver has committed any of {record.num_rows} rows", "run it")
    elif state.state == "finished" and state.num_rows != record.num_rows:
        yield Finding(
            "error",
            f"{place}: the run is finished, but has {state.num_rows} rows of {record.num_rows} "
            "that were planned",
            "give another output URI",
        )
    elif state.state == "running":
        yield _of_driver(commit, state, record)


def _of_driver(commit: Commit, state: RunState, record: PlanRecord) -> Finding:
    """Whether the driver of an unfinished run is at work."""
    left = f"{record.num_rows - state.num_rows} of {record.num_rows} rows are left"
    if state.is_retrying:
        left = f"retry {state.retry} of {', '.join(state.retry_reasons)} is not finished"
    if state.expires_at is None:
        return Finding("warning", f"{commit.holder} ended, and {left}", "run the job again")
    if not may_be_at_work(commit.holder, state.expires_at):
        return Finding(
            "warning",
            f"{commit.holder} died, or lost its store or cluster: it committed last at "
            f"{commit.committed_at:%Y-%m-%d %H:%M:%S} UTC, and {left}",
            "run the job again",
        )
    return Finding(
        "note",
        f"{commit.holder} is at work: it committed last at "
        f"{commit.committed_at:%Y-%m-%d %H:%M:%S} UTC, and {left}",
        "wait until it ends",
    )


def _of_manifest(
    table: Table,
    version: int,
    state: RunState | None,
    is_there: bool,
    pinned: Mapping[str, int],
) -> Iterator[Finding]:
    """Whether `manifest.json` names the newest version that is finished.

    Where a run is a part of an artifact, the manifest lies elsewhere; what it names is pinned too.
    """
    again = "run the job again, which writes it"
    if not is_there:
        is_named = any(name.startswith(PIN) and at == version for name, at in pinned.items())
        if state is not None and state.state == "finished" and not is_named:
            yield Finding("warning", f"the run is finished, and {MANIFEST} is missing", again)
        return
    try:
        named = int(json.loads((table.location / MANIFEST).read_bytes())["version"])
        table.snapshot(named)
    except (ValueError, KeyError, TypeError) as error:
        yield Finding("error", f"{MANIFEST}: names no version of the table: {error!r}", again)
        return
    except TableError as error:
        yield Finding("error", f"{MANIFEST}: names a version that cannot be read: {error}", again)
        return
    newest = _newest_finished(table, after=named, until=version)
    if newest is not None:
        yield Finding(
            "warning",
            f"{MANIFEST} names version {named}, and version {newest} is finished too; who reads by "
            f"{MANIFEST} does not see it",
            again,
        )
    elif named not in pinned.values():
        yield Finding(
            "warning",
            f"{MANIFEST} names version {named}, which no pin keeps: vacuum may delete its files "
            "once the table has later versions",
            again,
        )


def _newest_finished(table: Table, after: int, until: int) -> int | None:
    """The newest version, later than `after`, with which a run, a retry or a compaction ended."""
    versions = range(after + 1, until + 1)
    finished = [
        version
        for version, commit in zip(versions, request_each(table.commit, versions), strict=True)
        if commit.kind in ("write", "compact")
        and (state := state_of(commit)) is not None
        and state.state == "finished"
    ]
    return finished[-1] if finished else None


def _of_pins(
    table: Table, pinned: Mapping[str, int], kept: dict[int, Snapshot]
) -> Iterator[Finding]:
    """What is to be said of pins; their versions are added to `kept`."""
    for name, version in pinned.items():
        try:
            if version not in kept:
                kept[version] = table.snapshot(version)
        except TableError as error:
            yield Finding(
                "warning",
                f"pin {name}: its version cannot be read: {error}",
                f"delete {table.location}/{FOLDER}/pins/{name}.json",
            )
        else:
            if name.startswith("carry-"):
                yield Finding(
                    "note",
                    f"version {version} is kept by the pin {name} for a run that carries rows over",
                    f"if that run is finished or given up, delete {table.location}/{FOLDER}/pins/"
                    f"{name}.json",
                )


def _of_files(
    table: Table, sizes: Mapping[str, int], kept: Mapping[int, Snapshot]
) -> Iterator[Finding]:
    """Files that versions name and that are not there as they were, and files that none names."""
    known: set[str] = set()
    for version, snapshot in sorted(kept.items(), reverse=True):
        files = snapshot.files()
        stated = dict(zip(files["path"].to_pylist(), files["num_bytes"].to_pylist(), strict=True))
        broken = [path for path, size in stated.items() if sizes.get(path) != size]
        if broken:
            num_missing = sum(path not in sizes for path in broken)
            yield Finding(
                "error",
                f"{table.location}: of {len(stated)} files of version {version} {num_missing} are "
                f"missing and {len(broken) - num_missing} have another size: {_some(broken)}",
                "restore them; if they cannot be had, their rows are lost: give another output URI",
            )
        known.update(stated)
    pattern = data_file_pattern(table.format)
    unknown = [name for name in sizes if pattern.fullmatch(name) and name not in known]
    if unknown:
        yield Finding(
            "note",
            f"{table.location}: {_some(unknown)} of {_bytes(sizes, unknown)} are in neither the "
            "newest version nor a pinned one",
            "vacuum deletes those older than a day that no version within its retention needs",
        )


def _of_carry(table: Table, record: PlanRecord, state: RunState | None) -> Iterator[Finding]:
    """Whether rows can still be carried over from the earlier run, if that is to be done."""
    carry = record.carry
    if carry is None or (state is not None and state.num_rows == record.num_rows):
        return
    try:
        Table.open(carry.uri, run=carry.run, storage=table.storage).snapshot(carry.version)
    except TableError as error:
        yield Finding(
            "error",
            f"rows are to be carried over from version {carry.version} of {carry.uri}: {error}",
            "restore it, or give another output URI",
        )


def _sizes(output: Location) -> dict[str, int]:
    """The bytes of each file, by its path relative to the output."""
    root = f"{output.path.rstrip('/')}/"
    with storage_errors(output.uri):
        found = output.fs.find(output.path, detail=True)
    return {str(path).removeprefix(root): int(info["size"]) for path, info in found.items()}


def _some(names: Iterable[str]) -> str:
    """How many files there are, with the names of the first ones."""
    first = sorted(names)
    more = ", ..." if len(first) > _SHOWN else ""
    return f"{len(first)} files ({', '.join(first[:_SHOWN])}{more})"


def _bytes(sizes: Mapping[str, int], names: Iterable[str]) -> str:
    return f"{sum(sizes[name] for name in names)} bytes"
