"""`xrec explain`, `audit`, `publish`, `forget`: a pair's text, and what may be shown of all."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.printing import summary
from xrec.cli.reporting import AsJson, ConfigPath, Overrides
from xrec.errors import ConfigError, StorageNotFoundError

if TYPE_CHECKING:
    from xrec.config import BackfillConfig

HELP = """One pair, explained, with what the model was given.

\b
In:   CONFIG, whose section backfill is used, but for its pairs; two ids
Out:  the explanation, with the prompt and the texts it was made from, on standard output

An id that the dataset does not hold is an error.

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
In:   CONFIG, as for xrec backfill or refresh; the last night's run is taken, if it is not published
Out:  a version of the table; with --look only the gate's figures, and thirty pairs, old and new

\b
Example:
  xrec publish configs/yelp.yaml --look
  xrec publish configs/yelp.yaml --force 'read thirty of them'
"""

FORGET_HELP = """People leave a project: its tables, artifacts, and all that is made later.

Puts hashes of their ids on a list first, then tables get a version without their rows, a night
(xrec refresh) makes again what has them, and what had them is deleted. If it is interrupted, the
same command goes on. Without names it goes on with those who are on the list.

\b
In:   CONFIG; a file of ids, one a line
Out:  as JSON: what was removed where, when earlier versions go, which models may have learned from
      them, what is left to you

\b
Example:
  xrec forget shop/xrec.yaml --users leaving.txt
  xrec forget shop/xrec.yaml --retention 0
"""


def explain(
    config_path: ConfigPath,
    user_id: Annotated[str, typer.Option("--user", metavar="ID", help="As in the dataset.")],
    item_id: Annotated[str, typer.Option("--item", metavar="ID", help="As in the dataset.")],
    overrides: Overrides = None,
) -> None:
    config = _config(config_path, overrides)
    import xrec.jobs.explain

    typer.echo("\n".join(xrec.jobs.explain.run(config, user_id, item_id)))


def audit(
    config_path: ConfigPath,
    overrides: Overrides = None,
    takes_down: Annotated[
        bool, typer.Option("--takedown", help="Take the pairs of these texts down.")
    ] = False,
) -> None:
    config = _config(config_path, overrides)
    import xrec.jobs.explain

    for line in xrec.jobs.explain.audit(config, takes_down=takes_down):
        typer.echo(line)


def publish(
    config_path: ConfigPath,
    overrides: Overrides = None,
    force: Annotated[str, typer.Option(metavar="WHY", help="Publish in spite of the gate.")] = "",
    is_look: Annotated[
        bool, typer.Option("--look", help="Show the candidate, and publish nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    config = _config(config_path, overrides)
    import xrec.jobs.backfill

    if is_look:
        typer.echo("\n".join(xrec.jobs.backfill.look_at_candidate(config)))
        return
    manifest = xrec.jobs.backfill.publish(config, force)
    typer.echo(summary(manifest, config.artifact("explanations"), as_json=as_json))


Users = Annotated[
    str | None, typer.Option("--users", metavar="FILE", help="Their ids, one a line; or s3://.")
]
Retention = Annotated[
    float, typer.Option("--retention", min=0, max=1e6, help="Hours that earlier versions stay.")
]
Later = Annotated[
    bool, typer.Option("--later", help="Do what takes seconds; the next call does the rest.")
]


def forget(
    config_path: ConfigPath,
    overrides: Overrides = None,
    users: Users = None,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="One.")] = None,
    retention: Retention = 168,
    is_later: Later = False,
    as_json: AsJson = False,
) -> None:
    from xrec.config import read_project
    from xrec.jobs.forget import forget as forget_people
    from xrec.storage import open_location

    project = read_project(config_path, overrides or [])
    storage = next((each.storage for each in project.configs(project.jobs).values()), None)
    try:
        data = open_location(users, storage).read_bytes() if users else b""
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (StorageNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--users {users}: expected a text file in UTF-8: {error}",
            code="unreadable_file",
            key="--users",
            saw=str(users),
        ) from error
    if blank := [n for n, line in enumerate(lines, start=1) if line.strip() not in ("", line)]:
        where = f"--users {users}: line {blank[0]}"
        raise ConfigError(
            f"{where}: blanks beside the id; take them out, or give it by --user",
            code="blanks_beside_id",
            key="--users",
            saw=blank[0],
        )
    report = forget_people(
        project,
        [each for each in (*lines, *(user or ())) if each.strip()],
        retention=timedelta(hours=retention),
        later=is_later,
        tell=lambda line: typer.echo(line, err=True),
    )
    typer.echo(json.dumps(report, indent=None if as_json else 2))


def _config(path: str, overrides: list[str] | None) -> "BackfillConfig":
    from xrec.config import BackfillConfig, load_config
    from xrec.storage import present

    return present(load_config(BackfillConfig, path, overrides or []))
