"""Job `serve`: the online endpoint, until it is interrupted."""

import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

from ray import serve

from xrec.checks import check_word_list
from xrec.cluster.connect import ensure_ray
from xrec.config import HTTPConfig, ServeConfig
from xrec.errors import ClusterError, XRecError
from xrec.generate.loading import check_sources, sources_of
from xrec.serve.app import APP, build, serve_options
from xrec.serve.artifacts import CHOICE, choice_of, read_lookup
from xrec.serve.model import DEAD
from xrec.storage import check_artifacts, location_of, open_location, present

logger = logging.getLogger("xrec")


def run(
    config: ServeConfig, read_again: Callable[[], ServeConfig], tell: Callable[[str], None]
) -> None:
    """Serve until interrupted. `tell` gets the endpoint's address.

    On SIGHUP the config that `read_again` returns is served; without a break if only artifacts
    differ. One that cannot be read or served is logged, and the earlier one stays.

    Raises what `check_sources` raises, ArtifactMismatchError for a backfill of another model,
    ClusterError.
    """
    config = checked(config)
    with (
        ExitStack() as end,
        ensure_ray(config.ray, shows_workers=True),
        _serving(config, end),
    ):
        tell(address_of(config))
        for _ in _hang_ups():
            try:
                config = checked(read_again())
                deploy(config)
            except XRecError as error:
                logger.error("the new config is not served, the earlier one stays: %s", error)
            else:
                logger.info("the new config is served")


def checked(config: ServeConfig) -> ServeConfig:
    """`config` with URIs that any process can open.

    Raises if the artifacts that it names, and else those of the last night, do not fit together.
    """
    check_artifacts(config, *CHOICE)
    there = present(config)
    sources = sources_of(there)
    workspace = open_location(config.workspace, config.storage).shared_uri
    named = [name for name, uri in choice_of(config).items() if uri]
    shared = {name: location_of(config, name).shared_uri for name in named}
    check_word_list(config.decoding.text.checks, config.storage)
    read_lookup(there, check_sources(sources).model)
    return config.model_copy(update={**shared, "workspace": workspace, "llm": sources.llm})


def deploy(config: ServeConfig) -> None:
    """Start the application on the Ray cluster, or change the one that runs.

    Returns when it is ready. Raises ClusterError.
    """
    with _start_errors("see the logs of its replicas"):
        serve.run(build(config), name=APP, route_prefix="/")


def drain(config: ServeConfig) -> None:
    """Let all frontends refuse new requests, and wait for those in flight until their deadline."""
    with suppress(TimeoutError, *DEAD):  # a frontend died, or there is none
        drained = serve.get_app_handle(APP).broadcast("drain")
        drained.results(timeout_s=config.http.deadline_seconds + 5, return_exceptions=True)


def address_of(config: ServeConfig) -> str:
    host = f"[{config.http.host}]" if ":" in config.http.host else config.http.host
    return f"{'https' if config.http.tls else 'http'}://{host}:{config.http.port}"


@contextmanager
def _start_errors(advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise ClusterError(
            f"the endpoint could not be started: {lines[-1]}; {advice}", code="not_started"
        ) from error


@contextmanager
def _serving(config: ServeConfig, end: ExitStack) -> Iterator[None]:
    is_own = config.ray.address is None and not os.environ.get("RAY_ADDRESS")
    logs = {"enable_access_log": False, "log_level": "WARNING"}
    http = config.http
    advice = f"saw http.port={http.port} and http.tls={http.tls}; expected a free port, and a PEM "
    advice += "file of certificates and their key, or null"
    with _start_errors(advice):
        if is_own:
            _check_door(http)
        serve.start(**serve_options(config), logging_config=logs)
    try:
        deploy(config)
        try:
            yield
        finally:
            drain(config)
    finally:  # also if a second signal ended the wait
        # What Ray says of its own end is no line of a request.
        end.enter_context(redirect_stdout(sys.stderr))
        serve.delete(APP)
        if is_own:
            serve.shutdown()


def _check_door(http: HTTPConfig) -> None:
    """Raise OSError for a TLS file that is none, or a port that is taken.

    Serve says nothing of such a file, and does not listen; and it shares a port with the proxies of
    another cluster, each of which would get some of the requests.
    """
    if http.tls:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(http.tls)
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    socket.create_server((http.host, http.port), family=family).close()


def _hang_ups() -> Iterator[None]:
    """Yield at each SIGHUP. SIGINT and SIGTERM raise KeyboardInterrupt, which ends the wait."""
    happened = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: happened.set())
    # SIGINT too: it is ignored in a process that a shell started in the background.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    while True:
        if happened.wait(1):
            happened.clear()
            yield
