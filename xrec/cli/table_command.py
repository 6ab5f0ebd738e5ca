"""`xrec table COMMAND URI` and `xrec export`, on the table of a bulk job.

They run on any machine and import neither Ray nor torch.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xrec.cli.reporting import FAILED, new_app
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from xrec.bulk import Status
    from xrec.config.shared import StorageConfig

STATUS_HELP = """How far the run is that was planned last, and what is published.

Works on any machine that can read the output, also while the run is at work. Nothing is written.

\b
In:   URI of the output
Out:  phase, rows, rate, time left, driver, costs, and the published version, as YAML; exit code 0
      also if the run is not done

\b
Example:
  xrec table status s3://my-bucket/run-7
  watch -n 10 xrec table status s3://my-bucket/run-7
"""

CHECK_HELP = """What is wrong with an output, and how to mend it.

Reads records, the log, lists and footers of files, but no rows. Nothing is written.

\b
In:   URI of the output
Out:  what was found, errors first; exit code 1 if there is an error

\b
Example:
  xrec table check s3://my-bucket/run-7
"""

ROLLBACK_HELP = """Publish the rows of an earlier version again, as the next version.

\b
In:   URI of the output, and the version
Out:  the number of the new version, which readers take from now on

\b
Example:
  xrec table rollback s3://my-bucket/run-7 --version 12
"""

EMPTY_HELP = """Publish a version without rows.

Earlier versions stay, and a rollback brings them back, until a vacuum deletes their files.

\b
In:   URI of the output
Out:  the number of the new version

\b
Example:
  xrec table empty s3://my-bucket/run-7
"""

HISTORY_HELP = """The versions of a table: when, by what, of which model, and what the gate said.

\b
In:   URI of the output
Out:  a line for each version, the newest first; rollback takes the numbers

\b
Example:
  xrec table history s3://my-bucket/run-7
"""

DIFF_HELP = """Thirty pairs whose text differs between two versions of a backfill's table.

\b
In:   URI of the output, and two versions
Out:  old and new text of each pair, and what differs of its row; another --seed draws others

\b
Example:
  xrec table diff s3://my-bucket/run-7 3 4
"""

TAKEDOWN_HELP = """Take rows out of a table, and keep them out of all later versions.

The endpoint keeps it within five seconds. No run and no rollback brings the rows back until it is
lifted; then the next run does, or a rollback. If it is interrupted, the same command goes on. If
entries of the list were deleted, all commands on the table end with an error; --restart goes on
without them.

\b
In:   URI of the output, what to take down or to lift, and why; without it the list is printed
Out:  the number of the takedown, and the version without the rows

\b
Example:
  xrec table takedown s3://my-bucket/run-7 --user 17 --item 4711 --reason 'says what is not so'
  xrec table takedown s3://my-bucket/run-7 --phrase 'happy ending' --reason 'is ambiguous'
  xrec table takedown s3://my-bucket/run-7 --lift 2 --reason 'it was right'
"""

EXPORT_HELP = """The published rows as plain files, for programs that do not read Delta tables.

The folder must be empty. It has no _SUCCESS, which lists the files, until it is whole.

\b
In:   URI of the output of a bulk job
Out:  in the folder --to: files of rows, and _SUCCESS last

\b
Example:
  xrec export s3://my-bucket/run-7 --to s3://my-bucket/run-7-files
  xrec export workspace/demo/explanations --to /tmp/texts --format csv --columns user_id,explanation
"""

OutputUri = Annotated[
    str, typer.Argument(metavar="URI", help="The output: a local folder or s3://bucket/prefix.")
]
StorageKeys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[storage.key=value ...]",
        help="How s3:// is reached, if the AWS variables do not say it.",
    ),
]

app = new_app(no_args_is_help=True)


def _storage(keys: list[str] | None) -> "StorageConfig":
    from xrec.config.shared import storage_of

    return storage_of(keys or [])


@app.command("status", help=STATUS_HELP)
def status(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    import yaml

    from xrec.bulk import read_status

    found = status_values(read_status(uri, _storage(storage_keys)))
    typer.echo(yaml.safe_dump(found, sort_keys=False).rstrip())


@app.command("check", help=CHECK_HELP)
def check(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    from xrec.bulk import check_output

    findings = check_output(uri, _storage(storage_keys))
    lines = [f"{finding.severity}: {finding.what}" for finding in findings]
    typer.echo("\n".join(lines) or f"{uri}: nothing is wrong")
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(FAILED)


@app.command("rollback", help=ROLLBACK_HELP)
def rollback(
    uri: OutputUri,
    version: Annotated[int, typer.Option("--version", help="The version to go back to.")],
    storage_keys: StorageKeys = None,
) -> None:
    from xrec.bulk import rollback as roll_back

    made = roll_back(uri, version, _storage(storage_keys))
    typer.echo(f"{uri}: version {made} has the rows of version {version}")


@app.command("empty", help=EMPTY_HELP)
def empty(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    from xrec.bulk import empty as make_empty

    made = make_empty(uri, _storage(storage_keys))
    typer.echo(f"{uri}: version {made} has no rows; a rollback brings earlier ones back")


@app.command("history", help=HISTORY_HELP)
def history(uri: OutputUri, storage_keys: StorageKeys = None) -> None:
    from xrec.bulk import history_of
    from xrec.cli.printing import text_table

    header = ("version", "made", "by", "rows", "model", "gate")
    typer.echo(text_table(header, list(history_of(uri, _storage(storage_keys)))))


@app.command("diff", help=DIFF_HELP)
def diff(
    uri: OutputUri,
    old: Annotated[int, typer.Argument(metavar="OLD", help="A version.")],
    new: Annotated[int, typer.Argument(metavar="NEW", help="Another version.")],
    storage_keys: StorageKeys = None,
    seed: Annotated[int, typer.Option("--seed", help="Which pairs are drawn.")] = 0,
) -> None:
    from xrec.backfill.gate import diff_lines

    typer.echo("\n".join(diff_lines(uri, old, new, seed, _storage(storage_keys))))


@app.command("takedown", help=TAKEDOWN_HELP)
def takedown(
    uri: OutputUri,
    storage_keys: StorageKeys = None,
    user: Annotated[str, typer.Option("--user", metavar="ID", help="All rows of a user.")] = "",
    item: Annotated[str, typer.Option("--item", help="Of an item; with --user the pair.")] = "",
    phrase: Annotated[
        str, typer.Option("--phrase", help="Texts with these words, as whole ones, in any case.")
    ] = "",
    number: Annotated[int, typer.Option("--lift", help="A takedown that holds no more.")] = 0,
    restart: Annotated[
        bool, typer.Option("--restart", help="Go on without entries that were deleted.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands on the list.")] = "",
) -> None:
    from xrec.bulk import lift, restart_takedowns, take_down

    storage, ids = _storage(storage_keys), {"user_id": user, "item_id": item}
    row = {name: value for name, value in ids.items() if value}
    if not (row or phrase or number or restart or reason):
        typer.echo("\n".join(takedown_lines(uri, storage)) or f"{uri}: nothing is taken down")
        return
    try:
        if number:
            lift(uri, number, reason, storage)
            typer.echo(f"{uri}: takedown {number} is lifted")
            return
        if restart:
            made_number = restart_takedowns(uri, reason, storage)
            typer.echo(f"{uri}: the list goes on with number {made_number + 1}")
            return
        made = take_down(
            uri, rows=[row] if row else [], phrase=phrase, reason=reason, storage=storage
        )
    except ValueError as error:
        raise ConfigError(f"takedown: {error}", code="bad_takedown") from error
    nothing = "no row had it" if made.version else "no table was there before; is that the URI?"
    found = f"without {made.num_rows:,} rows that it had" if made.num_rows else nothing
    typer.echo(f"{uri}: takedown {made.number}: version {made.version}: {found}")


def takedown_lines(uri: str, storage: "StorageConfig") -> Iterator[str]:
    """The list of takedowns for a reader, a line each."""
    from xrec.bulk import read_takedowns
    from xrec.storage import open_location

    taken = read_takedowns(open_location(uri, storage))
    for number, entry in taken.entries.items():
        rows = ", ".join(" ".join(row.values()) for row in entry.rows[:3])
        people = f"{len(entry.users)} forgotten users"
        what = f"lifts {entry.lifts}" if entry.lifts else f"{entry.phrase or rows or people}"
        if entry.restarts or entry.is_blank:
            what = "restarts the list" if entry.restarts else "nothing any more"
        more = f" and {len(entry.rows) - 3} more" if len(entry.rows) > 3 else ""
        is_over = entry.takes_down and number not in taken.active
        state = " (lifted)" if is_over else ""
        yield f"{number}  {entry.at}  {what}{more}{state}: {entry.reason}"


def export(
    uri: OutputUri,
    to: Annotated[str, typer.Option(metavar="URI", help="Folder of the files, of their own.")],
    storage_keys: StorageKeys = None,
    format: Annotated[Literal["parquet", "csv"], typer.Option(help="Of the files.")] = "parquet",
    columns: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns of the files. Default: all.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="Version of the table. Default: the published one.")
    ] = None,
) -> None:
    from xrec.bulk import export_run

    names = None if columns is None else [each.strip() for each in columns.split(",")]
    storage = _storage(storage_keys)
    exported = export_run(uri, to, format=format, columns=names, version=version, storage=storage)
    typer.echo(
        f"{exported.location}: {exported.num_rows:,} rows of version {exported.version} in "
        f"{exported.num_files:,} files"
    )


def status_values(status: "Status", now: datetime | None = None) -> dict[str, Any]:
    """The status for a reader and for programs, as values of JSON and YAML.

    Times are ISO 8601 in UTC. `now` is for tests.
    """
    from xrec.bulk import NOTES
    from xrec.progress import duration

    record, progress, manifest = status.record, status.progress, status.manifest
    phase = status.phase(now or datetime.now(UTC))
    return {
        "uri": status.uri,
        "kind": record.identity.kind,
        "run": record.run,
        "phase": phase,
        **({"note": NOTES[phase]} if phase in NOTES else {}),
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
