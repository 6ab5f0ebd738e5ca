"""`xrec explain`, `audit`, `publish` and `forget`: explain a pair, and control what is shown."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.printing import summary, to_stderr
from xrec.cli.reporting import FAILED, AsJson, ConfigPath, Overrides
from xrec.errors import ConfigError, StorageNotFoundError

if TYPE_CHECKING:
    from xrec.config import BackfillConfig, StorageConfig


def explain(
    config_path: ConfigPath,
    user_id: Annotated[str, typer.Option("--user", metavar="ID", help="User ID.")],
    item_id: Annotated[str, typer.Option("--item", metavar="ID", help="Item ID.")],
    overrides: Overrides = None,
) -> None:
    """Explain one pair and show its prompt.

    Runs in this process, with the settings of the section backfill.

    In:   CONFIG and two IDs of the dataset
    Out:  the explanation, the prompt, and the texts that went into it

    Examples:
      xrec explain configs/sample.yaml --user resident-17 --item place-3
      xrec explain configs/sample.yaml --user resident-17 --item place-3 decoding.max_new_tokens=40
    """
    config = _config(config_path, overrides)
    from xrec.jobs.explain import explain as explain_pair

    typer.echo("\n".join(explain_pair(config, user_id, item_id)))


def audit(
    config_path: ConfigPath,
    overrides: Overrides = None,
    takes_down: Annotated[bool, typer.Option("--takedown", help="Take these pairs down.")] = False,
) -> None:
    """Find published texts that fail the checks.

    Use it after the list of unsafe words or a check has changed. It writes no texts.

    In:   CONFIG, with the section backfill
    Out:  a line per text that would be refused today, and why

    Examples:
      xrec audit configs/yelp.yaml
      xrec audit configs/yelp.yaml decoding.text.checks.unsafe_words=words.txt --takedown
    """
    config = _config(config_path, overrides)
    from xrec.jobs.audit import audit as audit_texts

    for line in audit_texts(config, takes_down=takes_down):
        typer.echo(line)


def publish(
    config_path: ConfigPath,
    overrides: Overrides = None,
    force: Annotated[str, typer.Option(metavar="WHY", help="Publish despite the gate.")] = "",
    is_look: Annotated[
        bool, typer.Option("--look", help="Show the candidate without publishing it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a finished backfill.

    Takes the newest unpublished run, and passes it through the gate again, with the limits in
    CONFIG. --force publishes it anyway, and keeps your reason in the table's log.

    In:   CONFIG, as for xrec backfill or refresh
    Out:  a version of the table; with --look the gate's figures and thirty pairs, old and new

    Examples:
      xrec publish configs/yelp.yaml --look
      xrec publish configs/yelp.yaml --force 'read thirty of them'
    """
    config = _config(config_path, overrides)
    from xrec.nights import look_at_candidate, publish_candidate

    if is_look:
        typer.echo("\n".join(look_at_candidate(config)))
        return
    manifest = publish_candidate(config, force)
    typer.echo(summary(manifest, config.artifact("explanations"), as_json=as_json))


def forget(
    config_path: ConfigPath,
    overrides: Overrides = None,
    users: Annotated[
        str | None, typer.Option(metavar="FILE", help="File of user IDs, one per line.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option("--user", metavar="ID", help="User ID (repeatable).")
    ] = None,
    retention: Annotated[
        float, typer.Option(min=0, max=1e6, help="Hours to keep earlier versions.")
    ] = 168,
    is_later: Annotated[
        bool, typer.Option("--later", help="Hide the rows now; the next call does the rest.")
    ] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Accept IDs that are nowhere.")
    ] = False,
    is_check: Annotated[
        bool, typer.Option("--check", help="Show where forgotten people remain.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove people from a project.

    Hides their rows at once, waits for running jobs, remakes what was made from their data, and
    deletes the rest. Run the same command again to continue; without IDs it continues with everyone
    who was named before. --check deletes nothing, and exits with 1 if somebody remains.

    In:   CONFIG and user IDs
    Out:  as JSON, also in <workspace>/forgotten/reports: what was removed, when earlier versions
          are deleted, and what is left to do; with --check, where people remain and until when

    Examples:
      xrec forget shop/xrec.yaml --users leaving.txt
      xrec forget shop/xrec.yaml --check
    """
    from xrec.config import read_project
    from xrec.jobs.pipeline import chosen_configs, refresh
    from xrec.nights import check_forgotten
    from xrec.nights import forget as forget_people

    project = read_project(config_path, overrides or [])
    if is_check:
        found = check_forgotten(project, timedelta(hours=retention))
        typer.echo(json.dumps(found, indent=None if as_json else 2))
        raise typer.Exit(0 if found["is_clean"] else FAILED)
    storage = next((each.storage for each in project.configs(project.jobs).values()), None)
    user_ids = [*(_read_ids(users, storage) if users else ()), *(user or ())]
    report = forget_people(
        project,
        [user_id for user_id in user_ids if user_id.strip()],
        refresh=lambda: refresh(
            chosen_configs(project),
            reread=True,
            source=project.source,
            tell=to_stderr,
        ),
        retention=timedelta(hours=retention),
        later=is_later,
        allow_unknown=allow_unknown,
        tell=to_stderr,
    )
    typer.echo(json.dumps(report, indent=None if as_json else 2))


def _read_ids(uri: str, storage: "StorageConfig | None") -> list[str]:
    """Return the IDs in a file, one per line; raises ConfigError for blanks around an ID."""
    from xrec.storage import open_location

    try:
        text = open_location(uri, storage).read_bytes().decode("utf-8-sig")
    except (StorageNotFoundError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--users {uri}: expected a text file in UTF-8: {error}",
            code="unreadable_file",
            key="--users",
            saw=uri,
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() not in ("", line):
            raise ConfigError(
                f"--users {uri}: line {number} has blanks around the ID; remove them, or pass the "
                "ID with --user",
                code="blanks_beside_id",
                key="--users",
                saw=number,
            )
    return lines


def _config(path: str, overrides: list[str] | None) -> "BackfillConfig":
    from xrec.backfill import present
    from xrec.config import BackfillConfig, load_config

    return present(load_config(BackfillConfig, path, overrides or []))
