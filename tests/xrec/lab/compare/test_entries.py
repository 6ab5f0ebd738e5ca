"""The entries of a comparison: what they train and write, and which depend on chance."""

from typing import Any

import pytest

from xrec.config import CompareConfig, TrainAdapterConfig, parse_config
from xrec.errors import ConfigError
from xrec.lab.compare.entries import backfill_of, training_of
from xrec.storage import open_location

COMPARE = {"workspace": "w", "llm": {"model": "m"}}
PROMPT = {
    "instruction": "Why?",
    "user": "User: {user} {user_profile}",
    "item": "Item: {item} {item_title}. {item_profile}",
}


def make_config(**changes: Any) -> CompareConfig:
    values = {"workspace": "w", "llm": {"model": "m"}, "prompt": PROMPT, **changes}
    return parse_config(CompareConfig, values)


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
def test_variant_changes_only_what_its_name_says(variant, expected):
    """It is compared with the train-adapter run of the same keys and the entry's seed."""
    values = {**COMPARE, "prompt": {**PROMPT, "aspects": 3}, "training": {"num_epochs": 3}}
    own = {"training": {"num_epochs": 3, "seed": 2}}
    own["artifacts"] = {"adapter": "a"}
    full = parse_config(TrainAdapterConfig, {**values, **own}).model_dump()
    other = training_of(make_config(**values), variant, 2, open_location("a")).model_dump()
    found = {
        f"{section}.{key}": value
        for section in full
        if full[section] != other[section]
        for key, value in other[section].items()
        if full[section][key] != value
    }
    assert found == expected


def test_texts_of_an_endpoint_are_those_of_its_model():
    endpoint = {"kind": "endpoint", "model": "m"}
    config = make_config(entries=["endpoint", "profile"], endpoint=endpoint)
    folders = (open_location(f"/{name}") for name in ("texts", "adapter"))
    backfill = backfill_of(config, 5, "pairs.parquet", *folders, config.endpoint)
    assert (backfill.writer, backfill.engine.model, backfill.llm) == ("endpoint", "m", None)
    with pytest.raises(ConfigError):
        make_config(entries=["endpoint"])
