"""A project file: what each job sees of it, and how a mistake in it is named."""

import operator
import traceback
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.world.shop import write_yaml
from tests.xrec.config.test_base import SECRET
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.compare import CompareConfig
from xrec.config.data import PrepareConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.jobs import CONFIG_TYPES, SHARED
from xrec.config.project import load_config, read_project
from xrec.errors import ConfigError

FILE: dict[str, Any] = {
    "workspace": "w",
    "llm": {"model": "m", "dtype": "bfloat16"},
    "decoding": {"max_new_tokens": 40, "text": {"max_words": 20}},
    "scaling": {"num_workers": 3},
    "prepare": {"source": {"kind": "tables", "uri": "raw"}, "splits": {"test": 0.3}},
    "pretrain-graph": {"training": {"num_epochs": 7, "seed": 3}},
    "train-adapter": {
        "model": {"num_tokens": 4},
        "training": {"num_epochs": 2},
        "scaling": {"device": "cpu"},
    },
    "backfill": {"pairs": {"kind": "split"}, "decoding": {"text": {"max_words": 30}}},
    "compare": {"training": {"num_epochs": 1}},
}


def write(folder: Path, values: Any) -> Path:
    path = folder / "project.yaml"
    if not isinstance(values, str):
        return write_yaml(path, values)
    path.write_text(values, encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path, FILE)


def test_job_sees_the_shared_keys_overlaid_by_its_section_key_by_key(path):
    graph = load_config(PretrainGraphConfig, path)
    assert (graph.workspace, graph.training.num_epochs, graph.scaling.num_workers) == ("w", 7, 3)
    assert load_config(PrepareConfig, path).splits.test == 0.3
    assert load_config(RecommendConfig, path).workspace == "w"  # it has no section
    backfill = load_config(BackfillConfig, path)
    assert (backfill.decoding.max_new_tokens, backfill.decoding.text.max_words) == (40, 30)
    training = load_config(TrainAdapterConfig, path)
    assert (training.scaling.num_workers, training.scaling.device) == (3, "cpu")
    assert graph.scaling.device == "auto"
    compare = load_config(CompareConfig, path)  # it is laid over train-adapter
    assert compare.model == training.model
    assert (compare.training.num_epochs, compare.scaling.device) == (1, "cpu")


def test_shared_key_has_the_same_meaning_in_all_jobs():
    for key in SHARED:
        types = {
            frozenset(get_args(annotation) or [annotation]) - {type(None)}  # a job may need none
            for config in CONFIG_TYPES.values()
            if key in config.model_fields
            for annotation in [config.model_fields[key].annotation]
        }
        assert len(types) == 1, key


def test_empty_shared_section_is_as_if_it_were_not_there(tmp_path):
    config = load_config(PretrainGraphConfig, write(tmp_path, "workspace: w\nstorage:\nray:\n"))
    assert config == PretrainGraphConfig(workspace="w")


def test_jobs_are_the_sections_in_the_order_of_the_pipeline(tmp_path):
    project = read_project(write(tmp_path, {"workspace": "w", "evaluate": {}, "prepare": None}))
    assert project.jobs == ("prepare", "evaluate")


@pytest.mark.parametrize(
    ("config_type", "override", "keys", "value"),
    [
        (PretrainGraphConfig, "training.num_epochs=9", "training.num_epochs", 9),
        (PretrainGraphConfig, "pretrain-graph.training.num_epochs=9", "training.num_epochs", 9),
        (PretrainGraphConfig, "training.num_epochs=9", "training.seed", 3),
        (
            PretrainGraphConfig,
            "workspace=s3://bucket/key=value",
            "workspace",
            "s3://bucket/key=value",
        ),
        (BackfillConfig, "decoding={temperature: 0.5}", "decoding.temperature", 0.5),
        (BackfillConfig, "decoding={temperature: 0.5}", "decoding.max_new_tokens", 80),
        (CompareConfig, "train-adapter.model.num_tokens=2", "model.num_tokens", 2),
    ],
)
def test_override_is_a_key_of_the_job_or_of_the_file(path, config_type, override, keys, value):
    config = load_config(config_type, path, [override])
    assert operator.attrgetter(keys)(config) == value


def test_project_overrides_are_shared_keys_and_places(path):
    project = read_project(path, ["workspace=elsewhere", "pretrain-graph.training.num_epochs=9"])
    configs = project.configs(["prepare", "pretrain-graph"])
    assert {config.workspace for config in configs.values()} == {"elsewhere"}
    assert configs["pretrain-graph"].training.num_epochs == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.num_epochs=3",
            "a job's name before the key: pretrain-graph.training.num_epochs, "
            "train-adapter.training.num_epochs, compare.training.num_epochs",
        ),
        ("zzz=3", "override 'zzz': .*; the jobs are build-sample-llm, annotate, prepare"),
    ],
)
def test_project_override_of_a_jobs_key_names_the_jobs(path, override, message):
    with pytest.raises(ConfigError, match=message):
        read_project(path, [override])


MISTAKES = [
    (
        {"pretrain-graph": {"training": {"num_epoch": 3}}},
        r"pretrain-graph\.training\.num_epoch: unknown key; did you mean 'num_epochs'\?",
    ),
    (
        {"train-adapter": {"training": {"num_epochs": "many"}}},
        r"  train-adapter\.training\.num_epochs: .* saw 'many'",
    ),
    ({"train_adapter": {}}, r"train_adapter: unknown key; did you mean 'train-adapter'\?"),
    ({"zzz": 1}, r"zzz: unknown key; known keys: workspace, .*serve"),
    (
        {"training": {"num_epochs": 3}},
        r"training: unknown key.*; training stands in pretrain-graph\.training, "
        r"train-adapter\.training, compare\.training",
    ),
    (
        {"backfill": {"pairs": {"kind": "split"}, "splits": {"test": 0.1}}},
        r"backfill\.splits: unknown key; .*splits stands in prepare\.splits",
    ),
    (
        {"backfill": {"pairs": {"kind": "split"}, "prompt": {"user": "x"}}},
        r"backfill\.prompt: unknown key in this place; prompt stands in the top level of the file",
    ),
    (
        {"train-adapter": {"num_epochs": 3}},
        r"train-adapter\.num_epochs: .*; num_epochs stands in train-adapter\.training\.num_epochs$",
    ),
    ({"llm": {"model": "m", "dtype": "half"}}, r"  llm\.dtype: .* saw 'half'"),
    ({"prepare": ["a"]}, r"prepare: expected a mapping of keys to values, saw list"),
    ({"compare": {"entries": ["ours", "ours"]}}, r"  compare: entries: each once"),
    (
        {"train-adapter": {"model": {"dropout": 2}}, "compare": {}},
        r"  train-adapter\.model\.dropout: .* saw 2",
    ),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_mistake_in_any_section_is_named_at_once_whatever_is_run(tmp_path, change, message):
    path = write(tmp_path, {**FILE, **change})
    with pytest.raises(ConfigError, match=f"(?m){message}") as raised:
        load_config(PrepareConfig, path)
    assert str(raised.value).startswith(f"{path}: 1 problem(s)\n")
    with pytest.raises(ConfigError, match=f"(?m){message}"):
        read_project(path).configs(["prepare"])


def test_several_mistakes_are_all_listed(tmp_path):
    values = {"pretrain-graph": {"training": {"num_epoch": 3, "seed": -1}}}
    path = write(tmp_path, values)
    with pytest.raises(ConfigError) as raised:
        load_config(PretrainGraphConfig, path)
    message = str(raised.value)
    assert message.startswith(f"{path}: 3 problem(s)")
    assert "  workspace: required, and not given" in message
    assert all(key in message for key in (".training.num_epoch:", ".training.seed:"))


def test_missing_key_is_a_mistake_of_the_job_that_is_run_only(tmp_path):
    path = write(tmp_path, {"workspace": "w", "prepare": FILE["prepare"], "backfill": {}})
    assert load_config(PrepareConfig, path).workspace == "w"
    with pytest.raises(ConfigError) as raised:
        load_config(BackfillConfig, path)
    lines = str(raised.value).splitlines()[1:]
    assert lines == ["  llm: required, and not given", "  backfill.pairs: required, and not given"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.num_epochs=3", r"trainin: unknown key; did you mean 'training'\?"),
        ("training.num_epochs=many", r"  training\.num_epochs: .*saw 'many'"),
        ("training.num_epochs=-1", r"  training\.num_epochs: .*greater than or equal to 0, saw -1"),
        ("splits.test=0.1", r"splits: unknown key in this place; splits stands in prepare\.splits"),
        ("training.num_epochs", "override 1: expected section.key=value"),
        ("=3", "override 1: expected section.key=value"),
        ("workspace.deeper=3", "'workspace' holds a value, and is not a section"),
        ("training.seed=[1", "override 'training.seed': the value: not valid YAML"),
        ("training.seed=2026-99-99", "not valid YAML"),
    ],
)
def test_mistake_in_an_override_is_named_as_it_was_given(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(PretrainGraphConfig, path, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping of keys to values, saw an empty file"),
        (b"# nothing\n", "expected a mapping of keys to values, saw an empty file"),
        (b"- a\n- list\n", "expected a mapping of keys to values, saw list"),
        (b"word\n", "expected a mapping of keys to values, saw str"),
        (b"workspace: [w\n", "not valid YAML in line 2, column 1"),
        (b"workspace: w\nworkspace: v\n", "line 2, column 1: key 'workspace' stands twice"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (None, r"nowhere\.yaml.*No such file"),
        ("folder", r"cannot be read \(Is a directory\)"),
    ],
)
def test_file_that_is_no_project_is_refused(tmp_path, content, message):
    path = tmp_path if content == "folder" else tmp_path / "nowhere.yaml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(PrepareConfig, path)


STORAGE = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET}
IN_THE_FILE: list[Any] = [
    {"storage": {"secret_access_key": SECRET}},
    {"storage": {**STORAGE, "max_attempts": "x"}},
    {"storage": {**STORAGE, "secret_access_key": [SECRET]}},
    {"storage": {**STORAGE, "access_key_id": 271828182845}},
    {"storage": {"secret_acces_key": SECRET}},
    {"storage": SECRET},
    {"storage": [STORAGE]},
    {"storage": {SECRET: None}},
    {"storage": {f"secret_access_key:{SECRET}": 1}},
    {"workspace": None, "storage": STORAGE},
    {"serve": {"security": {"keys": [{"name": "shop", "sha256": SECRET}]}}},
    {"serve": {"security": {"keys": SECRET}}},
    {"serve": {"security": SECRET}},
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
    is_text = isinstance(values, str)
    path = write(tmp_path, f"workspace: w\n{values}" if is_text else {"workspace": "w", **values})
    with pytest.raises(ConfigError) as raised:
        load_config(PrepareConfig, path, overrides)
    shown = "".join(traceback.format_exception(raised.value)) + str(raised.value)
    for secret in (SECRET.rstrip("="), "AKIDEXAMPLE", "271828182845"):
        assert secret not in shown
