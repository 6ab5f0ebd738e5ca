"""What each section takes, and what it refuses: keys that go together, or not at all."""

from typing import Any

import pytest

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
NOT_SHARDED = "'int8' cannot be sharded or offloaded"
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
REFUSED: dict[type[Config], list[tuple[dict[str, Any], str]]] = {
    PretrainGraphConfig: [
        (
            {"workspace": "w", "training": {"num_epochs": 0}, **given},
            "expected an earlier graph and folds: 0, or at least one epoch",
        )
        for given in ({"folds": 0}, {"folds": 2, "start_from": "g"})
    ],
    ScalingConfig: [({"num_workers": 2, "min_workers": 3}, "at most num_workers = 2, saw 3")],
    EngineConfig: [
        ({"kind": "builtin", "tensor_parallel_size": 4}, "size = 4 needs kind = 'vllm'"),
        ({"kind": "builtin", "vllm_options": {"a": 1}}, "vllm_options .*needs kind = 'vllm'"),
    ],
    DeepSpeedConfig: [
        ({"offload": "cpu", "zero_stage": 1}, "needs zero_stage 3 or auto, saw 1"),
        ({"hpz_partition_size": 2, "zero_stage": 1}, "size = 2 needs zero_stage 3 or auto, saw 1"),
    ],
    TrainAdapterConfig: [
        ({**INT8, "deepspeed": {"zero_stage": 3}}, f"{NOT_SHARDED}.*saw 3 and none"),
        ({**INT8, "deepspeed": {"offload": "cpu"}}, f"{NOT_SHARDED}.*saw auto and cpu"),
        (
            {**COMPARE, "deepspeed": {"hpz_partition_size": 4}, "scaling": {"num_workers": 6}},
            "4 as deepspeed.hpz_partition_size must divide scaling.num_workers, saw 6",
        ),
    ],
    AdapterTrainingConfig: [
        (
            {"micro_batch_size": size},
            r"1 problem.s.(.|\n)*(integer|than or equal to 1).*, or .*'auto'",
        )
        for size in (0, -1, 2.5, "fast", None)
    ],
    MetricsConfig: [
        ({"judges": [judge("ann")]}, "judges has 'ann' alone; give at least two"),
        ({"judges": [judge("ann"), judge("ann")]}, "expected each once"),
    ],
    JudgeConfig: [
        (judge(name), "name") for name in ("", "Ann", "a b", "9", "_a", "a" * 40, "ann_failed")
    ],
    PromptConfig: [
        (
            {"user": "User: {user_profile}"},
            r"must hold \{user\} exactly once, saw it in no part; "
            r"put it into one of the parts user, item, collab",
        ),
        ({"collaborative": "{user}"}, r"\{user\} exactly once, saw it in user, collaborative"),
        (
            {**AT_THE_END, "collaborative": "{user}{item}{item}"},
            r"\{item\} exactly once, saw it in collaborative, collaborative",
        ),
        (
            {"user": "{user} {item}"},
            r"part 'user' holds \{item\}; allowed there: user, user_profile",
        ),
        ({"instruction": "Why {user}?"}, r"'instruction' holds \{user\}; allowed there: none"),
        (
            {**AT_THE_END, "collaborative": "{user}{item} {user_profile}"},
            r"part 'collaborative' holds \{user_profile\}; allowed there: user, item",
        ),
    ],
    CompareConfig: [
        ({**COMPARE, **changes}, words)
        for changes, words in (
            ({"entries": ["ours", "pepper"]}, "'pepper' is none of ours"),
            ({"entries": ["ours", "neerest"]}, "did you mean 'nearest'"),
            ({"entries": ["ours", "without_aspects"]}, "prompt.aspects is above 0"),
            ({"entries": ["ours"], "llm": None}, "llm is required"),
            ({"model": {"injection": "none"}}, "injection not none, saw graph and none"),
            ({"model": {"vectors": "random"}}, "vectors must be graph .* saw random and projected"),
            ({"seeds": [0, 0]}, "each once"),
            ({"seeds": [-1]}, "from 0 on"),
            ({"texts": {"ours": {"uri": "a.csv"}}}, "'ours' cannot be a name"),
            ({"texts": {"a/b": {"uri": "a.csv"}}}, "'a/b' cannot be a name"),
            ({"texts": {"chooser": {"uri": "a.csv"}}}, "'chooser' cannot be a name"),
            ({"texts": {"public": {"uri": "a.xlsx"}}}, "ends in one of .parquet"),
        )
    ],
}


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [(section, values, words) for section, each in REFUSED.items() for values, words in each],
)
def test_section_refuses_what_cannot_be(section, values, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(section, values)


def test_scaling_config_fewest_workers_are_all_unless_there_is_a_minimum():
    assert ScalingConfig(num_workers=4).fewest_workers == 4
    assert ScalingConfig(num_workers=4, min_workers=2).fewest_workers == 2


def test_parse_placeholders_gives_literals_and_names_in_order():
    assert parse_placeholders("User: {user}.") == [("User: ", "user"), (".", None)]
    assert placeholder_names("{item} {user} {item}") == ["item", "user", "item"]
    assert parse_placeholders("") == placeholder_names("{{user}}") == []
