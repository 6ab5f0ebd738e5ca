"""`xrec init`: a project file for a user's own files."""

from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.printing import text_table
from xrec.cli.reporting import reporting

if TYPE_CHECKING:
    from xrec.init.project import Findings

HELP = """A project file for your own files.

Looks at the files and finds which one holds users, items, interactions and explanations, or
reviews that these are to be written from, and what their columns mean, by their names.
Writes DIR/xrec.yaml, with comments, and with settings that fit the size of the data and this
machine. Never asks, and replaces no project file without --force.

\b
In:   a file, or a folder or s3:// prefix, of .csv, .tsv, .jsonl, .json (an object a line) or
      .parquet files
Out:  DIR/xrec.yaml; what was found and what is missing, on standard output

\b
Example:
  xrec init shop --from exports/2026-11
  xrec init shop --from reviews.jsonl.gz
  xrec run shop/xrec.yaml
"""


@reporting
def init(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder of the project file; made if needed.")
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="URI", help="Your files: a file, a folder or an s3:// prefix."
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a project file that is there.")
    ] = False,
) -> None:
    """Run xrec.init.project."""
    from xrec.init.project import init_project

    findings = init_project(directory, source, force=force)
    for line in _lines(findings):
        typer.echo(line)


def _lines(findings: "Findings") -> list[str]:
    from xrec.init.project import file_rows, missing_lines

    counts = findings.survey
    explanations = sum(counts.num_explanations.values())
    missing = missing_lines(findings)
    return [
        text_table(("file", "rows", "table", "columns"), file_rows(findings)),
        "",
        f"{counts.num_users} users, {counts.num_items} items, "
        f"{counts.num_interactions} interactions, "
        f"{explanations} {_texts(findings)} ({counts.num_explanations['train']} to train on)",
        f"machine: {findings.machine.describe()}",
        *_section("missing:", missing),
        *_section("files of other kinds, not read:", findings.folder.others[:10]),
        "",
        f"wrote {findings.project_file}",
        f"next: xrec run {findings.project_file}",
    ]


def _texts(findings: "Findings") -> str:
    return "explanations" if findings.reviews is None else "reviews to explain from"


def _section(title: str, lines: "list[str] | tuple[str, ...]") -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []
