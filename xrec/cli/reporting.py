"""What commands share: arguments, log lines on standard error, messages for errors, exit codes.

Exit codes are those of the errors (xrec.errors), and 130 if it is interrupted. SIGTERM interrupts
as Ctrl-C does, so a job that is stopped ends in order.
"""

import functools
import inspect
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

from xrec.cli.printing import scalars
from xrec.errors import XRecError, install_command, packages_of

FAILED = 1
INTERRUPTED = 130

ConfigPath = Annotated[
    str, typer.Argument(metavar="CONFIG", help="The project's YAML file; see configs/.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[key=value ...]",
        help="Values that replace the file's: workspace=DIR, a job's training.num_epochs=3, a "
        "project's train-adapter.training.num_epochs=3.",
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
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as one line of JSON, for programs.")
]


def keys_option(job: str) -> Any:
    """The option `--keys`, which lists the keys of the config of `job` and stops."""

    def show(wanted: bool) -> None:
        if wanted:
            from xrec.config import job_keys

            typer.echo(job_keys(job))
            raise typer.Exit

    return typer.Option(
        "--keys", callback=show, is_eager=True, help="List all keys of its config and stop."
    )


class _Program(typer.Typer):
    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        add = super().command(*arguments, **options)
        return lambda work: add(_reporting(work))


def new_app(*, no_args_is_help: bool = False) -> typer.Typer:
    """An empty program, whose commands print errors and end by their exit codes."""
    return _Program(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=no_args_is_help,
    )


_WITH_DEBUG = "Also debug lines, workers' output, and the traceback of an error."
_WITH_QUIET = "No lines of progress: warnings, errors and the result only."
_OF_LINES = [
    inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, typer.Option(f"--{name}", help=told)],
    )
    for name, told in (("debug", _WITH_DEBUG), ("quiet", _WITH_QUIET))
]


def _reporting(work: Callable[..., None]) -> Callable[..., None]:
    """Return `work` as a command, which has the options `--debug` and `--quiet` too."""

    @functools.wraps(work)
    def command(*arguments: Any, debug: bool = False, quiet: bool = False, **options: Any) -> None:
        _configure_logging(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
        with _exit_codes(debug, bool(options.get("as_json"))):
            work(*arguments, **options)

    signature = inspect.signature(work)
    parameters = [*signature.parameters.values(), *_OF_LINES]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


@contextmanager
def _exit_codes(debug: bool, as_json: bool) -> Iterator[None]:
    """Turn the errors of the `with` body into messages and exit codes.

    Of an expected error (XRecError) the message is printed on standard error, with `debug` also the
    traceback, and with `as_json` a result on standard output. An unexpected one is a bug: it passes
    through, and Python prints its traceback and exits with 1.
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
            told = {"error": str(error), "exit_code": error.exit_code}
            typer.echo(json.dumps({**told, "metrics": dict(scalars(error.metrics))}))
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package.lower() not in _only_on_clusters():
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


def _only_on_clusters() -> set[str]:
    """Return the top-level modules of the packages that the extra `cluster` adds."""
    names = (re.split(r"[^\w-]", each)[0] for each in packages_of("cluster"))
    return {name.replace("-", "_").lower() for name in names}


def _configure_logging(level: int) -> None:
    """Show lines of the `xrec` logger from this level on, on standard error."""
    logger = logging.getLogger("xrec")
    logger.setLevel(level)
    logger.propagate = False  # libraries that set up the root logger would show each line again
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: record.levelno >= logging.ERROR
    )  # it warns that there is no GPU
    warnings.filterwarnings("ignore", message="Sparse ")  # torch's, of sparse matrices
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for each model loaded
    handler = logging.StreamHandler(sys.stderr)
    form = "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(logging.Formatter(form, datefmt="%H:%M:%S"))
    logger.handlers = [handler]
