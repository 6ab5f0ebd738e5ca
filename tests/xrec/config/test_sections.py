"""What each section takes and refuses, and what the entries of a comparison are."""

from typing import Any

import pytest

from tests.errors import raises
from xrec.config.adapter import AdapterTrainingConfig, DeepSpeedConfig, TrainAdapterConfig
from xrec.config.base import Config, parse_config
from xrec.config.compare import CompareConfig
from xrec.config.evaluate import JudgeConfig, MetricsConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.llm import EngineConfig
from xrec.config.prompt import PromptConfig, parse_placeholders, placeholder_names
from xrec.config.shared import ScalingConfig
from xrec.errors import ConfigError

INT8: dict[str, Any] = {"workspace": "w", "llm": {"model": "m", "quantization": "int8"}}
AT_THE_END = {
    "user": "User: {user_profile}",
    "item": "Item: {item_title}. {item_profile}",
    "collaborative": "{user}{item}",
}


def judge(name: str = "ann") -> dict[str, Any]:
    return {"name": name, "model": {"kind": "endpoint", "model": "gpt"}}


TAKEN: list[tuple[type[Config], dict[str, Any]]] = [
    (TrainAdapterConfig, INT8),
    *((AdapterTrainingConfig, {"micro_batch_size": size}) for size in (1, 8, "auto")),
    (EngineConfig, {"kind": "vllm", "tensor_parallel_size": 4}),
    (PromptConfig, AT_THE_END),
    (PromptConfig, {"user": "User: {user_profile}", "collaborative": "{user}"}),
    (PromptConfig, {"user": "{user_profile}", "item": "{item_title} {item} {user}"}),
    (PromptConfig, {"user": "User {user}", "item": "{item_title}", "collaborative": "Item {item}"}),
]


@pytest.mark.parametrize(("section", "values"), TAKEN)
def test_section_takes_what_goes_together(section, values):
    config = parse_config(section, values)
    given = {name: value for name, value in values.items() if not isinstance(value, dict | list)}
    assert given.items() <= config.model_dump().items()


COMPARE = {"workspace": "w", "llm": {"model": "m"}}
TOP = "(top level)"
REFUSED: dict[type[Config], list[dict[str, Any]]] = {
    PretrainGraphConfig: [
        {"workspace": "w", "training": {"num_epochs": 0}, **given}
        for given in ({"folds": 0}, {"folds": 2, "start_from": "g"})
    ],
    ScalingConfig: [{"num_workers": 2, "min_workers": 3}],
    EngineConfig: [
        {"kind": "builtin", "tensor_parallel_size": 4},
        {"kind": "builtin", "vllm_options": {"a": 1}},
    ],
    DeepSpeedConfig: [
        {"offload": "cpu", "zero_stage": 1},
        {"hpz_partition_size": 2, "zero_stage": 1},
    ],
    TrainAdapterConfig: [
        {**INT8, "deepspeed": {"zero_stage": 3}},
        {**INT8, "deepspeed": {"offload": "cpu"}},
        {**COMPARE, "deepspeed": {"hpz_partition_size": 4}, "scaling": {"num_workers": 6}},
    ],
    MetricsConfig: [{"judges": [judge("ann")]}, {"judges": [judge("ann"), judge("ann")]}],
    PromptConfig: [
        {"user": "User: {user_profile}"},
        {"collaborative": "{user}"},
        {**AT_THE_END, "collaborative": "{user}{item}{item}"},
        {"user": "{user} {item}"},
        {"instruction": "Why {user}?"},
        {**AT_THE_END, "collaborative": "{user}{item} {user_profile}"},
    ],
    CompareConfig: [
        {**COMPARE, **changes}
        for changes in (
            {"entries": ["ours", "pepper"]},
            {"entries": ["ours", "without_aspects"]},
            {"entries": ["ours"], "llm": None},
            {"model": {"injection": "none"}},
            {"model": {"vectors": "random"}},
            {"seeds": [0, 0]},
            {"seeds": [-1]},
            {"texts": {"ours": {"uri": "a.csv"}}},
            {"texts": {"a/b": {"uri": "a.csv"}}},
            {"texts": {"chooser": {"uri": "a.csv"}}},
        )
    ],
}


@pytest.mark.parametrize(
    ("section", "values"), [(section, each) for section, some in REFUSED.items() for each in some]
)
def test_section_refuses_keys_that_do_not_go_together(section, values):
    with raises(ConfigError, "value_error", TOP):
        parse_config(section, values)


@pytest.mark.parametrize("size", [0, -1, 2.5, "fast", None])
def test_micro_batch_size_is_a_number_from_1_or_auto(size):
    with raises(ConfigError, "literal_error", "micro_batch_size", size) as raised:
        parse_config(AdapterTrainingConfig, {"micro_batch_size": size})
    assert len(raised.value.problems) == 1  # though no type of the key takes it


@pytest.mark.parametrize("name", ["", "Ann", "a b", "9", "_a", "a" * 40, "ann_failed"])
def test_judge_is_called_by_a_short_name(name):
    code = "value_error" if name.endswith("_failed") else "string_pattern_mismatch"
    with raises(ConfigError, code, "name", name):
        parse_config(JudgeConfig, judge(name))


def test_compare_refuses_texts_of_an_unknown_format_and_proposes_an_entry():
    with raises(ConfigError, "value_error", "texts.public.uri", "a.xlsx"):
        parse_config(CompareConfig, {**COMPARE, "texts": {"public": {"uri": "a.xlsx"}}})
    with raises(ConfigError, "value_error", TOP) as raised:
        parse_config(CompareConfig, {**COMPARE, "entries": ["ours", "neerest"]})
    assert "'nearest'" in str(raised.value)


def test_scaling_config_fewest_workers_are_all_unless_there_is_a_minimum():
    assert ScalingConfig(num_workers=4).fewest_workers == 4
    assert ScalingConfig(num_workers=4, min_workers=2).fewest_workers == 2


def test_parse_placeholders_gives_literals_and_names_in_order():
    assert parse_placeholders("User: {user}.") == [("User: ", "user"), (".", None)]
    assert placeholder_names("{item} {user} {item}") == ["item", "user", "item"]
    assert parse_placeholders("") == placeholder_names("{{user}}") == []


PROMPT = {
    "instruction": "Why?",
    "user": "User: {user} {user_profile}",
    "item": "Item: {item} {item_title}. {item_profile}",
}


def make_config(**changes: Any) -> CompareConfig:
    values = {"workspace": "w", "llm": {"model": "m"}, "prompt": PROMPT, **changes}
    return parse_config(CompareConfig, values)


def test_ours_is_the_train_adapter_run_of_the_same_keys_with_the_entrys_seed():
    config = make_config(training={"num_epochs": 3})
    expected = parse_config(
        TrainAdapterConfig,
        {
            "workspace": "w",
            "llm": {"model": "m"},
            "prompt": PROMPT,
            "training": {"num_epochs": 3, "seed": 2},
            "model": {"vectors_seed": 2},
            "adapter": "elsewhere",
        },
    )
    assert config.training_of("ours", 2, "elsewhere") == expected


def differences(variant: str) -> dict[str, Any]:
    """What the variant's training has in place of the full one's, by dotted key."""
    config = make_config(prompt={**PROMPT, "aspects": 3})
    full, other = (
        config.training_of(name, 3, "w/adapter").model_dump() for name in ("ours", variant)
    )
    return {
        f"{section}.{key}": value
        for section in full
        if full[section] != other[section]
        for key, value in other[section].items()
        if full[section][key] != value
    }


WITHOUT_PROFILE = {
    "prompt.user": "User: {user}",
    "prompt.item": "Item: {item} {item_title}.",
    "prompt.aspects": 0,
}


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("ours", {}),
        ("without_profile", WITHOUT_PROFILE),
        ("without_injection", {"model.injection": "none"}),
        ("without_both", {"model.injection": "none", **WITHOUT_PROFILE}),
        ("without_aspects", {"prompt.aspects": 0}),
        ("random_vectors", {"model.vectors": "random"}),
        ("constant", {"model.vectors": "constant"}),
    ],
)
def test_variant_changes_what_its_name_says_and_nothing_else(variant, expected):
    assert differences(variant) == expected


def test_texts_of_an_entry_are_a_backfill_that_no_failures_stop():
    backfill = make_config().backfill_of(5, "pairs.parquet", "texts", "adapter")
    assert backfill.decoding.seed == 5
    assert backfill.max_failed_share == 1.0
    assert (backfill.adapter, backfill.explanations) == ("adapter", "texts")


def test_entries_that_chance_does_not_touch_have_no_seed():
    config = make_config()
    assert [config.is_seeded(name) for name in ("ours", "lora", "profile", "nearest")] == [
        True,
        True,
        False,
        False,
    ]
    assert not config.is_seeded("zero_shot")
    assert make_config(decoding={"temperature": 0.5}).is_seeded("zero_shot")
    assert make_config(decoding={"text": {"checks": {"unsupported": True}}}).is_seeded("zero_shot")


def test_texts_from_elsewhere_are_a_entry_by_their_name():
    config = make_config(
        entries=["profile", "public"], texts={"public": {"uri": "a.jsonl"}}, llm=None
    )
    assert not config.has_language_model
    assert not config.is_seeded("public")
