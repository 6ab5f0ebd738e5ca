"""The Ray cluster that a job runs on: the one it is already in, the one that is named, or one started here.

A cluster started here has a loopback address and no dashboard. Ray rewrites 127.0.0.1 to the host's own address, so it
gets 127.0.0.2. Ray's gRPC ports listen on every interface all the same; its token authentication, on by default, guards them.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray

from xrec.config import RayConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

LOOPBACK_ADDRESS = "127.0.0.2"
CONNECT_TIMEOUT_SECONDS = 5.0
# One torch thread a worker: two on two cores collapse when anything else runs. Gloo would take the host's interface.
LOCAL_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@contextmanager
def ensure_ray(config: RayConfig) -> Iterator[None]:
    """Ray is initialised inside the `with`; what this call connected or started is shut down at its end, nothing else.

    In this order: Ray as this process already has it; the cluster at `config.address` or RAY_ADDRESS; a new local
    cluster. Raises ClusterError if a named cluster cannot be reached within a few seconds, or does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local"):
        _start_local(config.num_cpus or max(2, os.cpu_count() or 2))
    else:
        _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(num_cpus: int) -> None:
    logger.info("starting a local Ray cluster with %d logical CPUs", num_cpus)
    with environment(LOCAL_ENVIRONMENT):
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=_show_worker_logs(),
            _node_ip_address=LOOPBACK_ADDRESS,
        )


def _connect(address: str) -> None:
    advice = (
        "check that the cluster runs, ray.address or RAY_ADDRESS, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH if it demands a token; "
        "leave the address out to start one on this machine"
    )
    if address != "auto":
        check_reachable(address, advice)
    logger.info("connecting to the Ray cluster at %s", address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=_show_worker_logs())
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ClusterError(f"the Ray cluster at {address!r} cannot be joined ({_root_cause(error)}); {advice}") from error


def _root_cause(error: BaseException) -> str:
    """What lies below: Ray says "failed to connect", and only at the end of a traceback, as text, that a token is wrong."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1].split(". ")[0]


def check_reachable(address: str, advice: str) -> None:
    """Raise ClusterError, with `advice`, if nothing listens at `address`: host:port, or a URL."""
    host, port = _host_and_port(address, advice)
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"nothing answers at {address!r} within {CONNECT_TIMEOUT_SECONDS:g} s ({error}); {advice}") from error


def _host_and_port(address: str, advice: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ClusterError(f"Ray address {address!r}: expected host:port, or a URL such as ray://host:port or http://host:8265; {advice}")
    return parts.hostname, port


def _show_worker_logs() -> bool:
    """Worker output goes to the driver's terminal only with --debug; without, it is in Ray's session folder."""
    return logger.isEnabledFor(logging.DEBUG)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """The process's environment with `variables`, inherited by what is started inside; as before afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
