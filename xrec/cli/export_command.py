"""`xrec export`: the published rows of a table as plain files."""

from typing import Annotated

import typer

from xrec.cli.reporting import reporting
from xrec.cli.table_command import OutputUri, StorageKeys

HELP = """The published rows as plain files, for programs that do not read Delta tables.

The folder must be empty. It has no _SUCCESS, which lists the files, until it is whole. If the
export is interrupted, the same command goes on.

\b
In:   URI of the output of a bulk job; storage.key=value if the AWS variables do not say how s3://
      is reached
Out:  in the folder --to: files of rows, _export.json, and _SUCCESS last

\b
Example:
  xrec export s3://my-bucket/run-7 --to s3://my-bucket/run-7-files
  xrec export workspace/demo/explanations --to /tmp/texts --format csv --columns user_id,explanation
"""


@reporting
def export(
    uri: OutputUri,
    to: Annotated[
        str, typer.Option("--to", metavar="URI", help="Folder of the files, of their own.")
    ],
    storage_keys: StorageKeys = None,
    format: Annotated[
        str, typer.Option("--format", metavar="parquet|csv", help="Format of the files.")
    ] = "parquet",
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B,...", help="Columns of the files. Default: all."),
    ] = None,
    version: Annotated[
        int | None,
        typer.Option("--version", help="Version of the table. Default: the published one."),
    ] = None,
) -> None:
    """Run xrec.bulk.export_run."""
    from xrec.bulk import export_run
    from xrec.config.base import parse_config
    from xrec.config.export import ExportConfig
    from xrec.config.storage import storage_of

    settings = parse_config(
        ExportConfig,
        {
            "uri": to,
            "format": format,
            "columns": None if columns is None else _names(columns),
        },
        "xrec export",
    )
    exported = export_run(uri, settings, version=version, storage=storage_of(storage_keys or []))
    there = "written" if exported.is_new else "already there"
    typer.echo(
        f"{exported.location}: {there}: {exported.num_rows:,} rows of version "
        f"{exported.version} in {exported.num_files:,} files"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
