"""A project file: what each job sees of it, how a mistake is named, and what is never shown."""

import operator
import os
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from tests.errors import raises
from tests.world.shop import SECRET, write_yaml
from xrec.config import (
    CONFIG_TYPES,
    SHARED,
    BackfillConfig,
    CompareConfig,
    EvaluateConfig,
    PrepareConfig,
    PretrainGraphConfig,
    Processes,
    RecommendConfig,
    ServeConfig,
    TablePairs,
    TrainAdapterConfig,
    keys_of,
    load_config,
    parse_config,
    read_project,
    resolved_yaml,
)
from xrec.errors import ConfigError

FILE: dict[str, Any] = {
    "workspace": "w",
    "llm": {"model": "m", "dtype": "bfloat16"},
    "decoding": {"max_new_tokens": 40, "text": {"max_words": 20}},
    "workers": {"num_processes": 3},
    "prepare": {"source": {"kind": "tables", "uri": "raw"}, "splits": {"test": 0.3}},
    "pretrain-graph": {"training": {"num_epochs": 7, "seed": 3}},
    "train-adapter": {
        "model": {"num_tokens": 4},
        "training": {"num_epochs": 2},
        "workers": {"device": "cpu"},
    },
    "backfill": {"pairs": {"kind": "split"}, "decoding": {"text": {"max_words": 30}}},
    "compare": {"training": {"num_epochs": 1}},
}


def write(folder: Path, values: Any) -> Path:
    return write_yaml(folder / "project.yaml", values)


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, FILE)


def test_job_gets_the_shared_keys_overlaid_by_its_section_key_by_key(path):
    graph = load_config(PretrainGraphConfig, path)
    assert (graph.workspace, graph.training.num_epochs) == (os.path.abspath("w"), 7)
    assert graph.workers.num_processes == 3
    assert load_config(PrepareConfig, path).splits.test == 0.3
    assert load_config(RecommendConfig, path).workspace == graph.workspace  # it has no section
    backfill = load_config(BackfillConfig, path)
    assert (backfill.decoding.max_new_tokens, backfill.decoding.text.max_words) == (40, 30)
    training = load_config(TrainAdapterConfig, path)
    assert (training.workers.num_processes, training.workers.device) == (3, "cpu")
    assert graph.workers.device == "auto"
    compare = load_config(CompareConfig, path)  # it is laid over train-adapter
    assert compare.model == training.model
    assert (compare.training.num_epochs, compare.workers.device) == (1, "cpu")


def test_shared_key_has_the_same_meaning_in_all_jobs():
    for key in SHARED:
        types = {
            frozenset(get_args(annotation) or [annotation]) - {type(None)}  # a job may need none
            for config in CONFIG_TYPES.values()
            if key in config.model_fields
            for annotation in [config.model_fields[key].annotation]
        }
        assert len(types) == 1, key


@pytest.mark.parametrize(
    ("config_type", "override", "keys", "value"),
    [
        (PretrainGraphConfig, "training.num_epochs=9", "training.num_epochs", 9),
        (PretrainGraphConfig, "pretrain-graph.training.num_epochs=9", "training.num_epochs", 9),
        (PretrainGraphConfig, "training.num_epochs=9", "training.seed", 3),
        (PretrainGraphConfig, "workspace=s3://b/key=value", "workspace", "s3://b/key=value"),
        (BackfillConfig, "decoding={temperature: 0.5}", "decoding.max_new_tokens", 80),
        (CompareConfig, "train-adapter.model.num_tokens=2", "model.num_tokens", 2),
    ],
)
def test_override_is_a_key_of_the_job_or_of_the_file(path, config_type, override, keys, value):
    config = load_config(config_type, path, [override])
    assert operator.attrgetter(keys)(config) == value


def test_project_overrides_are_shared_keys_or_start_with_a_job(path):
    project = read_project(path, ["workspace=elsewhere", "pretrain-graph.training.num_epochs=9"])
    configs = project.configs(["prepare", "pretrain-graph"])
    assert {config.workspace for config in configs.values()} == {os.path.abspath("elsewhere")}
    assert configs["pretrain-graph"].training.num_epochs == 9
    with raises(ConfigError, "unknown_key", "training.num_epochs"):
        read_project(path, ["training.num_epochs=9"])


UNKNOWN = "extra_forbidden"
EPOCHS = "train-adapter.training.num_epochs"
SPLIT = {"kind": "split"}
ENDPOINT = {"kind": "endpoint", "base_url": "http://host/v1", "model": "m"}
# change, code, key, saw, and what the message proposes instead of an unknown key
MISTAKES: list[tuple[dict[str, Any], str, str, Any, str]] = [
    ({"train-adapter": {"training": {"num_epochs": "many"}}}, "int_parsing", EPOCHS, "many", ""),
    ({"prepare": ["a"]}, "dict_type", "prepare", "list", ""),
    ({"compare": {"entries": ["ours", "ours"]}}, "value_error", "compare", None, ""),
    ({"train_adapter": {}}, UNKNOWN, "train_adapter", None, " train-adapter?"),
    ({"zzz": 1}, UNKNOWN, "zzz", None, "--keys"),
    ({"training": {}}, UNKNOWN, "training", None, "train-adapter.training or "),
    ({"train-adapter": {"num_epochs": 3}}, UNKNOWN, "train-adapter.num_epochs", None, EPOCHS),
    (
        {"train-adapter": {"mode": {}}},
        UNKNOWN,
        "train-adapter.mode",
        None,
        "mean train-adapter.model ",
    ),
    ({"recommend": {"prompt": {}}}, UNKNOWN, "recommend.prompt", None, "top level"),
    ({"backfill": {"pairs": SPLIT, "splits": {}}}, UNKNOWN, "backfill.splits", None, "prepare."),
    (
        {"backfill": {"pairs": {**SPLIT, "ur": ""}}},
        *(UNKNOWN, "backfill.pairs.ur", None, "mean backfill.pairs.uri, with kind: table or"),
    ),
    (
        {"compare": {"judges": {"a": {**ENDPOINT, "lm": 1}, "b": ENDPOINT}}},
        *(UNKNOWN, "compare.judges.a.lm", None, "compare.judges.llm, with kind: engine"),
    ),
]


@pytest.mark.parametrize(("change", "code", "key", "saw", "hint"), MISTAKES)
def test_mistake_in_any_section_is_reported_whatever_job_runs(
    tmp_path, change, code, key, saw, hint
):
    path = write(tmp_path, {**FILE, **change})
    with raises(ConfigError, code, key, saw) as raised:
        load_config(PrepareConfig, path)
    assert raised.value.problems == {key: code}
    assert hint in str(raised.value)
    with raises(ConfigError, code, key, saw):
        read_project(path).configs(["prepare"])


@pytest.mark.parametrize(
    ("override", "code", "key", "saw"),
    [
        ("trainin.num_epochs=3", UNKNOWN, "trainin", None),
        ("training.num_epochs=many", "int_parsing", "training.num_epochs", "many"),
        ("splits.test=0.1", UNKNOWN, "splits", None),
        ("training.num_epochs", "not_an_override", "", 1),
        ("=3", "not_an_override", "", 1),
        ("workspace.deeper=3", "not_a_section", "workspace.deeper", None),
        ("training.seed=[1", "invalid_yaml", None, None),
        ("training.seed=2026-99-99", "invalid_yaml", None, None),
    ],
)
def test_mistake_in_an_override_is_reported_as_it_was_given(path, override, code, key, saw):
    with raises(ConfigError, code, key, saw):
        load_config(PretrainGraphConfig, path, [override])


@pytest.mark.parametrize(
    ("content", "code", "seen"),
    [
        (b"", "not_a_mapping", "an empty file"),
        (b"- a\n- list\n", "not_a_mapping", "list"),
        (b"workspace: [w\n", "invalid_yaml", "line 2, column 1"),
        (b"workspace: w\nworkspace: v\n", "invalid_yaml", "line 2, column 1: key 'workspace'"),
        (b"\xff\xfe\x00", "not_utf8", ""),
        (None, "unreadable_file", "No such file"),
    ],
)
def test_file_that_is_not_a_project_is_refused(tmp_path, content, code, seen):
    path = tmp_path / "project.yaml"
    if content is not None:
        path.write_bytes(content)
    with raises(ConfigError, code, str(path)) as raised:
        load_config(PrepareConfig, path)
    assert seen in str(raised.value)


def test_all_mistakes_are_listed_with_the_missing_keys_of_the_job(tmp_path):
    values = {"pretrain-graph": {"training": {"num_epoch": 3, "seed": -1}}}
    with raises(ConfigError, UNKNOWN, "pretrain-graph.training.num_epoch") as raised:
        load_config(PretrainGraphConfig, write(tmp_path, values))
    assert raised.value.problems == {
        "workspace": "missing",
        "pretrain-graph.training.num_epoch": UNKNOWN,
        "pretrain-graph.training.seed": "greater_than_equal",
    }
    assert all(key in str(raised.value) for key in raised.value.problems)
    path = write(tmp_path, {"workspace": "w", "prepare": FILE["prepare"], "backfill": {}})
    assert load_config(PrepareConfig, path).workspace == os.path.abspath("w")
    with raises(ConfigError, "missing", "llm") as raised:
        load_config(BackfillConfig, path)
    assert raised.value.problems == {"llm": "missing"}


def test_mistake_has_its_line_and_what_was_probably_meant(tmp_path):
    path = tmp_path / "project.yaml"
    path.write_text(
        "workspace: w\n\nprepare: {source: {kind: tabels}}\n"
        "serve:\n  keys:\n  - name: shop\n    scope: [explain]\n"
    )
    with raises(ConfigError, "union_tag_invalid", "prepare.source.kind") as raised:
        load_config(PrepareConfig, path, ["serve.http.prt=9"])
    lines = [line.strip() for line in str(raised.value).splitlines()[1:]]
    assert [line.partition(":")[0] for line in lines] == ["line 3", "line 7", "serve.http.prt"]
    assert lines[0].endswith("saw 'tabels'; did you mean 'tables'?")


STORAGE = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}
IN_THE_FILE: list[Any] = [
    {"storage": {"secret_access_key": SECRET}},
    {"storage": {**STORAGE, "region": 1}},
    {"storage": {**STORAGE, "secret_access_key": [SECRET]}},
    {"storage": {**STORAGE, "access_key_id": 271828182845}},
    {"storage": {"secret_acces_key": SECRET}},
    {"storage": SECRET},
    {"storage": [STORAGE]},
    {"storage": STORAGE, "compare": {"entries": ["ours", "ours"]}},
    {"storage": {SECRET: None}},
    {"storage": {f"secret_access_key:{SECRET}": 1}},
    {"workspace": None, "storage": STORAGE},
    {"serve": {"keys": [{"name": "shop", "sha256": SECRET}]}},
    {"serve": {"keys": SECRET}},
    {"prepare": {"storage": SECRET}},
    {"prepare": SECRET},
    {"backfill": {"storage": {"secret_access_key": SECRET}}},
    f"storage: {{secret_access_key: '{SECRET}}}\n",
    f"storage:\n  access_key_id: a\n  secret_access_key: *{SECRET}\n",
    f"storage:\n  access_key_id: a\n  secret_access_key: !{SECRET} x\n",
]
IN_OVERRIDES = [
    [f"storage.secret_access_key={SECRET}"],
    [f"storage.secret_access_key=[{SECRET}"],
    [f"storage.secret_access_key:{SECRET}"],
    ["storage.secret_access_key=", SECRET],
    ["storage.secret_access_key=", SECRET.rstrip("=")],
    [f"storage={SECRET}"],
    [f"storage={{secret_access_key: {SECRET}}}"],
    [f"prepare.storage.secret_access_key={SECRET}"],
]
LEAKS = [
    *((values, []) for values in IN_THE_FILE),
    *(({}, overrides) for overrides in IN_OVERRIDES),
    ({"storage": SECRET}, ["storage.region=eu"]),
]


@pytest.mark.parametrize(("values", "overrides"), LEAKS)
def test_error_shows_no_secret_of_the_file_or_the_command_line(tmp_path, values, overrides):
    path, is_text = tmp_path / "project.yaml", isinstance(values, str)
    text = f"workspace: w\n{values}" if is_text else yaml.safe_dump({"workspace": "w", **values})
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(PrepareConfig, path, overrides)
    error = raised.value
    carried = f"{error} {error.key} {error.saw} {error.problems}"
    shown = "".join(traceback.format_exception(error)) + carried
    for secret in (SECRET.rstrip("="), "AKIDEXAMPLE", "271828182845"):
        assert secret not in shown


LLM = {"workspace": "w", "llm": {"model": "m"}}


def test_resolved_yaml_read_again_is_the_same_config():
    config = parse_config(BackfillConfig, {**LLM, "pairs": {"kind": "split"}})
    assert parse_config(BackfillConfig, yaml.safe_load(resolved_yaml(config))) == config


def test_section_given_in_part_keeps_its_other_defaults():
    config = parse_config(ServeConfig, {**LLM, "models": {"cpus": 2}, "engine": {"kind": "auto"}})
    assert (config.models, config.engine.max_rows) == (Processes(num_processes=1, cpus=2), 32)
    defaults = {key.name: key.default for key in keys_of(ServeConfig)}
    assert (defaults["models.num_processes"], defaults["engine.max_rows"]) == (1, 32)
    assert parse_config(EvaluateConfig, {**LLM, "engine": {"kind": "auto"}}).engine.max_rows == 128


def test_uri_is_below_the_workspace_unless_given():
    graph = PretrainGraphConfig(
        workspace="s3://bucket/run/", artifacts={"graph": "s3://other/graph"}
    )
    assert graph.artifact("dataset") == "s3://bucket/run/dataset"
    assert graph.artifact("graph") == "s3://other/graph"
    values = {
        "workspace": "s3://bucket/run/",
        "pairs": {"kind": "table", "uri": "workspace:pairs"},
        "llm": {"model": "workspace:llm"},
        "artifacts": {"explanations": "workspace:top"},
    }
    config = parse_config(BackfillConfig, values)
    assert config.pairs == TablePairs(kind="table", uri="s3://bucket/run/pairs")
    assert config.llm.model == "s3://bucket/run/llm"
    assert config.artifact("explanations") == "s3://bucket/run/top"
    judge = {"kind": "engine", "llm": {"model": "workspace:judge"}}
    judges = {"ann": judge, "bob": judge}
    compare = parse_config(CompareConfig, {**LLM, "judges": judges})
    assert [each.llm.model for each in compare.judges.values()] == [os.path.abspath("w/judge")] * 2
