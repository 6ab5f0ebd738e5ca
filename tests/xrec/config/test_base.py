"""Validation of plain values: errors, and what they never show."""

import traceback
from typing import Any

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from xrec.config.backfill import BackfillConfig
from xrec.config.base import Config, parse_config, resolved_yaml
from xrec.config.data import PrepareConfig
from xrec.config.export import ExportConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.serve import ServeConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="


def test_parse_config_unknown_key_in_a_union_member_has_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r" source\.num_usrs: unknown key; did you mean 'num_use"):
        parse_config(
            PrepareConfig, {"workspace": "w", "source": {"kind": "sample", "num_usrs": 100}}
        )


def test_parse_config_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"xrec_release.*tables.*sample"):
        parse_config(PrepareConfig, {"workspace": "w", "source": {"kind": "csv"}})


def test_parse_config_mistake_in_a_list_is_named_by_its_place() -> None:
    values = {"workspace": "w", "llm": {"model": "m"}, "security": {"keys": [{"name": 3}]}}
    with pytest.raises(ConfigError, match=r"security\.keys\.0\.name: .*string, saw 3"):
        parse_config(ServeConfig, values)


def test_parse_config_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(PretrainGraphConfig, {"workspace": "w", "parallelism": "x" * 1000})
    assert "x" * 100 in str(raised.value)
    assert "x" * 300 not in str(raised.value)


def test_config_is_immutable() -> None:
    config = PretrainGraphConfig(workspace="w")
    with pytest.raises(ValidationError):
        config.workspace = "elsewhere"


def test_resolved_yaml_read_again_is_the_same_config() -> None:
    config = parse_config(
        BackfillConfig,
        {"workspace": "w", "pairs": {"kind": "top_k", "user_ids": ["a"]}, "llm": {"model": "m"}},
    )
    assert parse_config(BackfillConfig, yaml.safe_load(resolved_yaml(config))) == config


def test_artifact_uri_is_below_the_workspace_unless_given() -> None:
    config = PretrainGraphConfig(workspace="s3://bucket/run/", graph="s3://other/graph")
    assert config.artifact("dataset") == "s3://bucket/run/dataset"
    assert config.artifact("graph") == "s3://other/graph"


def test_llm_model_in_the_workspace_is_a_folder_of_it() -> None:
    values = {"workspace": "s3://bucket/run/", "llm": {"model": "workspace:llm"}}
    assert parse_config(ServeConfig, values).llm.model == "s3://bucket/run/llm"


@pytest.mark.parametrize("export", ["workspace:files", {"uri": "workspace:files"}])
def test_export_in_the_workspace_is_a_folder_of_it(export: object) -> None:
    pairs = {"kind": "split"}
    values = {"workspace": "s3://bucket/run/", "pairs": pairs, "llm": {"model": "workspace:llm"}}
    config = parse_config(BackfillConfig, {**values, "export": export})
    assert config.export == ExportConfig(uri="s3://bucket/run/files")
    assert config.llm.model == "s3://bucket/run/llm"
    assert parse_config(BackfillConfig, values).export is None


STORAGE = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}
MISTAKES: list[tuple[str, type[Config], dict[str, Any]]] = [
    ("half a pair", PretrainGraphConfig, {"storage": {"secret_access_key": SECRET}}),
    ("wrong value beside", PretrainGraphConfig, {"storage": {**STORAGE, "max_attempts": "x"}}),
    ("typed wrong", PretrainGraphConfig, {"storage": {**STORAGE, "secret_access_key": [SECRET]}}),
    ("a number", PretrainGraphConfig, {"storage": {**STORAGE, "access_key_id": 271828182845}}),
    ("misspelt", PretrainGraphConfig, {"storage": {"secret_acces_key": SECRET}}),
    ("as the section", PretrainGraphConfig, {"storage": SECRET}),
    ("in a list as the section", PretrainGraphConfig, {"storage": [STORAGE]}),
    ("as a key", PretrainGraphConfig, {"storage": {SECRET: None}}),
    ("key and value in one", PretrainGraphConfig, {"storage": {f"secret_access_key:{SECRET}": 1}}),
    ("no workspace", PretrainGraphConfig, {"workspace": None, "storage": STORAGE}),
    (
        "the key where its hash belongs",
        ServeConfig,
        {"llm": {"model": "m"}, "security": {"keys": [{"name": "shop", "sha256": SECRET}]}},
    ),
    ("keys as a word", ServeConfig, {"llm": {"model": "m"}, "security": {"keys": SECRET}}),
    ("security as a word", ServeConfig, {"llm": {"model": "m"}, "security": SECRET}),
]


@pytest.mark.parametrize(
    ("config_type", "values"), [each[1:] for each in MISTAKES], ids=[each[0] for each in MISTAKES]
)
def test_error_shows_no_secret_neither_in_its_message_nor_in_its_traceback(
    config_type: type[Config], values: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(config_type, {"workspace": "w", **values})
    shown = "".join(traceback.format_exception(raised.value))
    for secret in (SECRET, "AKIDEXAMPLE", "271828182845"):
        assert secret not in str(raised.value)
        assert secret not in shown


def test_repr_and_resolved_yaml_show_no_secret() -> None:
    storage = StorageConfig(
        access_key_id=SecretStr("AKIDEXAMPLE"), secret_access_key=SecretStr(SECRET)
    )
    config = PretrainGraphConfig(workspace="w", storage=storage)
    for shown in (repr(config), str(config), resolved_yaml(config), config.model_dump_json()):
        assert SECRET not in shown
        assert "AKIDEXAMPLE" not in shown
