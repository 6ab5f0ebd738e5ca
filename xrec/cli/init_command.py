"""`xrec init`: a project file for a user's own files."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xrec.cli.printing import text_table
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from xrec.init.project import Findings

HELP = """A project file for your own files.

Looks at the files and finds which one holds users, items, interactions and explanations, or
reviews that these are to be written from, and what their columns mean, by their names.
Writes DIR/xrec.yaml, with comments, and with settings that fit the size of the data and this
machine. Never asks, and replaces no project file without --force.
Where texts are to be written from reviews, the file has two annotators: a language model, and one
that needs nothing, which is active unless --annotator says so.

\b
In:   a file, or a folder or s3:// prefix, of .csv, .tsv, .jsonl, .json (an object a line) or
      .parquet files
Out:  DIR/xrec.yaml; what was found and what is missing, on standard output

\b
Example:
  xrec init shop --from exports/2026-11
  xrec init shop --from reviews.jsonl.gz --annotator language-model
  xrec init shop --from export.csv --columns 'user_id=Kunde Nr,item_id=Artikel,review=Text'
  xrec run shop/xrec.yaml
"""


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
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=YOURS,...",
            help="What your columns are, where their names do not say it; may be repeated.",
        ),
    ] = None,
    annotator: Annotated[
        Literal["language-model", "phrases"],
        typer.Option(help="Who writes texts from reviews. The other one is left as a comment."),
    ] = "phrases",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a project file that is there.")
    ] = False,
) -> None:
    from xrec.init.project import init_project

    findings = init_project(
        directory, source, columns=_columns(columns or []), annotator=annotator, force=force
    )
    typer.echo("\n".join(_lines(findings)))


def _columns(given: Sequence[str]) -> dict[str, str]:
    """Our columns by the user's; raises ConfigError for a name that is none of ours."""
    from xrec.init.words import GIVEN

    parts = [part.partition("=") for each in given for part in re.split(r",(?=\w+=)", each)]
    for ours, _, theirs in parts:
        if ours not in GIVEN or not theirs:
            raise ConfigError(
                f"--columns: expected OURS=YOURS with one of {', '.join(GIVEN)}, saw "
                f"{ours}={theirs}",
                code="bad_column",
                key="--columns",
                saw=f"{ours}={theirs}",
            )
    return {theirs: ours for ours, _, theirs in parts}


def _lines(findings: "Findings") -> list[str]:
    from xrec.init.project import file_rows, notes

    counts = findings.survey
    explanations = sum(counts.num_explanations.values())
    what = "explanations" if findings.reviews is None else "reviews to explain from"
    return [
        text_table(("file", "rows", "table", "columns"), file_rows(findings)),
        "",
        f"{counts.num_users} users, {counts.num_items} items, "
        f"{counts.num_interactions} interactions, "
        f"{explanations} {what} ({counts.num_explanations['train']} to train on)",
        f"machine: {findings.machine.describe()}",
        *_section("to know:", notes(findings)),
        *_section("files of other kinds, not read:", findings.folder.others[:10]),
        "",
        f"wrote {findings.project_file}",
        f"next: xrec run {findings.project_file}",
    ]


def _section(title: str, lines: "list[str] | tuple[str, ...]") -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []
