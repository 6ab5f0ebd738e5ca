"""What a comparison may be asked for, and what each entry's runs are."""

from typing import Any

import pytest

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig

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
