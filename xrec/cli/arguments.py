"""Programs, arguments and options that several commands share."""

from typing import Annotated, Any

import typer

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="The project's YAML file; see configs/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[section.key=value ...]",
        help="Values that replace the file's, for example training.num_epochs=3.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved config as YAML, and of a bulk job what a run would do and cost; "
        "nothing is touched.",
    ),
]


def keys_option(job: str) -> Any:
    """The option `--keys`, which lists the keys of the config of `job` and stops."""

    def show(wanted: bool) -> None:
        if wanted:
            from xrec.cli.keys import job_keys

            typer.echo(job_keys(job))
            raise typer.Exit

    return typer.Option(
        "--keys", callback=show, is_eager=True, help="List all keys of its config and stop."
    )


def new_app(*, no_args_is_help: bool = False) -> typer.Typer:
    """An empty program, without shell completion and coloured tracebacks."""
    return typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=no_args_is_help,
    )
