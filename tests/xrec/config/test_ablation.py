"""What each variant changes in the training, and that it changes nothing else."""

from typing import Any

import pytest

from xrec.config.ablate import AblateConfig
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.errors import ConfigError

PROMPT = {
    "instruction": "Why?",
    "user": "User: {user} {user_profile}",
    "item": "Item: {item} {item_title}. {item_profile}",
}


def make_config(**changes: Any) -> AblateConfig:
    return parse_config(
        AblateConfig,
        {
            "workspace": "w",
            "llm": {"model": "m"},
            "prompt": PROMPT,
            "training": {"seed": 3},
            **changes,
        },
    )


def differences(variant: str) -> dict[str, Any]:
    """What the variant's training has in place of the full one's, by dotted key."""
    full, other = (
        make_config().training_of(name, 3, "w/adapter").model_dump() for name in ("ours", variant)
    )
    found = {section: other[section] for section in full if full[section] != other[section]}
    return {
        f"{section}.{key}": value
        for section, values in found.items()
        for key, value in values.items()
        if full[section][key] != value
    }


def test_ours_is_the_train_adapter_run_of_the_same_keys() -> None:
    values = {
        "workspace": "w",
        "llm": {"model": "m"},
        "prompt": PROMPT,
        "training": {"seed": 3},
        "model": {"vectors_seed": 3},
        "adapter": "elsewhere",
    }
    assert make_config().training_of("ours", 3, "elsewhere") == parse_config(
        TrainAdapterConfig, values
    )


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("ours", {}),
        (
            "without_profile",
            {"prompt.user": "User: {user}", "prompt.item": "Item: {item} {item_title}."},
        ),
        ("without_injection", {"model.injection": "none"}),
        (
            "without_both",
            {
                "model.injection": "none",
                "prompt.user": "User: {user}",
                "prompt.item": "Item: {item} {item_title}.",
            },
        ),
        ("random_vectors", {"model.vectors": "random"}),
        ("constant", {"model.vectors": "constant"}),
    ],
)
def test_variant_changes_what_its_name_says_and_nothing_else(
    variant: str, expected: dict[str, str]
) -> None:
    assert differences(variant) == expected


def test_ablation_is_of_all_variants_with_likelihoods_once() -> None:
    config = make_config()
    assert config.contestants == (
        "ours",
        "without_profile",
        "without_injection",
        "without_both",
        "random_vectors",
        "constant",
    )
    assert (config.likelihood, config.seeds, config.makes) == (True, (0,), "ablation")
    assert config.artifact(config.makes) == "w/ablation"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contestants": ["constant", "ours"]}, "the first is ours"),
        ({"contestants": ["ours", "nearest"]}, "others are its variants .* by xrec compare"),
        ({"contestants": ["ours"]}, "contestants"),
        ({"contestants": ["ours", "constant", "ours"]}, "each once"),
        ({"model": {"injection": "none"}}, "model.injection not none, saw graph and none"),
        (
            {"model": {"vectors": "random"}},
            "model.vectors must be graph .* saw random and projected",
        ),
        ({"contestants": ["ours", "no_graph"]}, "'no_graph' is none of"),
        ({"comparison": "elsewhere"}, "comparison: unknown key"),
    ],
)
def test_ablation_that_compares_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)


def test_variants_without_profiles_have_no_aspects_in_words_either() -> None:
    variants = [*make_config().contestants, "without_aspects"]
    config = make_config(prompt={**PROMPT, "aspects": 3}, contestants=variants)
    without = ("without_profile", "without_both", "without_aspects")
    for variant in config.contestants:
        asked = config.training_of(variant, 0, "w/adapter").prompt.aspects
        assert asked == (0 if variant in without else 3), variant
