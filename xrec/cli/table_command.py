"""`xrec table COMMAND URI` and `xrec export`: work with the table of a bulk job.

These commands run on any machine that can read the table, and import neither Ray nor torch.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xrec.cli.reporting import FAILED
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from xrec.bulk import Status
    from xrec.config import StorageConfig

OutputUri = Annotated[
    str, typer.Argument(metavar="URI", help="The table: a local folder or s3://bucket/prefix.")
]
StorageKeys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="storage.key=value",
        help="Access to s3://, if the AWS_* variables are not enough.",
    ),
]


def _storage(keys: list[str] | None) -> "StorageConfig":
    from xrec.config import storage_of

    return storage_of(keys or [])


def status(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    """Show the progress of the latest run.

    Works during the run, and exits with 0 even if the run is not done.

    In:   URI of the table
    Out:  phase, rows, rate, time left, costs, and the published version, as YAML

    Examples:
      xrec table status s3://my-bucket/run-7
      watch -n 10 xrec table status s3://my-bucket/run-7
    """
    import yaml

    from xrec.bulk import read_status

    values = status_values(read_status(uri, _storage(storage_keys)))
    typer.echo(yaml.safe_dump(values, sort_keys=False).rstrip())


def check(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    """Find what is wrong with a table.

    Reads records, the log, and the footers of files, but no rows.

    In:   URI of the table
    Out:  findings and how to fix them, errors first; exit code 1 if there are errors

    Examples:
      xrec table check s3://my-bucket/run-7
      xrec table check workspace/demo/explanations
    """
    from xrec.bulk import check_output

    findings = check_output(uri, _storage(storage_keys))
    lines = [f"{finding.severity}: {finding.what}" for finding in findings]
    typer.echo("\n".join(lines) or f"{uri}: nothing is wrong")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(FAILED)


def rollback(
    uri: OutputUri,
    version: Annotated[int, typer.Option("--version", help="Version to go back to.")],
    storage_keys: StorageKeys = None,
) -> None:
    """Publish an earlier version again.

    Refuses a version whose artifacts no longer exist, as after xrec forget.

    In:   URI of the table, and a version from xrec table history
    Out:  the number of the new version

    Examples:
      xrec table history s3://my-bucket/run-7
      xrec table rollback s3://my-bucket/run-7 --version 12
    """
    from xrec.backfill import refuse_without_inputs
    from xrec.bulk import rollback as roll_back

    refuse_without_inputs(uri.rstrip("/"), version, _storage(storage_keys))
    made = roll_back(uri, version, _storage(storage_keys))
    typer.echo(f"{uri}: version {made} has the rows of version {version}")


def empty(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    """Publish a version without rows.

    A rollback brings earlier versions back, until a vacuum deletes their files.

    In:   URI of the table
    Out:  the number of the new version

    Examples:
      xrec table empty s3://my-bucket/run-7
      xrec table rollback s3://my-bucket/run-7 --version 12
    """
    from xrec.bulk import empty as make_empty

    made = make_empty(uri, _storage(storage_keys))
    typer.echo(f"{uri}: version {made} has no rows; a rollback brings earlier ones back")


def history(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    """List the versions of a table.

    In:   URI of the table
    Out:  a line per version, newest first: when, by what, rows, model, and the gate's verdict

    Examples:
      xrec table history s3://my-bucket/run-7
      xrec table history workspace/demo/explanations
    """
    from xrec.bulk import history_of
    from xrec.cli.printing import text_table

    header = ("version", "made", "by", "rows", "model", "gate")
    typer.echo(text_table(header, list(history_of(uri, _storage(storage_keys)))))


def diff(
    uri: OutputUri,
    old: Annotated[int, typer.Argument(metavar="OLD", help="Earlier version.")],
    new: Annotated[int, typer.Argument(metavar="NEW", help="Later version.")],
    storage_keys: StorageKeys = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sample.")] = 0,
) -> None:
    """Compare the texts of two versions.

    In:   URI of a backfill's table, and two versions
    Out:  thirty pairs whose texts differ: both texts, and what else changed

    Examples:
      xrec table diff s3://my-bucket/run-7 3 4
      xrec table diff s3://my-bucket/run-7 3 4 --seed 1
    """
    from xrec.nights import diff_lines

    typer.echo("\n".join(diff_lines(uri, old, new, seed, _storage(storage_keys))))


def takedown(
    uri: OutputUri,
    storage_keys: StorageKeys = None,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="User ID.")] = "",
    item: Annotated[str, typer.Option("--item", metavar="ID", help="Item ID.")] = "",
    phrase: Annotated[
        str, typer.Option("--phrase", help="Whole words to find in the text, in any case.")
    ] = "",
    number: Annotated[int, typer.Option("--lift", help="Number of a takedown to lift.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Continue after entries of the list were deleted.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Reason, kept on the list.")] = "",
) -> None:
    """Hide rows now and in later versions.

    The endpoint hides them within five seconds. No run or rollback brings them back until you lift
    the takedown. Without options it prints the list.

    In:   URI of the table, the user, item, pair or phrase, and a reason
    Out:  the number of the takedown, and the version without the rows

    Examples:
      xrec table takedown s3://my-bucket/run-7 --user 17 --item 4711 --reason 'not true'
      xrec table takedown s3://my-bucket/run-7 --lift 2 --reason 'it was right'
    """
    from xrec.bulk import lift, restart_takedowns, take_down

    storage, ids = _storage(storage_keys), {"user_id": user, "item_id": item}
    row = {name: value for name, value in ids.items() if value}
    if not (row or phrase or number or restart or reason):
        typer.echo("\n".join(_takedown_lines(uri, storage)) or f"{uri}: nothing is taken down")
        return
    try:
        if number:
            lift(uri, number, reason, storage)
            typer.echo(f"{uri}: takedown {number} is lifted")
            return
        if restart:
            last = restart_takedowns(uri, reason, storage)
            typer.echo(f"{uri}: the list continues with number {last + 1}")
            return
        rows = [row] if row else []
        made = take_down(uri, rows=rows, phrase=phrase, reason=reason, storage=storage)
    except ValueError as error:
        raise ConfigError(f"takedown: {error}", code="bad_takedown") from error
    nothing = "no row matched" if made.version else "there was no table before; check the URI"
    effect = f"removed {made.num_rows:,} rows" if made.num_rows else nothing
    typer.echo(f"{uri}: takedown {made.number}: version {made.version}: {effect}")


def _takedown_lines(uri: str, storage: "StorageConfig") -> Iterator[str]:
    from xrec.bulk import read_takedowns
    from xrec.storage import open_location

    taken = read_takedowns(open_location(uri, storage))
    for number, entry in taken.entries.items():
        rows = ", ".join(" ".join(row.values()) for row in entry.rows[:3])
        users = f"{len(entry.users)} forgotten users"
        what = f"lifts {entry.lifts}" if entry.lifts else f"{entry.phrase or rows or users}"
        if entry.restarts or entry.is_blank:
            what = "restarts the list" if entry.restarts else "nothing any more"
        more = f" and {len(entry.rows) - 3} more" if len(entry.rows) > 3 else ""
        state = " (lifted)" if entry.takes_down and number not in taken.active else ""
        yield f"{number}  {entry.at}  {what}{more}{state}: {entry.reason}"


TABLE_COMMANDS = (status, check, history, diff, rollback, empty, takedown)


def export(
    uri: OutputUri,
    to: Annotated[str, typer.Option(metavar="URI", help="An empty folder for the files.")],
    storage_keys: StorageKeys = None,
    format: Annotated[Literal["parquet", "csv"], typer.Option(help="Output format.")] = "parquet",
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns to export. Default: all.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the table. Default: the published one.")
    ] = None,
) -> None:
    """Export published rows as plain files.

    Use it for programs that cannot read Delta tables. _SUCCESS lists the files, and is written
    last.

    In:   URI of the table
    Out:  Parquet or CSV files and _SUCCESS, in the folder --to

    Examples:
      xrec export s3://my-bucket/run-7 --to s3://my-bucket/run-7-files
      xrec export workspace/demo/explanations --to /tmp/texts --format csv --columns user_id,item_id
    """
    from xrec.bulk import export_run

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    storage = _storage(storage_keys)
    exported = export_run(uri, to, format=format, columns=names, version=version, storage=storage)
    typer.echo(
        f"{exported.location}: {exported.num_rows:,} rows of version {exported.version} in "
        f"{exported.num_files:,} files"
    )


def status_values(status: "Status") -> dict[str, Any]:
    """Return the status as plain values for JSON and YAML, with times in ISO 8601 and UTC."""
    from xrec.bulk import NOTES
    from xrec.progress import duration

    record, progress, manifest = status.record, status.progress, status.manifest
    return {
        "uri": status.uri,
        "kind": record.identity.kind,
        "run": record.run,
        "phase": status.phase,
        **({"note": NOTES[status.phase]} if status.phase in NOTES else {}),
        "rows": {
            "planned": record.num_rows,
            "ok": progress.num_ok if progress else 0,
            "failed": progress.num_failed if progress else 0,
            "left": status.num_left,
            "rejected": record.num_rejected,
            "taken_down": record.num_taken_down,
        },
        "rows_per_second": status.rows_per_second,
        "seconds_left": status.seconds_left,
        "time_left": duration(status.seconds_left) if status.seconds_left else None,
        "progress": progress.model_dump(mode="json") if progress else None,
        "published": manifest
        and {
            "version": manifest.version,
            "created_at": manifest.created_at,
            "is_this_run": status.is_published,
            "rows": dict(manifest.row_counts),
            "metrics": dict(manifest.metrics),
        },
    }
