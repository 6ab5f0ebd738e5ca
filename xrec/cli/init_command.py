"""`xrec init`: write a project file for a user's own files."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xrec.cli.printing import text_table
from xrec.errors import ConfigError

if TYPE_CHECKING:
    from xrec.init import Findings


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Folder of the project file.")],
    source: Annotated[
        str,
        typer.Option("--from", metavar="URI", help="Your files: a file, folder or s3:// prefix."),
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=YOURS,...", help="What your columns mean (repeatable)."),
    ] = None,
    annotator: Annotated[
        Literal["language-model", "phrases"],
        typer.Option(help="How to write texts from reviews."),
    ] = "phrases",
    force: Annotated[bool, typer.Option("--force", help="Replace the project file.")] = False,
) -> None:
    """Write a project file for your files.

    Finds out which files contain users, items, interactions, explanations or reviews, and what
    their columns mean. Chooses settings for the size of the data and this machine; never prompts.

    In:   .csv, .tsv, .jsonl, .json (one object per line) or .parquet files, or a dataset in a
          clone of github.com/HKUDS/XRec
    Out:  DIR/xrec.yaml, with comments; a report of what was found and what is missing

    Examples:
      xrec init shop --from exports/2026-11 && xrec run shop/xrec.yaml
      xrec init shop --from export.csv --columns 'user_id=Kunde Nr,item_id=Artikel,review=Text'
      xrec init yelp --from XRec/data/yelp
    """
    from xrec.init import init_project

    findings = init_project(
        directory, source, columns=_columns(columns or []), annotator=annotator, force=force
    )
    typer.echo("\n".join(_lines(findings)))


def _columns(given: Sequence[str]) -> dict[str, str]:
    """Return our column names by the user's names; raises ConfigError if ours is unknown."""
    from xrec.init import GIVEN

    parts = [part.partition("=") for text in given for part in re.split(r",(?=\w+=)", text)]
    for ours, _, theirs in parts:
        if ours not in GIVEN or not theirs:
            raise ConfigError(
                f"--columns {ours}={theirs}: expected OURS=YOURS, where OURS is one of "
                f"{', '.join(GIVEN)}",
                code="bad_column",
                key="--columns",
                saw=f"{ours}={theirs}",
            )
    return {theirs: ours for ours, _, theirs in parts}


def _lines(findings: "Findings") -> Iterator[str]:
    counts = findings.survey
    num_texts, num_train = sum(counts.num_explanations.values()), counts.num_explanations["train"]
    what = "explanations" if findings.guess.reviews is None else "reviews to explain from"
    yield text_table(("file", "rows", "table", "columns"), [*findings.rows()])
    yield (
        f"\n{counts.num_users} users, {counts.num_items} items, {counts.num_interactions} "
        f"interactions, {num_texts} {what} ({num_train} to train on)"
    )
    yield f"machine: {findings.machine}"
    sections = {"notes:": [*findings.notes()], "files not read:": findings.folder.others[:10]}
    for title, lines in sections.items():
        if lines:
            yield from ("", title, *(f"  {line}" for line in lines))
    yield f"\nwrote {findings.project_file}\nnext: xrec run {findings.project_file}"
