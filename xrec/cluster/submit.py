"""A job sent to a Ray cluster: code and config go up, in one folder; no data does.

What the job reads and writes must lie where every node finds it. The cluster's other jobs are for
Ray's own commands: `ray job list | logs | stop`.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

import xrec
from xrec.cluster.connect import check_reachable, environment
from xrec.config import ARTIFACTS, JobConfig
from xrec.errors import ClusterError, ConfigError
from xrec.storage import fingerprint_of

_DEFAULT_URL = "http://127.0.0.1:8265"  # where `ray start --head` has it
_ADVICE = "check that the cluster runs and that this is its dashboard, http://host:8265 by default"
_VARIABLES = ("AWS_", "HF_TOKEN", "HF_ENDPOINT", "MLFLOW_", "WANDB_")
# The keys, in whatever section, whose values are paths or URIs.
_URI_KEYS = {"workspace", "uri", "carry_from", "interactions", "users", "items", *ARTIFACTS}
_URI_KEYS |= {"pairs", "unsafe_words", "prompts"}
_ENDED_BADLY = (JobStatus.FAILED, JobStatus.STOPPED)
_JSON = " --json"  # at the end of a command: it does the same without
_NO_PATH = ("carry_from", "published")
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
        with self._errors(), environment({"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": None}):
            self._client = JobSubmissionClient(self.url)

    def submit(
        self,
        config_path: Path,
        command: Sequence[str],
        packages: str | None = None,
        submission_id: str | None = None,
    ) -> str:
        """Start `xrec COMMAND` on the cluster, and return the submission id.

        The project file goes along by its name. The AWS_* variables of this process go with the
        job, and no others. `packages` is a requirements file, whose packages are installed for it
        on each node; raises ConfigError if it is not there.
        """
        with working_folder(config_path) as folder, self._errors():
            return str(
                self._client.submit_job(
                    entrypoint=_entrypoint(command),
                    runtime_env=runtime_environment(folder, packages),
                    submission_id=submission_id,
                )
            )

    def submit_once(
        self, name: str, config_path: Path, command: Sequence[str], packages: str | None = None
    ) -> tuple[str, JobStatus | None]:
        """Start `xrec COMMAND` as `submit` does, unless an attempt of this name did not fail.

        Attempts have the submission ids NAME-1, NAME-2 and so on. Returns the id of the last one,
        and its status if it was there before: it is at work, or it succeeded. Whoever else submits
        the same name at this moment gets the same job. Raises ConfigError if that is another
        command.
        """
        while True:
            attempts = self._attempts(name)
            last = max(attempts, default=0)
            if last and (job := attempts[last]).status not in _ENDED_BADLY:
                if job.entrypoint.removesuffix(_JSON) != _entrypoint(command).removesuffix(_JSON):
                    raise ConfigError(
                        f"the job {name}-{last} is {job.entrypoint!r}, and this one "
                        f"{_entrypoint(command)!r}: expected the same; give another key",
                        code="key_used",
                        key="--key",
                        saw=job.entrypoint,
                    )
                return f"{name}-{last}", job.status
            try:
                return self.submit(config_path, command, packages, f"{name}-{last + 1}"), None
            except ClusterError:
                if max(self._attempts(name), default=0) == last:
                    raise  # else someone else has submitted it

    def _attempts(self, name: str) -> dict[int, JobDetails]:
        """The jobs of a name that the cluster remembers, by the number of the attempt."""
        attempt = re.compile(rf"{re.escape(name)}-(\d+)")
        with self._errors():
            jobs = {job.submission_id or "": job for job in self._client.list_jobs()}
        return {int(match[1]): jobs[match[0]] for match in map(attempt.fullmatch, jobs) if match}

    def follow(self, submission_id: str, write: Callable[[str], None]) -> JobDetails:
        """Hand the job's log to `write` as it comes, until the job ends; returns how it ended.

        After a KeyboardInterrupt the job goes on.
        """

        async def tail() -> None:
            async for text in self._client.tail_job_logs(submission_id):
                write(text)

        with self._errors(f"the log of {submission_id} broke off; it may go on: ray job list"):
            asyncio.run(tail())
            return self._client.get_job_info(submission_id)

    def result(self, submission_id: str) -> dict[str, Any] | None:
        """The last line of JSON in a job's log; None if there is none, or no log any more."""
        with suppress(ClusterError), self._errors():
            for line in reversed(self._client.get_job_logs(submission_id).splitlines()):
                with suppress(ValueError):
                    if isinstance(found := json.loads(line), dict):
                        return found
        return None

    @contextmanager
    def _errors(self, advice: str = _ADVICE) -> Iterator[None]:
        """Turn the errors of Ray's client into ClusterError, with advice."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.url}: {error.message}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's token",
                code="access_refused",
                saw=self.url,
            ) from error
        except (RuntimeError, OSError, ValueError, KeyError, ClientError, RayError) as error:
            raise ClusterError(
                f"{self.url}: {error}; {advice}", code="job_server_failed", saw=self.url
            ) from error


def _entrypoint(command: Sequence[str]) -> str:
    return f"python -m xrec.cli {shlex.join(command)}"


def job_id(job: str, workspace: str, key: str) -> str:
    """What the submission ids begin with of the attempts at a job of a workspace with this key."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", key)[:40]
    return f"xrec-{job}-{words}-{fingerprint_of([workspace.rstrip('/'), key])[:8]}"


@contextmanager
def working_folder(config_path: Path) -> Iterator[Path]:
    """Make a temporary folder with the code and the config, which becomes the job's own folder."""
    source = Path(xrec.__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        shutil.copytree(source / "xrec", folder / "xrec", ignore=ignored)
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def runtime_environment(folder: Path, packages: str | None = None) -> dict[str, Any]:
    """Return Ray's runtime environment for a job with the working folder `folder`.

    Raises ConfigError if there is no file `packages`.
    """
    if packages and not Path(packages).is_file():
        raise ConfigError(
            f"packages {packages!r}: no such file; expected a requirements file, such as "
            "requirements/base.txt",
            code="no_such_file",
            key="--packages",
            saw=packages,
        )
    return {
        "working_dir": str(folder),
        "env_vars": {name: os.environ[name] for name in os.environ if name.startswith(_VARIABLES)},
        **({"pip": packages} if packages else {}),
    }


def check_shared_paths(config: JobConfig, **others: str) -> None:
    """Raise ConfigError if `config` names a relative path, or one of the `others` is one.

    It would lie in the job's own folder on the cluster, which is deleted after the job.
    """
    relative = [
        f"{key}={value}"
        for key, value in _uris({**config.model_dump(), **others})
        if "://" not in value and not os.path.isabs(value) and (key, value) != _NO_PATH
    ]
    if relative:
        raise ConfigError(
            f"relative path {', '.join(relative)}: a submitted job has a folder of its own on the "
            "cluster, which is deleted; give an s3:// URI, or an absolute path on a disk that all "
            "nodes share",
            code="relative_path",
            saw=relative,
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
    elif isinstance(values, str):
        # A folder of a language model and a hub id may both look like a/b.
        is_folder = values.startswith(".") or os.path.isdir(values)
        if key in _URI_KEYS or (key == "model" and is_folder):
            yield key, values
