"""`xrec submit` to a cluster of a head and a worker, as a user runs it."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from ray.job_submission import JobDetails, JobStatus
from ray.runtime_env import RuntimeEnv

from tests.errors import raises
from tests.world.program import python, refused, said, xrec
from tests.world.shop import SAMPLE, write_yaml
from xrec.cluster.submit import runtime_environment, working_folder
from xrec.config import (
    CONFIG_TYPES,
    SHARED_DISKS,
    CompareConfig,
    PrepareConfig,
    load_config,
)
from xrec.errors import ConfigError
from xrec.storage import open_location, read_manifest

ROOT = Path(__file__).parents[3]
ON_S3 = {"workspace": "s3://a/b", "prepare": {"source": SAMPLE}}


@pytest.fixture
def submit(tmp_path):
    """Runs `xrec submit` of a project of `prepare`; `words` follow the project file."""
    values = {**ON_S3, "workspace": str(tmp_path / "workspace")}
    path = write_yaml(tmp_path / "prepare.yaml", values)

    def run(url: str, job: str, *words: object, **variables: str) -> Any:
        options = (path, *words, "--address", url)
        done = python("-m", "xrec.cli", "submit", job, *options, **variables)
        assert "Traceback" not in done.stderr[done.stderr.find("error: ") :]
        return done

    return run


def test_submit_run_follows_the_log_and_leaves_the_artifact_on_s3(two_nodes, s3, submit):
    workspace = s3.new_bucket()
    words = (f"workspace={workspace}", "prepare.source.num_users=30", "--until", "prepare")
    variables = {**two_nodes.environment, **s3.environment}
    done = submit(two_nodes.dashboard_url, "run", *words, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] xrec prepare prepare.yaml" in done.stdout
    manifest = read_manifest(open_location(f"{workspace}/dataset", s3.storage), "dataset")
    assert manifest.row_counts["users"] == 30


@pytest.mark.slow
def test_submit_with_a_key_is_done_once_and_again_if_it_failed(two_nodes, submit, tmp_path):
    def with_key(*words: str) -> tuple[int, Any, str]:
        keyed = ("--key", "2026-11-28T02:00", "--json", *words)
        done = submit(two_nodes.dashboard_url, "prepare", *keyed, **two_nodes.environment)
        lines = done.stdout.splitlines()
        return done.returncode, json.loads(lines[0]) if len(lines) == 1 else lines, done.stderr

    missing = f"source={{kind: tables, uri: {tmp_path / 'nowhere'}}}"
    code, told, err = with_key(missing)
    assert (code, told["state"], "nowhere" in err) == (1, "FAILED", True), err
    assert "nowhere" in told["result"]["error"]
    name = told["submission_id"].removesuffix("-1")
    assert re.fullmatch(r"xrec-prepare-2026-11-28T02-00-[0-9a-f]{8}", name)
    code, told, err = with_key()
    made = {"job": "prepare", "submission_id": f"{name}-2", "state": "SUCCEEDED", "exit_code": 0}
    result = told["result"]
    assert (code, told, result["artifact"]) == (0, {**made, "result": result}, "dataset"), err
    code, told, err = with_key()
    assert (code, told, "users" in err) == (0, {**made, "result": result}, False), err
    assert "prepare exists already, succeeded" in err
    code, _, err = with_key("splits.test=0.25")
    assert (code, "use another --key" in err) == (2, True), err


class FakeClient:
    """A job server in a list, to which someone else submits the first name just before."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def list_jobs(self) -> list[Any]:
        return [*self.jobs]

    def submit_job(self, *, entrypoint: str, submission_id: str, **_: Any) -> str:
        told = {"submission_id": submission_id, "entrypoint": entrypoint, "status": "RUNNING"}
        is_taken = not self.jobs or submission_id == self.jobs[0].submission_id
        if not self.jobs or not is_taken:
            self.jobs.append(JobDetails(type="SUBMISSION", **told))
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
def test_submit_with_a_key_of_two_at_a_time_follows_one_job(
    monkeypatch, tmp_path, status, driver_code, code, log, result
):
    client = FakeClient()
    monkeypatch.setattr("xrec.cluster.submit.JobSubmissionClient", lambda url: client)
    monkeypatch.setattr("xrec.cluster.submit.check_reachable", Mock())
    words = ("submit", "--key", "n1", "run", write_yaml(tmp_path / "town.yaml", ON_S3))
    told = json.loads(said(*words, "--no-follow", "--json"))
    (job,) = client.jobs
    assert told == {"job": "run", "submission_id": job.submission_id, "state": "RUNNING"}
    assert job.entrypoint == "python -m xrec.cli run town.yaml --json"
    client.end, client.log = {"status": JobStatus(status), "driver_exit_code": driver_code}, log
    assert xrec(*words)[:2] == (code, f"the log of {job.submission_id}\n")
    ended, out, err = xrec(*words, "--json")
    told = {**told, "state": status, "exit_code": code}
    assert (ended, json.loads(out)) == (code, {**told, "result": result})
    assert ("error: job" in err, f"the log of {job.submission_id}" in err) == (code > 0, True)
    said(*words, "workspace=s3://a/other", "--no-follow")  # has a job of its own for the key
    assert len(client.jobs) == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("prepare", "--train"), None),
        (("run", "--until"), None),
        (("forget", "--users", "x.txt"), "relative_path"),
        (("status",), "unknown_job"),
    ],
)
def test_submit_with_what_the_job_cannot_have_is_refused(tmp_path, words, code):
    job, *options = words
    path = write_yaml(tmp_path / "town.yaml", ON_S3)
    if code is None:  # the job's own usage
        ended, _, err = xrec("submit", job, path, *options)
        assert (ended, options[0] in err) == (2, True)
    else:
        error = refused("submit", job, path, *options)
        assert (error.exit_code, error.code) == (2, code)


@pytest.mark.parametrize("mode", ["token", pytest.param("disabled", marks=pytest.mark.slow)])
def test_submit_without_the_token_exits_1_and_names_the_variables(two_nodes, mode, submit):
    url, wrong = two_nodes.dashboard_url, "0" * 64
    done = submit(url, "prepare", RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN=wrong)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {url}: Authentication")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in done.stderr


def test_submit_to_an_address_where_nothing_listens_exits_1_and_names_it(tmp_path):
    path = write_yaml(tmp_path / "prepare.yaml", ON_S3)
    error = refused("submit", "prepare", path, "--address", "127.0.0.1:9")
    assert (error.code, error.saw) == ("unreachable", "http://127.0.0.1:9")


def test_working_folder_holds_code_and_config_and_no_data(tmp_path):
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


JUDGES = {name: {"kind": "endpoint", "model": "a/b"} for name in ("one", "two")}
WITH_WORDS = {"text": {"checks": {"unsafe_words": "words.txt"}}}
# A name of a file is below uri, wherever that is.
FILES = {"kind": "tables", "uri": "/raw", "files": {"users": "customers.csv"}}


@pytest.mark.parametrize(
    ("config_type", "values", "named"),
    [
        (
            PrepareConfig,
            {"source": {"kind": "tables", "uri": "raw/tables"}, "artifacts": {"dataset": "out"}},
            ["artifacts.dataset", "source.uri"],
        ),
        (
            CompareConfig,
            {"llm": {"model": "./model"}, "decoding": WITH_WORDS, "judges": JUDGES},
            ["llm.model", "decoding.text.checks.unsafe_words"],
        ),
        (PrepareConfig, {"source": FILES, "artifacts": {"dataset": "file:///out"}}, None),
    ],
)
def test_submitted_config_has_no_relative_paths(config_type, values, named, tmp_path):
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is config_type]
    shared = {key: values[key] for key in ("llm", "decoding", "artifacts") if key in values}
    own = {key: value for key, value in values.items() if key not in shared}
    path = write_yaml(tmp_path / "p.yaml", {"workspace": "s3://bucket/x", **shared, job: own})
    if named is None:
        load_config(config_type, path, context=SHARED_DISKS)
        return
    with pytest.raises(ConfigError) as raised:
        load_config(config_type, path, context=SHARED_DISKS)
    places = {name.removeprefix(f"{job}."): code for name, code in raised.value.problems.items()}
    assert places == dict.fromkeys(named, "relative_path")
