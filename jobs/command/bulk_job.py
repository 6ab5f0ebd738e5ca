"""What the commands of bulk jobs share: switches for keys given now and then, and their outlook."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.command.summary import show_config

if TYPE_CHECKING:
    from xrec.config.shared import JobConfig

Alongside = Annotated[
    bool,
    typer.Option(
        "--alongside",
        help="Begin also if another driver seems to be at work: alongside=true.",
    ),
]
BulkDryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved config as YAML, and as comments what the run would do and "
        "cost; nothing is written.",
    ),
]


def limit_option(rows: str) -> Any:
    """The option `--limit` of a job whose rows are called `rows`."""
    return typer.Option(
        "--limit",
        metavar="N",
        help=f"End once N {rows} are done, and publish nothing; the next run goes on: limit=N.",
    )


def switched_keys(limit: int | None, retry_failed: str | None, alongside: bool) -> list[str]:
    """The overrides that the switches stand for."""
    return [
        *([f"limit={limit}"] if limit is not None else []),
        *([f"retry_failed=[{retry_failed}]"] if retry_failed else []),
        *(["alongside=true"] if alongside else []),
    ]


def show_outlook(
    config: "JobConfig",
    look_ahead: Callable[[], Sequence[str]],
    unreadable: tuple[type[Exception], ...],
) -> None:
    """Print a config, and as comments what its run would do.

    unreadable: the errors of an input that cannot be read yet; that is said, and is no error.
    """
    show_config(config)
    try:
        lines = look_ahead()
    except unreadable as error:
        lines = [f"what the run would do cannot be said yet: {str(error).splitlines()[0]}"]
    for line in lines:
        typer.echo(f"# {line}")


def limit_reached(limit: int | None, rows: str) -> str:
    """What is said when a limit of `rows` ended a run before it was finished."""
    return (
        f"the limit of {limit:,} {rows} is reached, in whole chunks; the run is not finished, and "
        "the same command without a limit goes on"
    )
