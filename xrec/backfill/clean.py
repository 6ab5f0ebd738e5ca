"""What an output holds that counts for nothing: files of attempts that lost, and files that a later generation replaced.

A file that no commit record ever named was never seen by a reader; when each chunk has its winner the driver sweeps them
away. A file that was replaced may still be read by who opened the dataset before: it goes only when the manifest that
replaced it has some age. Both need the lease. Nothing but `part-*.parquet` and the records of attempts is touched.
"""

import re
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta

from xrec.backfill.snapshot import Record, read_records, snapshot_of
from xrec.storage import Location, read_manifest, request_each

_OUTPUT_FILE = re.compile(r"(failed/)?part-[\w-]+\.parquet")


def sweep(output: Location, records: Iterable[Record]) -> int:
    """Delete the files that no record ever named, and what attempts left; returns the number of files. Every chunk must be committed."""
    records = list(records)
    for record in records:
        (record.generation.root(output) / "attempts").delete()
    return _delete(output, _output_files(output) - _named(records))


def clean(output: Location, min_age_hours: float) -> int:
    """Delete the files that count for nothing and are older than `min_age_hours`; returns their number.

    Raises ArtifactNotFoundError if the run is not finished: what attempts left is then still needed.
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
