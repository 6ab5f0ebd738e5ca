"""How a config is read: file, overrides, errors."""

from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from xrec.config.backfill import BackfillConfig
from xrec.config.base import load_config, parse_config, resolved_yaml
from xrec.config.data import PrepareConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError


def _file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_load_config_override_replaces_the_file_and_adds_sections(tmp_path: Path) -> None:
    path = _file(tmp_path, "workspace: w\ntraining:\n  num_epochs: 7\n  seed: 3\n")
    config = load_config(
        PretrainGraphConfig,
        path,
        ["training.num_epochs=9", "model.embedding_dim=16", "ray.address=null"],
    )
    assert (config.training.num_epochs, config.training.seed, config.model.embedding_dim) == (
        9,
        3,
        16,
    )
    assert config.ray.address is None


def test_load_config_override_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    path = _file(tmp_path, "workspace: w\n")
    assert (
        load_config(PretrainGraphConfig, path, ["workspace=s3://bucket/key=value"]).workspace
        == "s3://bucket/key=value"
    )


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            "workspace: w\ntraining: {num_epoch: 3}\n",
            [],
            r"training\.num_epoch: unknown key; did you mean 'num_epochs'\?",
        ),
        (
            "workspace: w\n",
            ["trainin.num_epochs=3"],
            r"trainin: unknown key; did you mean 'training'\?",
        ),
        ("workspace: w\nzzz: 1\n", [], r"zzz: unknown key; known keys: .*workspace"),
        ("training: {num_epochs: 3}\n", [], "workspace: required, and not given"),
        ("workspace: w\n", ["training.num_epochs=many"], r"training\.num_epochs: .*saw 'many'"),
        (
            "workspace: w\n",
            ["training.num_epochs=0"],
            r"training\.num_epochs: .*greater than or equal to 1, saw 0",
        ),
        ("workspace: w\n", ["training.num_epochs"], "expected section.key=value"),
        ("workspace: w\n", ["=3"], "expected section.key=value"),
        (
            "workspace: w\n",
            ["workspace.deeper=3"],
            "'workspace' holds the value 'w', not a section",
        ),
        ("workspace: w\n", ["training.seed=[1"], "not valid YAML"),
        ("- a\n- list\n", [], "expected a mapping of keys to values, saw list"),
        ("workspace: [w\n", [], "not valid YAML"),
    ],
)
def test_load_config_mistake_is_named_with_the_way_out(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(PretrainGraphConfig, _file(tmp_path, text), overrides)


def test_load_config_several_mistakes_are_all_listed(tmp_path: Path) -> None:
    path = _file(tmp_path, "training: {num_epoch: 3, seed: -1}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(PretrainGraphConfig, path)
    message = str(raised.value)
    assert message.startswith(f"{path}: 3 problem(s)")
    assert all(key in message for key in ("workspace", "training.num_epoch", "training.seed"))


def test_load_config_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml.*No such file"):
        load_config(PretrainGraphConfig, tmp_path / "nowhere.yaml")


def test_parse_config_unknown_key_in_a_union_member_has_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="num_usrs: unknown key; did you mean 'num_users'"):
        parse_config(
            PrepareConfig, {"workspace": "w", "source": {"kind": "sample", "num_usrs": 100}}
        )


def test_parse_config_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"xrec_release.*tables.*sample"):
        parse_config(PrepareConfig, {"workspace": "w", "source": {"kind": "csv"}})


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


def test_resolved_yaml_secrets_are_masked() -> None:
    storage = StorageConfig(
        access_key_id=SecretStr("AKIDSHOWN"), secret_access_key=SecretStr("hunter2")
    )
    text = resolved_yaml(PretrainGraphConfig(workspace="w", storage=storage))
    assert "hunter2" not in text
    assert "AKIDSHOWN" not in text


def test_artifact_uri_is_below_the_workspace_unless_given() -> None:
    config = PretrainGraphConfig(workspace="s3://bucket/run/", graph="s3://other/graph")
    assert config.artifact("dataset") == "s3://bucket/run/dataset"
    assert config.artifact("graph") == "s3://other/graph"
