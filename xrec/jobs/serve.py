"""Job `serve`: the online endpoint, until it is interrupted."""

import logging
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack

from xrec.backfill import present
from xrec.backfill.identity import check_writer
from xrec.cluster import ensure_ray
from xrec.config import ServeConfig
from xrec.errors import XRecError
from xrec.jobs import check_readable
from xrec.serve.artifacts import read_lookup
from xrec.serve.deployment import deploy, deployed
from xrec.text.writers import writer_key

logger = logging.getLogger("xrec")


def run(
    config: ServeConfig, reload: Callable[[], ServeConfig], ready: Callable[[str], None]
) -> None:
    """Serve until interrupted, and pass the endpoint's URL to `ready`.

    On SIGHUP, serves the config that `reload` returns, without downtime if only artifacts differ.
    If that config cannot be read or served, logs the error and keeps the earlier one.

    Raises what `check_writer` and `writer_key` raise, ArtifactMismatchError for a backfill of
    another model, and ClusterError; KeyboardInterrupt on SIGINT and SIGTERM.
    """
    hung_up = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: hung_up.set())
    # SIGINT too: it is ignored in a process that a shell started in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    config = checked(config)
    with (
        ExitStack() as end,
        ensure_ray(config.ray, shows_workers=True),
        deployed(config, end) as url,
    ):
        ready(url)
        while True:
            if not hung_up.wait(1):
                continue
            hung_up.clear()
            try:
                config = checked(reload())
                deploy(config)
            except XRecError as error:
                logger.error("the new config is not served; the earlier one stays: %s", error)
            else:
                logger.info("the new config is served")


def checked(config: ServeConfig) -> ServeConfig:
    """Return `config` if its artifacts, or those of the last night, fit together."""
    check_readable(config)
    current = present(config)
    writer_key(current)
    read_lookup(current, check_writer(current))
    return config
