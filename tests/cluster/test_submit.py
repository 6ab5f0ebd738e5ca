"""`xrec submit` to a cluster of a head and two workers, as a user runs it."""

from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from cluster.submit import check_shared_paths, runtime_environment, working_folder
from tests.cluster.program import SAMPLE, write_config, xrec, xrec_on
from xrec.config.annotate import AnnotateConfig
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig
from xrec.config.data import PrepareConfig
from xrec.errors import ConfigError
from xrec.storage import open_location, read_manifest

ROOT = Path(__file__).parents[2]


def _config(folder: Path, workspace: str) -> Path:
    path = folder / "prepare.yaml"
    return write_config(path, {"workspace": workspace, "prepare": {"source": SAMPLE}})


def test_submit_run_to_the_object_store_follows_the_log_and_leaves_the_artifact(
    three_nodes, s3, tmp_path
):
    workspace = s3.new_bucket()
    command = ["submit", "run", _config(tmp_path, workspace), "prepare.source.num_users=30"]
    done = xrec_on(three_nodes, *command, "--until", "prepare", **s3.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] xrec prepare prepare.yaml" in done.stdout
    assert "Traceback" not in done.stderr
    manifest = read_manifest(open_location(f"{workspace}/dataset", s3.storage), "dataset")
    assert manifest.row_counts["users"] == 30


def test_submit_job_that_fails_exits_1_with_the_reason(three_nodes, tmp_path):
    missing = tmp_path / "no-such-folder"
    config = _config(tmp_path, str(tmp_path / "workspace"))
    source = f"source={{kind: tables, uri: {missing}}}"
    done = xrec_on(three_nodes, "submit", "prepare", config, source)
    assert done.returncode == 1, done.stdout + done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    assert "ended as FAILED: " in error
    assert "exit code 1" in error
    assert str(missing) in done.stdout
    assert "Traceback" not in error


def test_submit_no_follow_returns_the_submission_id(three_nodes, tmp_path):
    config = _config(tmp_path, str(tmp_path / "workspace"))
    done = xrec_on(three_nodes, "submit", "prepare", config, "--no-follow")
    assert done.returncode == 0, done.stderr
    assert "prepare submitted as raysubmit_" in done.stderr


@pytest.mark.parametrize("variables", [{}, {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}])
def test_submit_without_the_token_exits_1_and_names_the_variables(three_nodes, variables, tmp_path):
    config = _config(tmp_path, str(tmp_path / "workspace"))
    variables = {"RAY_AUTH_MODE": "disabled", **variables}
    url = three_nodes.dashboard_url
    done = xrec("submit", "prepare", config, "--address", url, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {url}: Authentication")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("address", "shown"),
    [("127.0.0.1:9", "http://127.0.0.1:9"), ("my-cluster", "http://my-cluster")],
)
def test_submit_to_an_address_where_nothing_listens_exits_1_and_names_it(address, shown, tmp_path):
    config = _config(tmp_path, str(tmp_path / "workspace"))
    done = xrec("submit", "prepare", config, "--address", address)
    assert done.returncode == 1
    assert f"nothing answers at '{shown}' within 5 s" in done.stderr
    assert "Traceback" not in done.stderr


def test_working_folder_holds_code_and_config_and_no_data(tmp_path):
    config = tmp_path / "prepare.yaml"
    config.write_text("workspace: s3://bucket/x\n")
    (tmp_path / "data.parquet").write_bytes(b"x" * 100)
    with working_folder(config) as folder:
        assert {path.name for path in folder.iterdir()} == {
            *("cluster", "jobs", "prepare.yaml", "xrec")
        }
        files = [path for path in folder.rglob("*") if path.is_file()]
        suffixes = {".py", ".typed", ".yaml", ".css", ".html", ".js", ".svg", ".txt"}
        assert {path.suffix for path in files} <= suffixes
        assert sum(path.stat().st_size for path in files) < 4_000_000
    assert not folder.exists()


def test_runtime_environment_passes_aws_variables_and_packages_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("XREC_PRIVATE", "secret")
    environment = runtime_environment(tmp_path)
    assert environment["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert "secret" not in str(environment)
    assert "pip" not in environment
    lock = ROOT / "requirements" / "lock.txt"
    packages = RuntimeEnv(**runtime_environment(tmp_path, str(lock))).pip_config()["packages"]
    assert packages == lock.read_text().strip().split("\n")
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        runtime_environment(tmp_path, str(tmp_path / "nowhere.txt"))


ELSEWHERE = {"workspace": "s3://bucket/x"}
JUDGES = [{"name": name, "model": {"kind": "endpoint", "model": "a/b"}} for name in ("one", "two")]


@pytest.mark.parametrize(
    ("config_type", "values", "named"),
    [
        (
            PrepareConfig,
            {"source": {"kind": "tables", "uri": "raw/tables"}, "dataset": "out"},
            "dataset=out, uri=raw/tables",
        ),
        (
            CompareConfig,
            {
                "llm": {"model": "./model"},
                "decoding": {"text": {"checks": {"unsafe_words": "words.txt"}}},
                "metrics": {"judges": JUDGES},
            },
            "unsafe_words=words.txt, model=./model",
        ),
        (
            AnnotateConfig,
            {
                "source": {"kind": "reviews", "uri": "s3://bucket/reviews.csv"},
                "annotator": {
                    "kind": "language_model",
                    "model": {"kind": "endpoint", "model": "a/b"},
                    "prompts": {"item": "i.txt"},
                },
            },
            "prompts=i.txt",
        ),
    ],
)
def test_check_shared_paths_names_relative_paths(config_type, values, named):
    with pytest.raises(ConfigError) as raised:
        check_shared_paths(parse_config(config_type, {**ELSEWHERE, **values}))
    assert str(raised.value).startswith(f"relative path {named}:")


def test_check_shared_paths_others_pass(tmp_path):
    source = {
        "kind": "tables",
        "uri": str(tmp_path),
        "files": {"users": "customers.csv"},  # below uri, wherever that is
    }
    values = {**ELSEWHERE, "source": source, "dataset": "file:///out"}
    check_shared_paths(parse_config(PrepareConfig, values))
