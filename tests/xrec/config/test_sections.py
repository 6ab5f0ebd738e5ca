"""What each section takes and refuses, and what the entries of a comparison are."""

from typing import Any

import pytest

from tests.errors import raises
from xrec.config import (
    AdapterTrainingConfig,
    CompareConfig,
    Config,
    EngineConfig,
    MetricsConfig,
    PrepareConfig,
    PretrainGraphConfig,
    Processes,
    PromptConfig,
    ServeConfig,
    TablesSource,
    TrainAdapterConfig,
    parse_config,
)
from xrec.errors import ConfigError

INT8: dict[str, Any] = {"workspace": "w", "llm": {"model": "m", "quantization": "int8"}}
AT_THE_END = {
    "user": "User: {user_profile}",
    "item": "Item: {item_title}. {item_profile}",
    "collaborative": "{user}{item}",
}


def judges(*names: str) -> dict[str, Any]:
    return {"judges": {name: {"kind": "endpoint", "model": "gpt"} for name in names}}


def zero(**settings: Any) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": settings}}


COMPARE = {"workspace": "w", "llm": {"model": "m"}}
TOP = "(top level)"
TABLES = {"kind": "tables", "uri": "raw"}
REFUSED: dict[type[Config], list[dict[str, Any]]] = {
    PretrainGraphConfig: [
        {"workspace": "w", "training": {"num_epochs": 0}, **given}
        for given in ({"folds": 0}, {"folds": 2, "start_from": "g"})
    ],
    Processes: [{"num_processes": 2, "min_processes": 3}],
    EngineConfig: [{"kind": "builtin", "vllm": {"a": 1}}],
    ServeConfig: [
        {**COMPARE, "models": {"min_processes": 1}},
        {**COMPARE, "frontends": {"device": "cuda"}},
    ],
    TrainAdapterConfig: [
        {**INT8, **zero(stage=3)},
        {**INT8, **zero(offload_param={"device": "cpu"})},
        {**COMPARE, **zero(stage=1, offload_param={"device": "cpu"})},
        {**COMPARE, **zero(stage=1, zero_hpz_partition_size=2)},
        {**COMPARE, **zero(zero_hpz_partition_size=4), "workers": {"num_processes": 6}},
    ],
    PromptConfig: [
        {"user": "User: {user_profile}"},
        {"collaborative": "{user}"},
        {**AT_THE_END, "collaborative": "{user}{item}{item}"},
        {"user": "{user}{user}"},
    ],
    TablesSource: [
        {**TABLES, "files": {"users": "users.xlsx"}},
        {**TABLES, "columns": {"user": "customer"}},
        {**TABLES, "columns": {"users.title": "name"}},
        {**TABLES, "columns": {"user_id": None}},
        {**TABLES, "columns": {"user_id": ["a", "b"]}},
    ],
    PrepareConfig: [
        {"workspace": "w", "source": {"kind": "annotations"}, "aspects_from": "profiles"}
    ],
    CompareConfig: [
        {**COMPARE, **changes}
        for changes in (
            {"entries": ["ours", "neerest"]},
            {"entries": ["ours", "without_aspects"]},
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
ONE = "micro_batch_size"
OTHER_REFUSALS: list[tuple[type[Config], dict[str, Any], str, str, Any]] = [
    *((AdapterTrainingConfig, {ONE: size}, "literal_error", ONE, size) for size in (0, 2.5, None)),
    *(
        (MetricsConfig, judges("bob", name), "string_pattern_mismatch", f"judges.{name}", name)
        for name in ("Ann", "9", "a" * 40)
    ),
    (TablesSource, {**TABLES, "encoding": "martian"}, "value_error", "encoding", "martian"),
    (MetricsConfig, judges("ann"), "value_error", "judges", None),
    (MetricsConfig, judges("ann", "ann_failed"), "value_error", "judges", None),
    (PromptConfig, {"instruction": "Why {user}?"}, "value_error", "instruction", None),
    (
        PromptConfig,
        {**AT_THE_END, "collaborative": "{user}{item} {user_profile}"},
        *("value_error", "collaborative", None),
    ),
    (PromptConfig, {"aspect": "{aspect} or {aspect}"}, "value_error", "aspect", None),
    (TrainAdapterConfig, {**COMPARE, **zero(stage=2)}, "value_error", "deepspeed", None),
    (TrainAdapterConfig, {**COMPARE, "deepspeed": {"bf16": {}}}, "value_error", "deepspeed", None),
    (
        CompareConfig,
        {**COMPARE, "texts": {"public": {"uri": "a.xlsx"}}},
        *("value_error", "texts.public.uri", "a.xlsx"),
    ),
]


@pytest.mark.parametrize(
    ("section", "values", "code", "key", "saw"),
    [
        *(
            (section, one, "value_error", TOP, None)
            for section in REFUSED
            for one in REFUSED[section]
        ),
        *OTHER_REFUSALS,
    ],
)
def test_section_refuses_wrong_values_and_conflicting_keys(section, values, code, key, saw):
    with raises(ConfigError, code, key, *([] if saw is None else [saw])) as raised:
        parse_config(section, values)
    assert len(raised.value.problems) == 1
    assert "neerest" not in str(values) or "'nearest'" in str(raised.value)
