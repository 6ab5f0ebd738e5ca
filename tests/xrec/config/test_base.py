"""Validation of plain values: errors, and what they never show."""

from typing import Any

import pytest
import yaml

from xrec.config.backfill import BackfillConfig, TablePairs
from xrec.config.base import Config, parse_config, resolved_yaml
from xrec.config.compare import CompareConfig
from xrec.config.data import PrepareConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.serve import ServeConfig
from xrec.errors import ConfigError

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="

MINIMAL: dict[type[Config], dict[str, Any]] = {
    PrepareConfig: {"workspace": "w"},
    PretrainGraphConfig: {"workspace": "w"},
    ServeConfig: {"workspace": "w", "llm": {"model": "m"}},
    BackfillConfig: {"workspace": "w", "llm": {"model": "m"}},
}


@pytest.mark.parametrize(
    ("config_type", "values", "message"),
    [
        (
            PrepareConfig,
            {"source": {"kind": "sample", "num_usrs": 100}},
            r" source\.num_usrs: unknown key; did you mean 'num_users'\?",
        ),
        (PrepareConfig, {"source": {"kind": "csv"}}, r"xrec_release.*tables.*sample"),
        (
            ServeConfig,
            {"security": {"keys": [{"name": 3}]}},
            r"keys\.0\.name: .*, saw a value that is not shown",
        ),
        (PretrainGraphConfig, {"parallelism": "x" * 1000}, r"'x{199}\.\.\.$"),
        (
            BackfillConfig,
            {"decoding": {"text": {"retry_temperature": -1}}},
            r"\n  decoding.text.retry_temperature: .* than 0, or .* 'auto', saw -1\n",
        ),
    ],
)
def test_parse_config_mistake_is_named_by_its_place(config_type, values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(config_type, {**MINIMAL[config_type], **values})


def test_resolved_yaml_read_again_is_the_same_config():
    config = parse_config(
        BackfillConfig, {"workspace": "w", "pairs": {"kind": "split"}, "llm": {"model": "m"}}
    )
    assert parse_config(BackfillConfig, yaml.safe_load(resolved_yaml(config))) == config


def test_artifact_uri_is_below_the_workspace_unless_given():
    config = PretrainGraphConfig(workspace="s3://bucket/run/", graph="s3://other/graph")
    assert config.artifact("dataset") == "s3://bucket/run/dataset"
    assert config.artifact("graph") == "s3://other/graph"


def test_uri_in_the_workspace_is_a_folder_of_it():
    values = {
        "workspace": "s3://bucket/run/",
        "pairs": {"kind": "table", "uri": "workspace:pairs"},
        "llm": {"model": "workspace:llm"},
        "explanations": "workspace:top",
    }
    config = parse_config(BackfillConfig, values)
    assert config.pairs == TablePairs(kind="table", uri="s3://bucket/run/pairs")
    assert config.llm.model == "s3://bucket/run/llm"
    assert config.artifact("explanations") == "s3://bucket/run/top"
    judge = {"model": {"kind": "engine", "llm": {"model": "workspace:judge"}}}
    metrics = {"judges": [{"name": name, **judge} for name in ("ann", "bob")]}
    compare = parse_config(CompareConfig, {**MINIMAL[ServeConfig], "metrics": metrics})
    assert [each.model.llm.model for each in compare.metrics.judges] == ["w/judge"] * 2
