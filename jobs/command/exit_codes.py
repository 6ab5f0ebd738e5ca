"""How a command ends: 0 done, 1 failed, 2 bad usage or config, 130 interrupted.

SIGTERM interrupts as Ctrl-C does, so a job that is stopped ends in order.

Of an expected error (XRecError) the message is printed on standard error, with --debug also the
traceback. An unexpected one is a bug: it passes through, and Python prints its traceback and exits
with 1.
"""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from xrec.errors import ConfigError, XRecError

FAILED = 1
BAD_USAGE = 2
INTERRUPTED = 130


@contextmanager
def exit_codes(debug: bool) -> Iterator[None]:
    """Turn the errors of the `with` body into messages and exit codes."""
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield
    except XRecError as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_USAGE if isinstance(error, ConfigError) else FAILED) from error
    except KeyboardInterrupt as error:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from error
