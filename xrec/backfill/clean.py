"""Deletes files that do not count: those of attempts that lost, and those that were replaced.

A file that no commit record ever named was never visible to a reader of `xrec.backfill.read`. When
each chunk is committed, the driver deletes such files (`sweep`). A file that a later generation
replaced may still be read by someone who opened the dataset before, so `clean` deletes it only
when the manifest has some age. Both need the lease. Only `part-*.parquet` files, those in
`failed/` among them, and the records of attempts are deleted.

Two cases are not safe. If two drivers work at the same time (xrec.backfill.lease), `sweep` can
delete files of the other driver's retry. And if a retry or a compaction was interrupted before it
wrote its manifest, `clean` goes by the commit records and can delete files that the old manifest
still names; finish such a retry or compaction before `clean`.
"""

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from xrec.backfill.snapshot import Record, read_records, snapshot_of
from xrec.storage import Location, read_manifest, request_each

_OUTPUT_FILE = re.compile(r"(failed/)?part-[\w-]+\.parquet")


def sweep(output: Location, records: Iterable[Record]) -> int:
    """Delete the files that no record ever named, and the records of attempts.

    Every chunk must be committed. Returns the number of deleted files.
    """
    records = list(records)
    for record in records:
        (record.generation.root(output) / "attempts").delete()
    return _delete(output, _output_files(output) - _named(records))


def clean(output: Location, min_age_hours: float) -> int:
    """Delete the files that do not count and are older than `min_age_hours`.

    Returns the number of deleted files. Raises ArtifactNotFoundError if the run is not finished,
    because a run under way still needs the files of its attempts.
    """
    manifest = read_manifest(output, "explanations")
    records = read_records(output)
    before = datetime.now(UTC) - timedelta(hours=min_age_hours)
    garbage = _output_files(output) - snapshot_of(records).files.keys()
    if datetime.fromisoformat(manifest.created_at) > before:
        garbage -= _named(records)
    return _delete(output, [name for name in garbage if (output / name).modified_at() <= before])


def _named(records: Iterable[Record]) -> set[str]:
    return {name for record in records for name in record.files}


def _output_files(output: Location) -> set[str]:
    return {name for name in output.files() if _OUTPUT_FILE.fullmatch(name)}


def _delete(output: Location, names: Collection[str]) -> int:
    for _ in request_each(lambda name: (output / name).delete(), sorted(names)):
        pass
    return len(names)
