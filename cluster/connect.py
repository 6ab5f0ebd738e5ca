"""The Ray cluster that a job runs on: the one it is already in, the one that is named, or one started here.

A cluster started here has a loopback address and no dashboard. Ray rewrites 127.0.0.1 to the host's own address, so it
gets 127.0.0.2. Ray's gRPC ports listen on every interface all the same; its token authentication, on by default, guards them.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from cluster import record
from cluster.address import named_cluster
from cluster.node import LOCAL_ENVIRONMENT
from cluster.reach import check_reachable
from xrec.config.shared import RayConfig
from xrec.errors import ClusterError

logger = logging.getLogger("xrec")

LOOPBACK_ADDRESS = "127.0.0.2"


@contextmanager
def ensure_ray(config: RayConfig) -> Iterator[None]:
    """Ray is initialised inside the `with`; what this call connected or started is shut down at its end, nothing else.

    In this order: Ray as this process already has it; the cluster at `config.address` or RAY_ADDRESS, an address or the name of
    one that `xrec cluster up` started here; a new local cluster. Raises ConfigError for an unknown name, ClusterError if a
    cluster cannot be reached within a few seconds, or does not let us in.
    """
    if ray.is_initialized():
        yield
        return
    address = config.address or os.environ.get("RAY_ADDRESS")
    local = named_cluster(address) if address and record.is_name(address) else None
    with _authentication({**local.environment, "RAY_AUTH_TOKEN": None} if local else {}):
        if address in (None, "", "local"):
            _start_local(config.num_cpus or max(2, os.cpu_count() or 2))
        else:
            _connect(local.address if local else address)
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _authentication(variables: Mapping[str, str | None]) -> Iterator[None]:
    """The environment with `variables`, which Ray is told to read again: it does so at its import only."""
    if not variables:
        yield
        return
    try:
        with environment(variables):
            _read_authentication_again()
            yield
    finally:
        _read_authentication_again()


def _read_authentication_again() -> None:
    """What `ray get-auth-token` and Ray's own tests do; there is no public call for it."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


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
        raise ClusterError(
            f"the Ray cluster at {address!r} cannot be joined ({_root_cause(error)}); {advice}"
        ) from error


def _root_cause(error: BaseException) -> str:
    """What lies below: Ray says "failed to connect", and only at the end of a traceback, as text, that a token is wrong."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1].split(". ")[0]


def _show_worker_logs() -> bool:
    """Worker output goes to the driver's terminal only with --debug; without, it is in Ray's session folder."""
    return logger.isEnabledFor(logging.DEBUG)


@contextmanager
def environment(variables: Mapping[str, str | None]) -> Iterator[None]:
    """The process's environment with `variables`, None for one that is unset, inherited by what is started inside; as before afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
