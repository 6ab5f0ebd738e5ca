"""What a submitted job takes along: code but no data, some variables, and pinned packages."""

from pathlib import Path

import pytest
from ray.runtime_env import RuntimeEnv

from cluster.runtime_env import read_pinned, runtime_environment, working_folder
from xrec.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_working_folder_holds_code_and_config_and_no_data(tmp_path: Path) -> None:
    config = tmp_path / "prepare.yaml"
    config.write_text("workspace: s3://bucket/x\n")
    (tmp_path / "data.parquet").write_bytes(b"x" * 100)
    with working_folder(config) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            "cluster",
            "jobs",
            "prepare.yaml",
            "xrec",
        ]
        files = [path for path in folder.rglob("*") if path.is_file()]
        prompts = {path for path in files if path.suffix == ".txt"}
        assert {path.parent.name for path in prompts} == {"prompts"}
        suffixes = {path.suffix for path in files if path not in prompts}
        assert suffixes <= {".py", ".yaml", ".css", ".html", ".js", ".svg"}
        assert sum(path.stat().st_size for path in files) < 4_000_000
    assert not folder.exists()


def test_runtime_environment_passes_aws_variables_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("XREC_PRIVATE", "secret")
    environment = runtime_environment(tmp_path)
    assert environment["env_vars"]["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert "secret" not in str(environment)
    assert "pip" not in environment


def test_runtime_environment_with_packages_is_one_that_ray_takes(tmp_path: Path) -> None:
    packages = read_pinned(str(ROOT / "requirements" / "lock.txt"))
    assert len(packages) > 100
    environment = RuntimeEnv(**runtime_environment(tmp_path, packages))
    assert environment.pip_config()["packages"] == packages


@pytest.mark.parametrize(
    "line", ["torch>=2.13", "torch", "-r other.txt", "git+https://example.com/x.git", "./wheel.whl"]
)
def test_read_pinned_refuses_what_is_not_pinned_and_names_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(f"# comment\nnumpy==2.4.6  # why\n{line}\n")
    with pytest.raises(ConfigError) as raised:
        read_pinned(str(path))
    assert repr(line) in str(raised.value)
    assert "numpy" not in str(raised.value)


def test_read_pinned_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.txt"):
        read_pinned(str(tmp_path / "nowhere.txt"))
