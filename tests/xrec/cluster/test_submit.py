"""`xrec submit` to a job server in memory, and what is sent with a job."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ray.job_submission import JobDetails, JobStatus
from ray.runtime_env import RuntimeEnv

from tests.errors import raises
from tests.world.program import refused, said, xrec
from tests.world.shop import SAMPLE, write_yaml
from xrec.cluster.submit import runtime_environment, working_folder
from xrec.config import SHARED_DISKS, CompareConfig, PrepareConfig, load_config
from xrec.errors import ConfigError

ROOT = Path(__file__).parents[3]
ON_S3 = {"workspace": "s3://a/b", "prepare": {"source": SAMPLE}}


class FakeClient:
    """A job server in memory. Someone else submits the first name just before the test does."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def list_jobs(self) -> list[Any]:
        return [*self.jobs]

    def submit_job(self, *, entrypoint: str, submission_id: str, **_: Any) -> str:
        job = {"submission_id": submission_id, "entrypoint": entrypoint, "status": "RUNNING"}
        is_taken = not self.jobs or submission_id == self.jobs[0].submission_id
        if not self.jobs or not is_taken:
            self.jobs.append(JobDetails(type="SUBMISSION", **job))
        if is_taken:
            raise RuntimeError(f"Job with submission_id {submission_id} already exists")
        return submission_id

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        yield f"the log of {submission_id}\n"

    def get_job_info(self, submission_id: str) -> Any:
        return self.jobs[0].model_copy(update=self.end)

    def get_job_logs(self, submission_id: str) -> str:
        if self.log is None:
            raise RuntimeError("the agent of the head is gone")
        return self.log


ENDS = [
    ("SUCCEEDED", 0, 0, '{"artifact": "x"}\n{not JSON}\n[1]\n12\n', {"artifact": "x"}),
    ("FAILED", 3, 3, 'a line\n{"artifact": "x"}\n{"error": "y"}', {"error": "y"}),
    ("FAILED", -9, 1, "killed\n", None),
    ("STOPPED", None, 1, None, None),
]


@pytest.mark.parametrize(("status", "driver_code", "code", "log", "result"), ENDS)
def test_two_submissions_with_one_key_follow_one_job(
    monkeypatch, tmp_path, status, driver_code, code, log, result
):
    client = FakeClient()
    monkeypatch.setattr("xrec.cluster.submit.JobSubmissionClient", lambda url: client)
    monkeypatch.setattr("xrec.cluster.submit.check_reachable", Mock())
    words = ("submit", "--key", "n1", "run", write_yaml(tmp_path / "town.yaml", ON_S3))
    started = json.loads(said(*words, "--no-follow", "--json"))
    (job,) = client.jobs
    assert started == {"job": "run", "submission_id": job.submission_id, "state": "RUNNING"}
    assert job.entrypoint == "python -m xrec.cli run town.yaml --json"
    client.end, client.log = {"status": JobStatus(status), "driver_exit_code": driver_code}, log
    assert xrec(*words)[:2] == (code, f"the log of {job.submission_id}\n")
    ended, out, err = xrec(*words, "--json")
    expected = {**started, "state": status, "exit_code": code, "result": result}
    assert (ended, json.loads(out)) == (code, expected)
    assert ("error: job" in err, f"the log of {job.submission_id}" in err) == (code > 0, True)
    said(*words, "workspace=s3://a/other", "--no-follow")  # another workspace: another job
    assert len(client.jobs) == 2


def test_submit_refuses_what_the_job_does_not_accept(tmp_path):
    path = write_yaml(tmp_path / "town.yaml", ON_S3)
    for job, option in (("prepare", "--train"), ("run", "--until")):  # the job's own usage
        ended, _, err = xrec("submit", job, path, option)
        assert (ended, option in err) == (2, True)
    error = refused("submit", "forget", path, "--users", "x.txt")
    assert (error.exit_code, error.code) == (2, "relative_path")
    assert refused("submit", "status", path).code == "unknown_job"


def test_working_folder_has_code_and_config_and_no_data(tmp_path):
    config = tmp_path / "prepare.yaml"
    config.write_text("workspace: s3://bucket/x\n")
    (tmp_path / "data.parquet").write_bytes(b"x" * 100)
    with working_folder(config) as folder:
        assert {path.name for path in folder.iterdir()} == {"prepare.yaml", "xrec"}
        files = [path for path in folder.rglob("*") if path.is_file()]
        suffixes = {".py", ".typed", ".yaml", ".css", ".html", ".js", ".svg", ".txt"}
        assert {path.suffix for path in files} <= suffixes
        assert sum(path.stat().st_size for path in files) < 4_000_000
    assert not folder.exists()


def test_runtime_environment_passes_access_and_packages_and_no_other_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    monkeypatch.setenv("XREC_PRIVATE", "secret")
    environment = runtime_environment(tmp_path)
    passed = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "HF_TOKEN": "hf_1"}
    assert passed.items() <= environment["env_vars"].items()
    assert ("secret" in str(environment), "pip" in environment) == (False, False)
    lock = ROOT / "requirements" / "base.txt"
    packages = RuntimeEnv(**runtime_environment(tmp_path, str(lock))).pip_config()["packages"]
    assert packages == lock.read_text().strip().split("\n")
    with raises(ConfigError, "no_such_file", "--packages", str(tmp_path / "nowhere.txt")):
        runtime_environment(tmp_path, str(tmp_path / "nowhere.txt"))


def test_submitted_config_may_not_have_relative_paths(tmp_path):
    source = {"kind": "tables", "uri": "/raw", "files": {"users": "of-that-folder.csv"}}
    judge = {"kind": "endpoint", "model": "not/a-path"}
    values = {"workspace": "s3://b/x", "artifacts": {"dataset": "file:///out"}}
    path = write_yaml(tmp_path / "p.yaml", {**values, "prepare": {"source": source}})
    load_config(PrepareConfig, path, context=SHARED_DISKS)
    values |= {
        "artifacts": {"dataset": "out"},
        "llm": {"model": "./model"},
        "decoding": {"text": {"checks": {"unsafe_words": "words.txt"}}},
        "prepare": {"source": {**source, "uri": "raw/tables"}},
        "compare": {"judges": dict.fromkeys(("one", "two"), judge)},
    }
    write_yaml(path, values)
    for config_type, named in (
        (PrepareConfig, {"artifacts.dataset", "prepare.source.uri"}),
        (
            CompareConfig,
            {"artifacts.dataset", "llm.model", "decoding.text.checks.unsafe_words"},
        ),
    ):
        with pytest.raises(ConfigError) as raised:
            load_config(config_type, path, context=SHARED_DISKS)
        assert raised.value.problems == dict.fromkeys(named, "relative_path")
