"""A job sent to a Ray cluster through its Jobs API: code and config go up, the log comes down.

What the job reads and writes must lie where every node finds it, for it takes no data along
(cluster.runtime_env).
"""

import asyncio
import os
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.exceptions import RayError
from ray.job_submission import JobInfo, JobStatus, JobSubmissionClient

from cluster.address import JobServer
from cluster.reach import check_reachable
from cluster.runtime_env import runtime_environment, working_folder
from xrec.config.jobs import ARTIFACTS
from xrec.config.shared import JobConfig
from xrec.errors import ClusterError, ConfigError

_URI_KEYS = frozenset(
    {
        *("workspace", "uri", "release", "carry_from", "interactions", "users", "items"),
        *("pairs", "unsafe_words", "prompts", "answers"),
        *ARTIFACTS,
    }
)
_NAME_KEYS = frozenset({"files", "columns"})  # what stands below them is below `uri`
_NUM_REASON_LINES = 15


def submit_job(
    module: str,
    config_path: str,
    arguments: Sequence[str],
    server: JobServer,
    *,
    packages: Sequence[str] = (),
    first: str = "",
) -> str:
    """Start `python -m jobs.<module> <config> <arguments>` on the cluster.

    If `first` is not empty, this shell command runs before it and must succeed. The AWS_* variables
    of this process go with the job, and `packages` (name==version) are installed for it. Returns
    the submission id; raises ClusterError.
    """
    client = _client(server)
    words = [Path(config_path).name, *arguments]
    entrypoint = f"python -m jobs.{module} {shlex.join(words)}"
    with working_folder(Path(config_path)) as folder:
        try:
            return str(
                client.submit_job(
                    entrypoint=f"{first} && {entrypoint}" if first else entrypoint,
                    runtime_env=runtime_environment(folder, packages),
                    metadata={"job": module},
                )
            )
        except (RuntimeError, OSError) as error:
            raise ClusterError(f"{server.url}: the job server refused the job: {error}") from error


def follow_job(submission_id: str, server: JobServer, write: Callable[[str], None]) -> None:
    """Hand the job's log to `write` as it comes, until the job ends.

    Raises ClusterError with the reason and the log's last lines if the job did not succeed. After a
    KeyboardInterrupt the job goes on.
    """
    client = _client(server)
    last_lines: deque[str] = deque(maxlen=_NUM_REASON_LINES)

    async def tail() -> None:
        async for text in client.tail_job_logs(submission_id):
            write(text)
            last_lines.extend(text.splitlines())

    try:
        asyncio.run(tail())
        info = client.get_job_info(submission_id)
    except (RuntimeError, OSError, ClientError) as error:
        raise ClusterError(
            f"{server.url}: the log of {submission_id} broke off ({error}); "
            "the job may go on: xrec jobs list"
        ) from error
    if info.status != JobStatus.SUCCEEDED:
        raise ClusterError(_reason(submission_id, info, last_lines))


def check_shared_paths(config: JobConfig) -> None:
    """Raise ConfigError if `config` names a relative path.

    It would lie in the job's own folder on the cluster, which is deleted after the job.
    """
    relative = [
        f"{key}={value}"
        for key, value in _uris(config.model_dump())
        if "://" not in value and not os.path.isabs(value)
    ]
    if relative:
        raise ConfigError(
            f"relative path {', '.join(relative)}: a submitted job has a folder of its own on the "
            "cluster, which is deleted; give an s3:// URI, or an absolute path on a disk that all "
            "nodes share"
        )


def shared_path_check(config: JobConfig) -> str:
    """The shell command that asks all nodes whether they see the job's local output.

    It is empty for a job that asks them itself, and for output in a bucket.
    """
    if "ray" in type(config).model_fields or "://" in config.workspace:
        return ""
    return f"python -m cluster.preflight {shlex.quote(config.workspace)}"


def _client(server: JobServer) -> JobSubmissionClient:
    advice = (
        "check that the cluster runs and that this is its job server, http://host:8265 by default"
    )
    check_reachable(server.url, advice)
    try:
        return JobSubmissionClient(server.url, headers=dict(server.headers))
    except (RuntimeError, ValueError, OSError, RayError) as error:
        raise ClusterError(
            f"{server.url}: the job server cannot be used ({error}); {advice}"
        ) from error


def _uris(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for name, value in values.items():
            if name not in _NAME_KEYS:
                # What stands below `prompts` are files of prompts, whatever their keys.
                yield from _uris(value, key if key == "prompts" else name)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _uris(value, key)
    elif isinstance(values, str) and (key in _URI_KEYS or _is_local_model(key, values)):
        yield key, values


def _is_local_model(key: str, value: str) -> bool:
    """Whether it names a folder of a language model, and no hub id: both may look like a/b."""
    return key == "model" and (value.startswith(".") or os.path.isdir(value))


def _reason(submission_id: str, info: JobInfo, last_lines: Sequence[str]) -> str:
    message = (info.message or "no message").split(", last available logs")[0]
    log = "\n".join(f"  {line}" for line in last_lines)
    return (
        f"job {submission_id} ended as {info.status}: {message}\n"
        f"last lines of its log:\n{log or '  (empty)'}"
    )
