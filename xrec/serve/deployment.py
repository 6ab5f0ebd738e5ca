"""Start, update and stop the application on a Ray cluster."""

import os
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress

from ray import serve

from xrec.config import HTTPConfig, ServeConfig
from xrec.errors import ClusterError
from xrec.serve.app import APP, build, serve_options
from xrec.serve.model import DEAD


@contextmanager
def deployed(config: ServeConfig, end: ExitStack) -> Iterator[str]:
    """Start the endpoint and yield its URL; on exit, drain and delete it.

    From the exit until `end` closes, standard output is redirected to standard error, because Ray
    prints there and only request lines belong there. Raises ClusterError if the start fails.
    """
    http = config.http
    is_own = config.ray.address is None and not os.environ.get("RAY_ADDRESS")
    logs = {"enable_access_log": False, "log_level": "WARNING"}
    with _start_errors(
        f"saw http.port={http.port} and http.tls={http.tls}; expected a free port, and null or a "
        "PEM file with certificates and their key"
    ):
        if is_own:
            _check_port_and_tls(http)
        serve.start(**serve_options(config), logging_config=logs)
    try:
        deploy(config)
        try:
            host = f"[{http.host}]" if ":" in http.host else http.host
            yield f"{'https' if http.tls else 'http'}://{host}:{http.port}"
        finally:
            drain(config)
    finally:  # even if a second signal interrupts the drain
        end.enter_context(redirect_stdout(sys.stderr))
        serve.delete(APP)
        if is_own:
            serve.shutdown()


def deploy(config: ServeConfig) -> None:
    """Start or update the application and wait until it is ready; raise ClusterError."""
    with _start_errors("see the logs of its replicas"):
        serve.run(build(config), name=APP, route_prefix="/")


def drain(config: ServeConfig) -> None:
    """Make all frontends refuse new requests, and wait for those in flight."""
    with suppress(TimeoutError, *DEAD):  # a frontend has died, or there is none
        drained = serve.get_app_handle(APP).broadcast("drain")
        drained.results(timeout_s=config.http.deadline_seconds + 5, return_exceptions=True)


@contextmanager
def _start_errors(advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        raise ClusterError(
            f"the endpoint could not be started: {lines[-1]}; {advice}", code="not_started"
        ) from error


def _check_port_and_tls(http: HTTPConfig) -> None:
    """Raise OSError for an invalid TLS file or a port in use.

    With such a file, Serve reports no error and does not listen. With such a port, it would share
    the requests with the proxies of another cluster.
    """
    if http.tls:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(http.tls)
    family = socket.AF_INET6 if ":" in http.host else socket.AF_INET
    socket.create_server((http.host, http.port), family=family).close()
