"""A job sent to a Ray cluster through its Jobs API: code and config go up, the log comes down.

The job's working folder on the cluster holds xrec/, jobs/, cluster/ and the config file, nothing else. What the job
reads and writes must therefore lie where every node finds it.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient

import xrec
from cluster.connect import check_reachable
from cluster.token import auth_headers
from xrec.config import JobConfig
from xrec.errors import ClusterError, ConfigError

_PACKAGES = ("xrec", "jobs", "cluster")
_URI_KEYS = frozenset({"workspace", "uri", "release", "dataset", "graph", "adapter", "explanations", "evaluation"})
_NUM_REASON_LINES = 15


def submit_job(module: str, config_path: str, overrides: Sequence[str], address: str) -> str:
    """Start `python -m jobs.<module> <config> <overrides>` on the cluster whose job server is at `address` (URL).

    AWS_* variables of this process go with it. Returns the submission id; raises ClusterError.
    """
    client = _client(address)
    arguments = [Path(config_path).name, *overrides]
    with _working_folder(Path(config_path)) as folder:
        try:
            return str(
                client.submit_job(
                    entrypoint=f"python -m jobs.{module} {shlex.join(arguments)}",
                    runtime_env={"working_dir": str(folder), "env_vars": _passed_variables()},
                    metadata={"job": module},
                )
            )
        except (RuntimeError, OSError) as error:
            raise ClusterError(f"{address}: the job server refused the job: {error}") from error


def follow_job(submission_id: str, address: str, write: Callable[[str], None]) -> None:
    """Hand the job's log to `write` as it comes, until the job ends.

    Raises ClusterError with the reason and the log's last lines if it did not succeed. KeyboardInterrupt leaves it running.
    """
    client = _client(address)
    last_lines: deque[str] = deque(maxlen=_NUM_REASON_LINES)

    async def tail() -> None:
        async for text in client.tail_job_logs(submission_id):
            write(text)
            last_lines.extend(text.splitlines())

    try:
        asyncio.run(tail())
        info = client.get_job_info(submission_id)
    except (RuntimeError, OSError) as error:
        raise ClusterError(f"{address}: the log of {submission_id} broke off ({error}); the job may go on: ray job logs {submission_id}") from error
    if info.status != JobStatus.SUCCEEDED:
        raise ClusterError(_reason(submission_id, info, last_lines))


def check_shared_paths(config: JobConfig) -> None:
    """Raise ConfigError if `config` names a relative path: it would lie in the job's own folder on the cluster."""
    relative = [f"{key}={value}" for key, value in _uris(config.model_dump()) if "://" not in value and not os.path.isabs(value)]
    if relative:
        raise ConfigError(
            f"relative path {', '.join(relative)}: a submitted job has a folder of its own on the cluster, which is deleted; "
            "give an s3:// URI, or an absolute path on a disk that all nodes share"
        )


def _client(address: str) -> JobSubmissionClient:
    advice = "check that the cluster runs and that this is its job server, http://host:8265 by default"
    check_reachable(address, advice)
    try:
        return JobSubmissionClient(address, headers=auth_headers())
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise ClusterError(f"{address}: the job server cannot be used ({error}); {advice}") from error


@contextmanager
def _working_folder(config_path: Path) -> Iterator[Path]:
    """A temporary folder with the code and the config, as the job sees it."""
    source = Path(xrec.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def _passed_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def _uris(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _uris(value, name)
    elif key in _URI_KEYS and isinstance(values, str):
        yield key, values


def _reason(submission_id: str, info: JobInfo, last_lines: Sequence[str]) -> str:
    message = (info.message or "no message").split(", last available logs")[0]
    log = "\n".join(f"  {line}" for line in last_lines)
    return f"job {submission_id} ended as {info.status}: {message}\nlast lines of its log:\n{log or '  (empty)'}"
