"""`xrec explain`: one pair, printed, with what the model was given."""

from typing import Annotated

import typer

from xrec.cli.reporting import ConfigPath, Overrides, reporting

HELP = """One pair, explained, with what the model was given.

\b
In:   CONFIG, whose section backfill is used, but for its pairs; two ids
Out:  the explanation, with the prompt and the texts it was made from, on standard output

An id that neither the dataset nor cold_start holds is an error.

\b
Example:
  xrec explain configs/sample.yaml --user resident-17 --item place-3
"""


@reporting
def explain(
    config_path: ConfigPath,
    user_id: Annotated[
        str, typer.Option("--user", metavar="ID", help="user_id, as in the dataset.")
    ],
    item_id: Annotated[
        str, typer.Option("--item", metavar="ID", help="item_id, as in the dataset.")
    ],
    overrides: Overrides = None,
) -> None:
    """Run jobs.explain on one pair."""
    from xrec.config.backfill import BackfillConfig
    from xrec.config.project import load_config

    config = load_config(BackfillConfig, config_path, overrides or [])
    import jobs.explain
    from jobs.output import present

    for line in jobs.explain.run(present(config), user_id, item_id):
        typer.echo(line)
