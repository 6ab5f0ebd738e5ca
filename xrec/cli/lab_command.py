"""`xrec lab sheet` and `ratings`: people judge the texts of a comparison."""

from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.printing import text_table
from xrec.cli.reporting import ConfigPath, Overrides

if TYPE_CHECKING:
    from xrec.config import CompareConfig


def sheet(
    config_path: ConfigPath,
    to: Annotated[str, typer.Option(metavar="FILE", help="The CSV file to write.")],
    overrides: Overrides = None,
    num_pairs: Annotated[int, typer.Option("--pairs", min=2, help="Number of pairs.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of the order; give each judge another.")] = 0,
) -> None:
    """Write a blind sheet for human judges.

    It has a row per text of each entry's first seed, shuffled and without the entry's name, with
    what is known of the pair. The key stays in the comparison's folder.

    In:   CONFIG, and what xrec lab compare made of it
    Out:  a CSV file; judges fill in the columns true, personal and fluent, from 1 to 5

    Examples:
      xrec lab sheet configs/yelp.yaml --to anna.csv
      xrec lab sheet configs/yelp.yaml --to ben.csv --pairs 30 --seed 1
    """
    config = _config(config_path, overrides)
    from xrec.jobs.compare import write_sheet

    num_texts = write_sheet(config, to, num_pairs=num_pairs, seed=seed)
    typer.echo(f"{to}: {num_texts:,} texts")


def ratings(
    config_path: ConfigPath,
    sheets: Annotated[
        list[str], typer.Option("--sheet", metavar="FILE", help="A judge's sheet (repeatable).")
    ],
    overrides: Overrides = None,
) -> None:
    """Compare entries by the sheets of judges.

    In:   CONFIG, and a filled sheet per judge, of the same pairs
    Out:  each entry's mean scores with 95 % intervals, the differences to the first entry, and how
          far the judges agree

    Examples:
      xrec lab ratings configs/yelp.yaml --sheet anna.csv
      xrec lab ratings configs/yelp.yaml --sheet anna.csv --sheet ben.csv
    """
    config = _config(config_path, overrides)
    from xrec.jobs.compare import read_sheets

    found = read_sheets(config, sheets)
    first = next(iter(found.own))
    for what, means in (("entry", found.own), (f"minus {first}", found.minus_first)):
        rows = [
            [name, str(found.num_texts[name]), *(each.text(2) if each else "" for each in of_entry)]
            for name, of_entry in means.items()
        ]
        typer.echo(text_table((what, "texts", *found.agreement), rows) + "\n")
    agreement = ", ".join(
        f"{criterion} {'undefined' if alpha is None else format(alpha, '.2f')}"
        for criterion, alpha in found.agreement.items()
    )
    typer.echo(f"Agreement (Krippendorff's alpha): {agreement}")


def _config(path: str, overrides: list[str] | None) -> "CompareConfig":
    from xrec.backfill import present
    from xrec.config import CompareConfig, load_config

    return present(load_config(CompareConfig, path, overrides or []))
