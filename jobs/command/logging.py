"""Where the `xrec` logger's lines go: to standard error, coloured on a terminal, else plain."""

import logging
import os
import sys


def configure_logging(debug: bool) -> None:
    """Show INFO and above of the `xrec` logger, and with `debug` everything.

    A second call replaces the handler of the first.
    """
    logger = logging.getLogger("xrec")
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False  # libraries that set up the root logger would show each line again
    logging.getLogger("DeepSpeed").addFilter(
        lambda record: record.levelno >= logging.ERROR
    )  # it warns that there is no GPU
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for each model loaded
    logger.handlers = [_terminal_handler() if sys.stderr.isatty() else _plain_handler()]


def quiet_ray() -> None:
    """Leave out Ray's own INFO lines. Call it after `import ray`, which sets their level."""
    logging.getLogger("ray").setLevel(logging.WARNING)


def _terminal_handler() -> logging.Handler:
    from rich.console import Console
    from rich.logging import RichHandler

    return RichHandler(console=Console(stderr=True), show_path=False, log_time_format="%H:%M:%S")


def _plain_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    )
    return handler
