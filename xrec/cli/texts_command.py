"""`xrec explain`, `audit` and `publish`: a pair's text, and what may be shown of all of them."""

from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.printing import summary
from xrec.cli.reporting import ConfigPath, Overrides, reporting

if TYPE_CHECKING:
    from xrec.config.backfill import BackfillConfig

HELP = """One pair, explained, with what the model was given.

\b
In:   CONFIG, whose section backfill is used, but for its pairs; two ids
Out:  the explanation, with the prompt and the texts it was made from, on standard output

An id that neither the dataset nor cold_start holds is an error.

\b
Example:
  xrec explain configs/sample.yaml --user resident-17 --item place-3
"""

AUDIT_HELP = """Which published texts today's checks would refuse, and why.

For a list of unsafe words or a check that has changed. No text is written.

\b
In:   CONFIG, whose section backfill is used, but for its pairs
Out:  a line for each text that would be refused; with --takedown these pairs are taken down

\b
Example:
  xrec audit configs/yelp.yaml decoding.text.checks.unsafe_words=words.txt --takedown
"""

PUBLISH_HELP = """Publish a backfill that is done and was not published: a candidate.

The gate judges it again, by the bounds that the config has now. --force publishes whatever it says,
and what a rollback took back; its words stand in the table's log.

\b
In:   CONFIG, as for xrec backfill
Out:  a version of the table; with --look only the gate's figures, and thirty pairs, old and new

\b
Example:
  xrec publish configs/yelp.yaml --look
  xrec publish configs/yelp.yaml --force 'read thirty of them'
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
    config = _config(config_path, overrides)
    import jobs.explain

    for line in jobs.explain.run(config, user_id, item_id):
        typer.echo(line)


@reporting
def audit(
    config_path: ConfigPath,
    overrides: Overrides = None,
    takes_down: Annotated[
        bool, typer.Option("--takedown", help="Take the pairs of these texts down.")
    ] = False,
) -> None:
    config = _config(config_path, overrides)
    import jobs.explain

    for line in jobs.explain.audit(config, takes_down=takes_down):
        typer.echo(line)


@reporting
def publish(
    config_path: ConfigPath,
    overrides: Overrides = None,
    force: Annotated[
        str, typer.Option("--force", metavar="WHY", help="Publish whatever the gate says.")
    ] = "",
    is_look: Annotated[
        bool, typer.Option("--look", help="Show the candidate, and publish nothing.")
    ] = False,
) -> None:
    config = _config(config_path, overrides)
    import jobs.backfill

    if is_look:
        for line in jobs.backfill.look_at_candidate(config):
            typer.echo(line)
        return
    typer.echo(summary(jobs.backfill.publish(config, force), config.artifact("explanations")))


def _config(path: str, overrides: list[str] | None) -> "BackfillConfig":
    from xrec.config.backfill import BackfillConfig
    from xrec.config.project import load_config
    from xrec.storage import present

    return present(load_config(BackfillConfig, path, overrides or []))
