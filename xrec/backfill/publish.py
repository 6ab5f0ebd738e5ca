"""Publishes a finished version of a run's table: `manifest.json` says which one readers take.

The table's log is what counts. The manifest is derived from it, so it can be written again at any
time, and a driver that was stopped can do no harm by writing an old one: whoever writes it looks at
the log again afterwards.
"""

from datetime import UTC, datetime, timedelta

from xrec.bulk import BulkRun, RunState, read_state
from xrec.errors import ArtifactNotFoundError, StorageNotFoundError
from xrec.storage import Manifest, read_manifest, write_manifest

_PIN = "published-"


def finished_version(run: BulkRun) -> tuple[int, RunState] | None:
    """The newest version with rows of its own, and the state there; None if the run is unfinished.

    That is the commit with which a run or a retry ended, or a compaction of it. Take-overs and
    vacuums that came later have the same files.
    """
    version = run.table.newest_version()
    _, state = read_state(run.table, version)
    if state is None or state.state != "finished":
        return None
    while run.table.commit(version).kind in ("take-over", "vacuum"):
        try:
            run.table.commit(version - 1)
        except StorageNotFoundError:  # a vacuum shortened the log
            break
        version -= 1
    return version, state


def publish(run: BulkRun) -> Manifest | None:
    """Let the manifest name the newest finished version, and return it.

    Nothing is written if it does so already. While a retry is under way the manifest stays as it
    is. Returns None if the run was never finished.
    """
    while (finished := finished_version(run)) is not None:
        version, state = finished
        manifest = published(run)
        if manifest is not None and manifest.version == version:
            return manifest
        run.table.pin(f"{_PIN}{version}", version)  # readers come as soon as the manifest is there
        _write(run, version, state)
    return published(run)


def published(run: BulkRun) -> Manifest | None:
    """The manifest that is there; None if there is none."""
    try:
        return read_manifest(run.plan.output, "explanations")
    except ArtifactNotFoundError:
        return None


def release_older(run: BulkRun, manifest: Manifest, retention: timedelta) -> None:
    """Let vacuum delete what was published before `manifest`, if that is older than `retention`."""
    if datetime.now(UTC) - datetime.fromisoformat(manifest.created_at) < retention:
        return  # someone may still read the version before
    folder = run.plan.output / "_xrec" / "pins"
    for name in folder.files():
        pin = name.removesuffix(".json")
        if pin.startswith(_PIN) and pin != f"{_PIN}{manifest.version}":
            run.table.unpin(pin)


def _write(run: BulkRun, version: int, state: RunState) -> None:
    record = run.plan.record
    write_manifest(
        run.plan.output,
        "explanations",
        config=record.identity.config,
        inputs=record.identity.inputs,
        version=version,
        row_counts={
            "explanations": state.num_ok,
            "failed": state.num_failed,
            "rejected": record.num_rejected,
        },
        metrics={
            "num_chunks": record.num_chunks,
            "num_buckets": record.num_buckets,
            "num_carried": int(state.costs.get("carried", 0)),
            "num_retries": state.retry,
            "failed_by_reason": state.failed,
        },
    )
