"""The jobs of a Ray cluster, and its nodes, by Ray's own clients.

`RAY_AUTH_MODE=token`, and `RAY_AUTH_TOKEN` or a file, are what Ray's clients take to a cluster with
token authentication: https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from aiohttp import ClientError
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from ray.util.state import list_nodes
from ray.util.state.common import NodeState
from ray.util.state.exception import RayStateApiException

from cluster.connect import environment
from cluster.reach import check_reachable
from xrec.errors import ClusterError

__all__ = ["JobDetails", "JobServer", "NodeState"]

_DEFAULT_URL = "http://127.0.0.1:8265"  # where `ray start --head` has it
_ADVICE = "check that the cluster runs and that this is its dashboard, http://host:8265 by default"
_JOB_ADVICE = "to see the ids of jobs: xrec jobs list"
_STOP_SECONDS = 60.0
_NUM_REASON_LINES = 15
_MOST_NODES = 10_000
_RAYS_ERRORS = (
    *(RuntimeError, OSError, ValueError, KeyError),
    *(ClientError, RayError, RayStateApiException),
)


class JobServer:
    """The dashboard of a cluster, which is also its job server.

    Each method raises ClusterError if the server does not answer, refuses, or knows no such id.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to http://host:8265, host:8265, RAY_API_SERVER_ADDRESS, or this machine's.

        Raises ClusterError within a few seconds if nothing listens there.
        """
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _DEFAULT_URL
        self.url = address if "://" in address else f"http://{address}"
        check_reachable(self.url, _ADVICE)
        with self.errors(), _only_this_address():
            self.client = JobSubmissionClient(self.url)

    def jobs(self) -> list[JobDetails]:
        """Return all jobs that the cluster remembers, the last started first."""
        with self.errors():
            return sorted(
                self.client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True
            )

    def nodes(self) -> list[NodeState]:
        """Return the nodes, also dead ones, the head first.

        Ray needs up to half a minute to notice that a node is gone.
        """
        with self.errors(), _only_this_address():
            found = list_nodes(address=self.url, limit=_MOST_NODES, detail=True)
        return sorted(found, key=lambda node: (not node.is_head_node, node.node_ip))

    def logs(self, submission_id: str) -> str:
        """Return what the job has printed so far."""
        with self.errors(_JOB_ADVICE):
            return str(self.client.get_job_logs(submission_id))

    def stop(self, submission_id: str) -> str:
        """Ask the job to stop, wait until it has ended, and return its final status.

        Raises ClusterError if it still runs a minute later.
        """
        deadline = time.monotonic() + _STOP_SECONDS
        with self.errors(_JOB_ADVICE):
            self.client.stop_job(submission_id)
            while not (status := self.client.get_job_status(submission_id)).is_terminal():
                if time.monotonic() > deadline:
                    raise ClusterError(
                        f"job {submission_id} is still {status} {_STOP_SECONDS:g} s after it was "
                        "asked to stop; look at it again with: xrec jobs list"
                    )
                time.sleep(0.5)
        return str(status)

    def follow(self, submission_id: str, write: Callable[[str], None]) -> None:
        """Hand the job's log to `write` as it comes, until the job ends.

        Raises ClusterError with the reason and the log's last lines if the job did not succeed.
        After a KeyboardInterrupt the job goes on.
        """
        last_lines: deque[str] = deque(maxlen=_NUM_REASON_LINES)

        async def tail() -> None:
            async for text in self.client.tail_job_logs(submission_id):
                write(text)
                last_lines.extend(text.splitlines())

        with self.errors(_JOB_ADVICE):
            self.client.get_job_info(submission_id)
        with self.errors(f"the log of {submission_id} broke off; it may go on: xrec jobs list"):
            asyncio.run(tail())
            job = self.client.get_job_info(submission_id)
        if job.status != JobStatus.SUCCEEDED:
            raise ClusterError(_reason(job, last_lines))

    @contextmanager
    def errors(self, advice: str = _ADVICE) -> Iterator[None]:
        """Turn the errors of Ray's clients into ClusterError, with advice."""
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.url}: {error.message}; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH to the cluster's token"
            ) from error
        except _RAYS_ERRORS as error:
            raise ClusterError(f"{self.url}: {error}; {advice}") from error


def _only_this_address() -> AbstractContextManager[None]:
    """Ray's clients prefer these variables to the address that they are given."""
    return environment({"RAY_API_SERVER_ADDRESS": None, "RAY_ADDRESS": None})


def _reason(job: JobDetails, last_lines: Sequence[str]) -> str:
    message = (job.message or "no message").split(", last available logs")[0]
    log = "\n".join(f"  {line}" for line in last_lines)
    return (
        f"job {job.submission_id} ended as {job.status}: {message}\n"
        f"last lines of its log:\n{log or '  (empty)'}"
    )
