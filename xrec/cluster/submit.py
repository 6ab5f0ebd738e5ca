"""Send a job to a Ray cluster through its Jobs API.

Code and config are sent in one folder, but no data: everything that the job reads and writes must
be where every node can reach it. For the rest, use Ray's commands (`ray job list | logs | stop`).
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
from xrec.errors import ClusterError, ConfigError
from xrec.storage import fingerprint_of

_DEFAULT_URL = "http://127.0.0.1:8265"  # of `ray start --head`
_ADVICE = "check that the cluster is running and that this is its dashboard, http://host:8265"
_VARIABLES = ("AWS_", "HF_TOKEN", "HF_ENDPOINT", "MLFLOW_", "WANDB_")
_JSON = " --json"  # may end an entrypoint; it does not change the job


class JobServer:
    """A cluster's job server, which is also its dashboard.

    Every method raises ClusterError if the server does not respond or refuses access.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to `address`, or else RAY_API_SERVER_ADDRESS, or else this machine's server.

        Addresses are host:8265 or http://host:8265. Raises ClusterError if nothing listens there.
        """
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _DEFAULT_URL
        self.url = address if "://" in address else f"http://{address}"
        check_reachable(self.url, _ADVICE)
        # Ray's client prefers these variables to its argument.
        with self._errors(), environment({"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": None}):
            self._client = JobSubmissionClient(self.url)

    def submit(
        self,
        config_path: Path,
        command: Sequence[str],
        packages: str | None = None,
        driver: str | None = None,
        submission_id: str | None = None,
    ) -> str:
        """Start `xrec COMMAND` on the cluster, and return the submission id.

        Also sends the project file, and the AWS_* and similar variables of this process. Each node
        installs the requirements file `packages`; raises ConfigError if it does not exist. The
        driver runs on a node that has the custom resource `driver`; by default on the head.
        """
        with working_folder(config_path) as folder, self._errors():
            return str(
                self._client.submit_job(
                    entrypoint=_entrypoint(command),
                    runtime_env=runtime_environment(folder, packages),
                    submission_id=submission_id,
                    entrypoint_resources={driver: 1} if driver else None,
                )
            )

    def submit_once(
        self,
        name: str,
        config_path: Path,
        command: Sequence[str],
        packages: str | None = None,
        driver: str | None = None,
    ) -> tuple[str, JobStatus | None]:
        """Submit a job unless one with this name is running or has succeeded.

        Attempts have the submission ids NAME-1, NAME-2 and so on. Returns the id of the last one,
        and its status if it existed before. Concurrent callers get the same job. Raises ConfigError
        if the existing job has another command.
        """
        while True:
            attempts = self._attempts(name)
            last = max(attempts, default=0)
            status = attempts[last].status if last else JobStatus.FAILED
            if status not in (JobStatus.FAILED, JobStatus.STOPPED):
                existing, wanted = attempts[last].entrypoint, _entrypoint(command)
                if existing.removesuffix(_JSON) != wanted.removesuffix(_JSON):
                    raise ConfigError(
                        f"the job {name}-{last} runs {existing!r}, expected {wanted!r}; "
                        "use another --key",
                        code="key_used",
                        key="--key",
                        saw=existing,
                    )
                return f"{name}-{last}", status
            try:
                job = (config_path, command, packages, driver)
                return self.submit(*job, f"{name}-{last + 1}"), None
            except ClusterError:
                if max(self._attempts(name), default=0) == last:
                    raise  # otherwise another caller submitted it

    def _attempts(self, name: str) -> dict[int, JobDetails]:
        """Return the jobs with a name that the cluster remembers, by attempt number."""
        attempt = re.compile(rf"{re.escape(name)}-(\d+)")
        with self._errors():
            jobs = {job.submission_id or "": job for job in self._client.list_jobs()}
        return {int(match[1]): jobs[match[0]] for match in map(attempt.fullmatch, jobs) if match}

    def follow(self, submission_id: str, write: Callable[[str], None]) -> JobDetails:
        """Pass the job's log to `write` until the job ends, and return how it ended.

        A KeyboardInterrupt does not end the job.
        """

        async def tail() -> None:
            async for text in self._client.tail_job_logs(submission_id):
                write(text)

        with self._errors(f"lost the log of {submission_id}; the job may still run: ray job list"):
            asyncio.run(tail())
            return self._client.get_job_info(submission_id)

    def result(self, submission_id: str) -> dict[str, Any] | None:
        """Return the last JSON object in a job's log, or None."""
        with suppress(ClusterError), self._errors():
            for line in reversed(self._client.get_job_logs(submission_id).splitlines()):
                with suppress(ValueError):
                    if isinstance(value := json.loads(line), dict):
                        return value
        return None

    @contextmanager
    def _errors(self, advice: str = _ADVICE) -> Iterator[None]:
        """Turn the errors of Ray's client into ClusterError."""
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
    """Return the prefix of the submission ids of a job with a key in a workspace."""
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", key)[:40]
    return f"xrec-{job}-{words}-{fingerprint_of([workspace.rstrip('/'), key])[:8]}"


@contextmanager
def working_folder(config_path: Path) -> Iterator[Path]:
    """Make a temporary folder with code and config, to become the job's working directory."""
    source = Path(xrec.__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        shutil.copytree(source / "xrec", folder / "xrec", ignore=ignored)
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def runtime_environment(folder: Path, packages: str | None = None) -> dict[str, Any]:
    """Return Ray's runtime environment for a job whose working folder is `folder`.

    Raises ConfigError if the file `packages` does not exist.
    """
    if packages and not Path(packages).is_file():
        raise ConfigError(
            f"--packages {packages}: no such file; expected a requirements file, such as "
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
