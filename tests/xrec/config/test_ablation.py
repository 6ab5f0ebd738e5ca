"""What each variant changes in the training, and that it changes nothing else."""

from typing import Any

import pytest

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.evaluate import VARIANTS, AblateConfig, Variant
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


def differences(variant: Variant) -> dict[str, Any]:
    """What the variant's training has in place of the full one's, by dotted key."""
    full, other = (
        make_config().training_of(name, "w/adapter").model_dump() for name in ("full", variant)
    )
    found = {section: other[section] for section in full if full[section] != other[section]}
    return {
        f"{section}.{key}": value
        for section, values in found.items()
        for key, value in values.items()
        if full[section][key] != value
    }


def test_full_is_the_train_adapter_run_of_the_same_keys() -> None:
    values = {
        "workspace": "w",
        "llm": {"model": "m"},
        "prompt": PROMPT,
        "training": {"seed": 3},
        "adapter": "elsewhere",
    }
    assert make_config().training_of("full", "elsewhere") == parse_config(
        TrainAdapterConfig, values
    )


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("full", {}),
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
    variant: Variant, expected: dict[str, str]
) -> None:
    assert differences(variant) == expected


def test_all_variants_are_the_default() -> None:
    assert make_config().variants == VARIANTS
    assert len(VARIANTS) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ["constant"]}, "variants must hold full"),
        ({"variants": ["full", "constant", "full"]}, "each once"),
        ({"model": {"injection": "none"}}, "model.injection not none, saw graph and none"),
        (
            {"model": {"vectors": "random"}},
            "model.vectors must be graph .* saw random and projected",
        ),
        ({"variants": ["full", "no_graph"]}, "variants"),
    ],
)
def test_ablation_that_compares_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)


def test_variants_without_profiles_have_no_aspects_in_words_either() -> None:
    config = make_config(prompt={"aspects": 3})
    for variant in config.variants:
        asked = config.training_of(variant, "w/adapter").prompt
        has_profile = "item_profile" in asked.item
        assert asked.aspects == (3 if has_profile else 0), variant
    assert {config.training_of(each, "w").prompt.aspects for each in config.variants} == {0, 3}
