"""Connect a process to a Ray cluster: the current one, a named one, or a new local one.

A cluster that is started here has a loopback address and no dashboard. The address is 127.0.0.2,
because Ray replaces 127.0.0.1 with the host's own address. Ray's gRPC ports still listen on every
interface; token authentication, which is on by default, protects them.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray

from xrec.config import RayConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

LOOPBACK_ADDRESS = "127.0.0.2"
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "GLOO_SOCKET_IFNAME": "lo",  # by default Gloo listens on the host's network interface
    "OMP_NUM_THREADS": "1",  # waiting threads spin, which halves the speed of a busy machine
    "RAY_worker_niceness": "0",  # Ray's default, 15, leaves workers 3 % of a shared core
}
# Ray serves metrics to anyone, without a token. A local cluster serves none: port -1 never opens.
_NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}
_CONNECT_SECONDS = 5.0  # Ray's own clients retry for minutes


@contextmanager
def ensure_ray(config: RayConfig, *, shows_workers: bool = False) -> Iterator[None]:
    """Keep Ray initialized inside the `with` block.

    Uses the first of these that exists: the Ray that this process is connected to; the cluster at
    `config.address` or RAY_ADDRESS; a new local cluster. Shuts down only what it connected or
    started. With `shows_workers`, or at log level DEBUG, the output of workers is printed.

    Raises ClusterError if the cluster does not start, does not respond, or refuses access.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    shows_workers = shows_workers or logger.isEnabledFor(logging.DEBUG)
    handler = signal.getsignal(signal.SIGTERM)
    if address in (None, "", "local"):
        _start_local(config.num_cpus or max(2, os.cpu_count() or 2), shows_workers)
    else:
        _connect(address, shows_workers)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray installs its own
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(num_cpus: int, shows_workers: bool) -> None:
    logger.info("starting a local Ray cluster with %d logical CPUs", num_cpus)
    metrics = {name: os.environ.get(name, value) for name, value in _NO_METRICS.items()}
    with environment(LOCAL_ENVIRONMENT | metrics):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=shows_workers,
                _node_ip_address=LOOPBACK_ADDRESS,
            )
        except Exception as error:  # Ray raises a bare Exception if a process is not up in 30 s
            raise ClusterError(
                f"could not start Ray on this machine ({_root_cause(error)}); check free memory, "
                "CPUs, and space in /tmp or RAY_TMPDIR, then run the command again; Ray's logs are "
                "in ray/session_latest/logs there",
                code="ray_not_started",
            ) from error


def _connect(address: str, shows_workers: bool) -> None:
    advice = (
        "check that the cluster is running, that ray.address or RAY_ADDRESS is right, and that "
        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is set if the cluster requires a token; "
        "without an address, Ray is started on this machine"
    )
    if address != "auto":
        check_reachable(address, advice)
    logger.info("connecting to the Ray cluster at %s", address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=shows_workers)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"cannot connect to the Ray cluster at {address!r} ({_root_cause(error)}); {advice}",
            code="ray_not_reached",
            saw=address,
        ) from error


def check_reachable(address: str, advice: str) -> None:
    """Raise ClusterError, ending with `advice`, if nothing answers at `address` within 5 seconds.

    `address` is host:port or a URL.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        port = None
    if not url.hostname or not port:
        raise ClusterError(
            f"invalid Ray address {address!r}; expected host:port, or a URL such as "
            f"ray://host:port or http://host:8265; {advice}",
            code="bad_address",
            saw=address,
        )
    try:
        socket.create_connection((url.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address!r} within {_CONNECT_SECONDS:g} s ({error}); {advice}",
            code="unreachable",
            saw=address,
        ) from error


def _root_cause(error: BaseException) -> str:
    """Return the last line of the innermost error.

    Ray's outer error only says "failed to connect"; a wrong token is reported at the end of a
    traceback in the text of the inner one.
    """
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1].split(". ")[0]


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """Set environment variables inside the `with` block; None unsets one.

    Processes that are started inside the block inherit them.
    """
    before = {name: os.environ.get(name) for name in variables}
    _set_environment(variables)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
