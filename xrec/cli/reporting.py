"""What commands share: arguments, help, log lines, errors on standard error, and exit codes.

Exit codes are those of the errors (xrec.errors), and 130 after an interrupt. SIGTERM interrupts
like Ctrl-C, so that a stopped job shuts down cleanly.
"""

import functools
import inspect
import itertools
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xrec.cli.printing import scalars
from xrec.errors import XRecError, install_command, packages_of

FAILED = 1
INTERRUPTED = 130

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The project's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key=value",
        help="Config values to override, such as workspace=DIR; see --keys.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the resolved config, and what a bulk job would do and cost; change nothing.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON.")]


def keys_option(job: str) -> Any:
    """Return the option `--keys`, which lists config keys of `job` and exits."""

    def show(context: typer.Context, wanted: bool) -> None:
        if wanted:
            from xrec.config import job_keys

            typer.echo(job_keys(job, context.obj))
            raise typer.Exit

    help_text = "List the config keys, or those that contain the words after --keys."
    return typer.Option("--keys", callback=show, is_eager=True, help=help_text)


class _Command(TyperCommand):
    """A command that keeps the words after `--keys` for that option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--keys" in args:
            ctx.obj = args[args.index("--keys") + 1 :]
        return super().parse_args(ctx, args)


_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


class _Group(TyperGroup):
    """A command group whose help lists its commands in sections."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        items: Any = self.commands.items()
        sections = itertools.groupby(items, lambda item: item[1].rich_help_panel)
        for title, commands in sections:
            lines = [(name.ljust(width), each.get_short_help_str(60)) for name, each in commands]
            with formatter.section(title or "Commands"):
                formatter.write_dl(lines)


def new_app(*, add_completion: bool = False) -> typer.Typer:
    """Return a program without commands."""
    return typer.Typer(
        cls=_Group,
        add_completion=add_completion,
        context_settings=_HELP_OPTIONS,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
    )


def add_command(
    app: typer.Typer,
    work: Callable[..., None],
    section: str | None = None,
    *,
    passes_on: bool = False,
) -> None:
    """Add a function to `app` as a command named after it, with its docstring as help.

    Examples go to the end of the help. The command prints errors and exits with their codes.
    With `passes_on`, it accepts unknown options as arguments.
    """
    text, _, examples = inspect.cleandoc(work.__doc__ or "").partition("\n\nExamples:\n")
    app.command(
        work.__name__.rstrip("_"),
        cls=_Command,
        help=text.replace("\n\nIn:", "\n\n\b\nIn:"),  # \b: keep the lines as they are
        epilog=f"\b\nExamples:\n{examples}",
        rich_help_panel=section,
        context_settings={**_HELP_OPTIONS, "ignore_unknown_options": passes_on},
    )(_reporting(work))


_LOGGING_OPTIONS = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option(f"--{name}", help=text)],
    )
    for name, text in (
        ("debug", "Print debug lines, workers' output, and tracebacks."),
        ("quiet", "Print only warnings, errors and the result."),
    )
]


def _reporting(work: Callable[..., None]) -> Callable[..., None]:
    """Wrap `work` with the options `--debug` and `--quiet`, error messages and exit codes."""

    @functools.wraps(work)
    def command(*arguments: Any, debug: bool = False, quiet: bool = False, **options: Any) -> None:
        _configure_logging(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
        with _exit_codes(debug, bool(options.get("as_json"))):
            work(*arguments, **options)

    signature = inspect.signature(work)
    parameters = [*signature.parameters.values(), *_LOGGING_OPTIONS]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


@contextmanager
def _exit_codes(debug: bool, as_json: bool) -> Iterator[None]:
    """Turn the errors of the `with` block into messages and exit codes.

    With `debug`, the traceback is printed too; with `as_json`, a result on standard output. An
    unexpected error is a bug: it passes through with its traceback, and Python exits with 1.
    """
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield
    except XRecError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {error}", err=True)
        if as_json:
            metrics = dict(scalars(error.metrics))
            result = {"error": str(error), "exit_code": error.exit_code, "metrics": metrics}
            typer.echo(json.dumps(result))
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package.lower() not in _modules_of_clusters():
            raise
        typer.echo(
            f"error: this command needs the package {package}, which is not installed; "
            f"{install_command('cluster')}",
            err=True,
        )
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error


def _modules_of_clusters() -> set[str]:
    """Return the top-level modules of the packages in the extra `cluster`."""
    names = (re.split(r"[^\w-]", package)[0] for package in packages_of("cluster"))
    return {name.replace("-", "_").lower() for name in names}


def _configure_logging(level: int) -> None:
    """Log xrec's lines at this level and above to standard error, and quiet other libraries."""
    logger = logging.getLogger("xrec")
    logger.setLevel(level)
    logger.propagate = False  # a root logger that a library sets up would repeat each line
    # DeepSpeed warns that there is no GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    warnings.filterwarnings("ignore", message="Sparse ")  # torch's, about sparse matrices
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar per model loaded
    handler = logging.StreamHandler(sys.stderr)
    line = "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(line, datefmt="%H:%M:%S"))
    logger.handlers = [handler]
