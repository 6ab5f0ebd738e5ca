"""Publishes a finished version of a run's table: `manifest.json` says which one readers take.

The table's log is what counts. The manifest is derived from it, so it can be written again at any
time, and a driver that was stopped can do no harm by writing an old one: whoever writes it looks at
the log again afterwards.
"""

import itertools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from xrec.bulk.backoff import with_backoff
from xrec.bulk.run import BulkRun
from xrec.bulk.state import RunState, read_state
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import Kind, Manifest, read_manifest, write_manifest

PIN = "published-"
"""How the pins' names begin that keep published versions from vacuum."""

Describe = Callable[[int, RunState], tuple[Mapping[str, int], Mapping[str, Any]]]
"""The manifest's row counts and metrics, from a version and the state there."""


def publish(run: BulkRun, kind: Kind, describe: Describe) -> Manifest | None:
    """Let the manifest name the newest finished version, and return it.

    Nothing is written if it does so already. While a retry is under way that is the version before
    it. Returns None if the run was never finished. A compaction changes the version and no row, so
    the fingerprint stays: it is that of the run, of the rows that were planned, and of the number
    of retries.

    A store that fails is tried again after 1, 4 and 16 seconds: a long run shall not end with an
    error because of one request. Raises StorageError then.
    """
    return with_backoff(lambda: _publish(run, kind, describe))


def _publish(run: BulkRun, kind: Kind, describe: Describe) -> Manifest | None:
    while (finished := finished_version(run)) is not None:
        version, state = finished
        manifest = published(run, kind)
        if manifest is not None and manifest.version == version:
            return manifest
        run.table.pin(f"{PIN}{version}", version)  # readers come as soon as the manifest is there
        row_counts, metrics = describe(version, state)
        identity = run.plan.record.identity
        write_manifest(
            run.plan.output,
            kind,
            config=identity.config,
            inputs=identity.inputs,
            version=version,
            content={"rows": run.plan.record.rows_fingerprint, "retries": state.retry},
            row_counts=row_counts,
            metrics=metrics,
        )
    return published(run, kind)


def published(run: BulkRun, kind: Kind) -> Manifest | None:
    """The manifest that is there; None if there is none."""
    try:
        return read_manifest(run.plan.output, kind)
    except ArtifactNotFoundError:
        return None


def finished_version(run: BulkRun) -> tuple[int, RunState] | None:
    """The newest finished version, and the state there; None if the run was never finished.

    That is the commit with which a run or a retry ended, or a compaction of it. Take-overs and
    vacuums that came later have the same files.
    """
    version = run.table.newest_version()
    num_rows = run.plan.record.num_rows
    _, state = read_state(run.table, version)
    while state is not None and state.state != "finished" and state.num_rows == num_rows:
        version -= 1  # a retry is under way, or about to begin
        _, state = read_state(run.table, version)
    if state is None or state.state != "finished":
        return None
    commit = run.table.commit(version)
    while commit.kind in ("take-over", "vacuum"):
        try:
            commit = run.table.commit(version - 1)
        except StorageNotFoundError:  # a vacuum shortened the log
            break
        version -= 1
    return version, state


def release_older(run: BulkRun, manifest: Manifest, retention: timedelta) -> None:
    """Let vacuum delete versions that were followed by another one more than `retention` ago.

    Until then someone may still read them. The version that `manifest` names stays.
    """
    until = datetime.now(UTC) - retention
    for (version, _), (_, was_followed_at) in itertools.pairwise(_published_at(run)):
        if version != manifest.version and was_followed_at <= until:
            run.table.unpin(f"{PIN}{version}")


def _published_at(run: BulkRun) -> list[tuple[int, datetime]]:
    """The versions that are pinned because they were published, and when, in their order."""
    folder = run.plan.output / "_xrec" / "pins"
    names = [name for name in folder.files() if name.startswith(PIN)]
    return sorted(
        (int(name.removeprefix(PIN).removesuffix(".json")), (folder / name).modified_at())
        for name in names
    )
