"""Ends a generation: checks the share of failed rows, deletes files that lost, writes the manifest.

The manifest is replaced as a whole, so a reader sees one generation or the next. `_SUCCESS` is
written last; it says that the run was finished at least once. It does not say that
`part-*.parquet` are the rows that count: carried files lie elsewhere, files that a compaction
replaced stay until `--clean`, and a retry under way adds files. Only a run that carried nothing
and was neither retried nor compacted can be read by that pattern; others need
`xrec.backfill.read`, or the list of files in the manifest.
"""

from xrec.backfill.clean import sweep
from xrec.backfill.plan import SUCCESS, BackfillPlan
from xrec.backfill.report import write_report
from xrec.backfill.snapshot import RecordLog, snapshot_of
from xrec.backfill.tally import tally_of
from xrec.storage import Manifest, write_manifest


def finish(
    plan: BackfillPlan,
    max_failed_share: float,
    price_per_actor_hour: float | None = None,
    log: RecordLog | None = None,
) -> Manifest:
    """Write the report and the manifest of all that is committed, and return the manifest.

    `log` holds the records that the driver has read already. Raises DataError if too many rows
    failed.
    """
    records = (log or RecordLog(plan.output)).read()
    snapshot = snapshot_of(records)
    assert snapshot.num_rows == plan.num_rows, (snapshot.num_rows, plan.num_rows)
    tally_of(snapshot).check(plan, max_failed_share)
    sweep(plan.output, records)
    write_report(plan.output, records, price_per_actor_hour)
    manifest = write_manifest(
        plan.output,
        "explanations",
        config=plan.identity.config,
        inputs=plan.identity.inputs,
        files=snapshot.files,
        row_counts={"explanations": snapshot.num_explained, "failed": snapshot.num_failed},
        metrics={
            "generation": snapshot.generation,
            "num_chunks": len(plan.chunks),
            "num_carried": snapshot.num_carried,
            "num_carried_files": sum(
                name.startswith(("/", "s3://")) for name in snapshot.explained
            ),
            "compacted": snapshot.row_groups,
            "failed_by_reason": snapshot.failed_by_reason,
        },
    )
    (plan.output / SUCCESS).write_bytes(b"")
    return manifest
