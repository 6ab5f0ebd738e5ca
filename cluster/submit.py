"""A job sent to a Ray cluster: code and config go up, in one folder; no data does.

What the job reads and writes must lie where every node finds it. The cluster's other jobs are for
Ray's own commands: `ray job list | logs | stop`.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient

import xrec
from cluster.connect import check_reachable, environment
from xrec.config.jobs import ARTIFACTS
from xrec.config.shared import JobConfig
from xrec.errors import ClusterError, ConfigError

_DEFAULT_URL = "http://127.0.0.1:8265"  # where `ray start --head` has it
_ADVICE = "check that the cluster runs and that this is its dashboard, http://host:8265 by default"
_VARIABLES = ("AWS_", "HF_TOKEN", "HF_ENDPOINT", "MLFLOW_", "WANDB_")
_PACKAGES = ("xrec", "jobs", "cluster")
# The keys, in whatever section, whose values are paths or URIs.
_URI_KEYS = {"workspace", "uri", "carry_from", "interactions", "users", "items", *ARTIFACTS}
_URI_KEYS |= {"pairs", "unsafe_words", "prompts"}
_NAME_KEYS = {"files", "columns"}  # what stands below them is below `uri`


class JobServer:
    """The dashboard of a cluster, which is also its job server.

    Each method raises ClusterError if the server does not answer, or refuses.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to http://host:8265, host:8265, RAY_API_SERVER_ADDRESS, or this machine's.

        Raises ClusterError within a few seconds if nothing listens there.
        """
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _DEFAULT_URL
        self.url = address if "://" in address else f"http://{address}"
        check_reachable(self.url, _ADVICE)
        # Ray's client prefers these variables to the address that it is given.
        with (
            self._errors(),
            environment({"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": None}),
        ):
            self._client = JobSubmissionClient(self.url)

    def submit(self, config_path: Path, command: Sequence[str], packages: str | None = None) -> str:
        """Start `xrec COMMAND` on the cluster, and return the submission id.

        The project file goes along by its name. The AWS_* variables of this process go with the
        job, and no others. `packages` is a requirements file, whose packages are installed for it
        on each node; raises ConfigError if it is not there.
        """
        with working_folder(config_path) as folder, self._errors():
            return str(
                self._client.submit_job(
                    entrypoint=f"python -m xrec.cli {shlex.join(command)}",
                    runtime_env=runtime_environment(folder, packages),
                )
            )

    def follow(self, submission_id: str, write: Callable[[str], None]) -> None:
        """Hand the job's log to `write` as it comes, until the job ends.

        Raises ClusterError with the reason if the job did not succeed.
        After a KeyboardInterrupt the job goes on.
        """

        async def tail() -> None:
            async for text in self._client.tail_job_logs(submission_id):
                write(text)

        with self._errors(f"the log of {submission_id} broke off; it may go on: ray job list"):
            asyncio.run(tail())
            job = self._client.get_job_info(submission_id)
        if job.status != JobStatus.SUCCEEDED:
            message = (job.message or "no message").split(", last available logs")[0]
            raise ClusterError(f"job {job.submission_id} ended as {job.status}: {message}")

    @contextmanager
    def _errors(self, advice: str = _ADVICE) -> Iterator[None]:
        """Turn the errors of Ray's client into ClusterError, with advice."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.url}: {error.message}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's token"
            ) from error
        except (RuntimeError, OSError, ValueError, KeyError, ClientError, RayError) as error:
            raise ClusterError(f"{self.url}: {error}; {advice}") from error


@contextmanager
def working_folder(config_path: Path) -> Iterator[Path]:
    """Make a temporary folder with the code and the config, which becomes the job's own folder."""
    source = Path(xrec.__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=ignored)
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def runtime_environment(folder: Path, packages: str | None = None) -> dict[str, Any]:
    """Return Ray's runtime environment for a job with the working folder `folder`.

    Raises ConfigError if there is no file `packages`.
    """
    if packages and not Path(packages).is_file():
        raise ConfigError(
            f"packages {packages!r}: no such file; expected a requirements file, such as "
            "requirements/lock.txt"
        )
    return {
        "working_dir": str(folder),
        "env_vars": {name: os.environ[name] for name in os.environ if name.startswith(_VARIABLES)},
        **({"pip": packages} if packages else {}),
    }


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
