"""What a comparison may be asked for, and what each contestant's runs are."""

from typing import Any

import pytest

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.compare import CompareConfig
from xrec.errors import ConfigError

PROMPT = {
    "instruction": "Why?",
    "user": "User: {user} {user_profile}",
    "item": "Item: {item} {item_title}. {item_profile}",
}


def make_config(**changes: Any) -> CompareConfig:
    values = {"workspace": "w", "llm": {"model": "m"}, "prompt": PROMPT, **changes}
    return parse_config(CompareConfig, values)


def test_ours_is_the_train_adapter_run_of_the_same_keys_with_the_entrys_seed() -> None:
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


def test_without_aspects_is_ours_without_aspects() -> None:
    config = make_config(prompt={**PROMPT, "aspects": 3}, contestants=["ours", "without_aspects"])
    ours, without = (config.training_of(name, 0, "a") for name in config.contestants)
    assert (ours.prompt.aspects, without.prompt.aspects) == (3, 0)
    assert without.prompt.item == ours.prompt.item
    assert without.model == ours.model


def test_budget_is_the_same_for_all_that_are_trained() -> None:
    config = make_config(budget={"max_pairs": 2000, "num_epochs": 1}, training={"num_epochs": 4})
    adapter, lora = config.training_of("constant", 1, "a").training, config.lora_of(1)
    assert (adapter.max_pairs, adapter.num_epochs, adapter.seed) == (2000, 1, 1)
    assert (lora.max_pairs, lora.num_epochs, lora.seed) == (2000, 1, 1)
    assert (
        make_config(training={"num_epochs": 4}).training_of("ours", 0, "a").training.max_pairs
        is None
    )


def test_texts_of_an_entry_are_a_backfill_that_no_failures_stop() -> None:
    config = make_config(rows_per_chunk=16)
    backfill = config.backfill_of(5, "pairs.parquet", "texts", "adapter")
    assert backfill.decoding.seed == 5
    assert (backfill.max_failed_share, backfill.rows_per_chunk) == (1.0, 16)
    assert (backfill.adapter, backfill.explanations) == ("adapter", "texts")


def test_contestants_that_chance_does_not_touch_have_no_seed() -> None:
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


def test_peers_are_runs_of_xrec_peer_with_the_budget_and_keys_of_theirs() -> None:
    config = make_config(
        contestants=["att2seq"],
        llm=None,
        budget={"max_pairs": 2000},
        peers={
            "att2seq": {
                "max_words": 30,
                "training": {"patience": 3},
                "att2seq": {"hidden_size": 64},
            }
        },
    )
    peer = config.peer_of("att2seq", 2, pairs="p.parquet", model="m", texts="t")
    assert (peer.kind, peer.seed, peer.pairs) == ("att2seq", 2, "p.parquet")
    assert (peer.artifact("peer"), peer.artifact("explanations")) == ("m", "t")
    assert (peer.training.max_pairs, peer.training.patience) == (2000, 3)
    assert (peer.max_words, peer.att2seq.hidden_size) == (30, 64)
    assert config.is_seeded("att2seq")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contestants": ["ours", "pepper"]}, "'pepper' is none of ours"),
        ({"contestants": ["ours", "neerest"]}, "did you mean 'nearest'"),
        ({"contestants": ["ours", "ours"]}, "each once"),
        ({"contestants": []}, "contestants"),
        ({"contestants": ["ours", "without_aspects"]}, "prompt.aspects is above 0"),
        ({"contestants": ["ours"], "llm": None}, "llm is required"),
        ({"model": {"injection": "none"}}, "injection not none"),
        ({"seeds": [0], "verdict": True}, "verdict needs 3 seeds, saw 1"),
        ({"seeds": [0, 0]}, "each once"),
        ({"seeds": [-1]}, "from 0 on"),
        ({"texts": {"ours": {"uri": "a.csv"}}}, "'ours' cannot be a name"),
        ({"texts": {"a/b": {"uri": "a.csv"}}}, "'a/b' cannot be a name"),
        ({"texts": {"public": {"uri": "a.xlsx"}}}, "ends in one of .parquet"),
        ({"blind_sheet": {"questions": {"judge": "?"}}}, "'judge' cannot be a question"),
        ({"blind_sheet": {"questions": {"Is it?": "?"}}}, "'Is it\\?' cannot be a question"),
        ({"max_pairs": 1}, "max_pairs"),
        ({"peers": {"nrt": {"pairs": "p"}}}, r"peers\.nrt: pairs cannot be given here"),
        ({"contestants": ["nrt"], "peers": {"nrt": {"hidden": 3}}}, "hidden"),
        ({"peers": {"neither": {}}}, "neither"),
        ({"contestants": ["pepler"], "llm": None}, "llm is required"),
    ],
)
def test_comparison_that_cannot_be_made_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)


def test_a_verdict_may_be_asked_for_where_nothing_is_trained() -> None:
    assert make_config(contestants=["profile", "nearest"], seeds=[0], verdict=True).verdict


def test_texts_from_elsewhere_are_a_contestant_by_their_name() -> None:
    config = make_config(
        contestants=["profile", "public"], texts={"public": {"uri": "a.jsonl"}}, llm=None
    )
    assert not config.has_language_model
    assert not config.is_seeded("public")
