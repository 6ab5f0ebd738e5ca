"""The planted benchmark: who is unseen, what profiles state, its training, and its figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from benchmarks.graph_results import Results
from benchmarks.planted_data import UNSEEN_PAIRS, UNSEEN_USERS, Town, read_town
from benchmarks.planted_report import Report
from benchmarks.planted_training import train
from benchmarks.planted_variants import VARIANTS, configured
from jobs.prepare import run as prepare_dataset
from tests.toy import save_toy_model
from xrec.adapter.model import Adapters
from xrec.adapter.pairs import Pair
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.data import PrepareConfig
from xrec.errors import DataError
from xrec.graph import embeddings_bytes, write_graph
from xrec.storage import open_location
from xrec.train.data import load_adapter_data

NUM_USERS, NUM_ITEMS, D = 40, 30, 6
TOWN = {
    "kind": "sample",
    "num_users": NUM_USERS,
    "num_items": NUM_ITEMS,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}
TRAINING = {
    "num_epochs": 2,
    "global_batch_size": 16,
    "micro_batch_size": 4,
    "learning_rate": {"peak": 0.03},
    "seed": 5,
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town of 40 users, a graph of random vectors, a random language model."""
    folder = tmp_path_factory.mktemp("workspace")
    dataset = prepare_dataset(
        PrepareConfig.model_validate({"workspace": str(folder), "source": TOWN})
    )
    generator = torch.Generator().manual_seed(0)
    vectors = embeddings_bytes(
        torch.randn(NUM_USERS, D, generator=generator),
        torch.randn(NUM_ITEMS, D, generator=generator),
    )
    graph = open_location(str(folder / "graph"))
    write_graph(
        graph,
        vectors,
        [],
        config={"model": {"embedding_dim": D}},
        inputs={"dataset": dataset.fingerprint},
        metrics={},
    )
    save_toy_model(folder / "llm")
    return folder


@pytest.fixture(scope="module")
def config(workspace: Path) -> TrainAdapterConfig:
    values: dict[str, Any] = {
        "workspace": str(workspace),
        "llm": {"model": str(workspace / "llm"), "dtype": "float32"},
        "model": {"num_experts": 2, "gating_noise": False},
        "training": TRAINING,
        "scaling": {"num_workers": 1, "device": "cpu", "max_failures": 0},
    }
    return TrainAdapterConfig.model_validate(values)


@pytest.fixture(scope="module")
def town(config: TrainAdapterConfig) -> Town:
    return read_town(config)


def test_divide_leaves_every_pair_of_unseen_users_out_of_training(town: Town) -> None:
    division = town.divide(seed=1, unseen_share=0.25, max_scored=1000)
    unseen = {pair.user_index for pair in division.scored[UNSEEN_USERS]}
    seen = set(division.train["user_index"].to_pylist()) | set(
        division.validation["user_index"].to_pylist()
    )
    assert unseen
    assert not unseen & seen
    assert len(seen) == NUM_USERS - 10
    assert not {pair.user_index for pair in division.scored[UNSEEN_PAIRS]} & unseen
    edges = set(zip(*town.dataset.interaction_edges("train").tolist(), strict=True))
    trained = {(row["user_index"], row["item_index"]) for row in division.train.to_pylist()}
    for pairs in division.scored.values():
        scored = {(pair.user_index, pair.item_index) for pair in pairs}
        assert not scored & edges
        assert not scored & trained


def test_divide_follows_the_seed_and_keeps_to_the_limit(town: Town) -> None:
    first, again, other = (
        town.divide(seed=seed, unseen_share=0.25, max_scored=5) for seed in (1, 1, 2)
    )
    assert first.scored == again.scored
    assert first.scored != other.scored
    assert [len(pairs) for pairs in first.scored.values()] == [5, 5]


def test_stated_taste_names_the_favourites_and_the_right_aspect_is_the_first_that_the_item_has(
    town: Town, config: TrainAdapterConfig
) -> None:
    prompts = town.stated_prompts(config.prompt, 3)
    planted = town.dataset.planted.to_pylist()  # type: ignore[union-attr]
    told = 0
    for row in planted:
        favourites = town.favourites[row["user_index"]]
        there = [aspect for aspect in favourites if aspect in row["aspects"]]
        told += bool(there)
        assert not there or there[0] == row["aspect"]
        shown = prompts.builder.show(prompts.prompt(Pair(row["user_index"], row["item_index"])))
        assert all(aspect in shown for aspect in favourites)
        assert "<user" not in shown
    assert told > 0.8 * len(planted)


def test_stated_taste_of_another_user_keeps_the_rest_of_the_profile(
    town: Town, config: TrainAdapterConfig
) -> None:
    prompts = town.stated_prompts(config.prompt, 1)
    own, other = (prompts.builder.show(prompts.prompt(Pair(3, 7, vector))) for vector in (None, 4))
    assert own != other
    profile = town.dataset.users["profile"][3].as_py()
    assert profile in own
    assert profile in other


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_train_in_this_process_is_the_job_on_one_worker(
    town: Town, config: TrainAdapterConfig, tmp_path: Path
) -> None:
    from xrec.train.adapter import train_adapter

    data = load_adapter_data(config)
    trained = train(town, config, data.train, data.validation)
    train_adapter(config.model_copy(update={"adapter": str(tmp_path / "adapter")}))

    history = json.loads((tmp_path / "adapter" / "history.json").read_text())
    for name in ("train_loss", "validation_loss"):
        assert [row[name] for row in trained.history] == pytest.approx(
            [row[name] for row in history], rel=1e-4
        )
    embedding = trained.model.get_input_embeddings()
    state = Adapters(embedding.user_adapter, embedding.item_adapter, "projected").state_dict()
    for name, tensor in safetensors.torch.load_file(
        tmp_path / "adapter" / "adapter.safetensors"
    ).items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_configured_changes_vectors_injection_and_seed_only(
    config: TrainAdapterConfig, variant: str
) -> None:
    changed = configured(config, variant, 4)
    assert (changed.training.seed, changed.model.vectors_seed) == (4, 4)
    assert {
        "vectors": changed.model.vectors,
        "injection": changed.model.injection,
    }.items() >= VARIANTS[variant].items()
    rest = {"training": {"seed"}, "model": {"vectors", "vectors_seed", "injection"}}
    assert changed.model_dump(exclude=rest) == config.model_dump(exclude=rest)  # type: ignore[arg-type]


def test_read_town_of_a_dataset_without_planted_taste_is_refused(
    town: Town, config: TrainAdapterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.planted_data.read_dataset", lambda location: replace(town.dataset, planted=None)
    )
    with pytest.raises(
        DataError, match=r"nothing is planted in it; give a dataset made with source\.kind=sample"
    ):
        read_town(config)


def record(
    variant: str, seed: int, right: list[bool], settings: str = "", inputs: str = "same"
) -> dict[str, Any]:
    users = [f"user-{index // 2}" for index in range(len(right))]
    scores = {
        "user_id": users,
        "right": right,
        "right_shuffled": [False] * len(right),
        "nll": [1.0] * len(right),
        "chance": 0.25,
    }
    scores["nll_shuffled"] = [1.5] * len(right)
    history = [{"epoch": 1, "validation_loss": 0.3}, {"epoch": 2, "validation_loss": 0.2}]
    kinds = {UNSEEN_PAIRS: scores, UNSEEN_USERS: scores}
    common = {
        "kind": "planted",
        "inputs": inputs,
        "settings": settings,
        "variant": variant,
        "seed": seed,
    }
    return {
        **common,
        "history": history,
        "seconds": {"training": 1.0, "scoring": 2.0},
        "scores": kinds,
    }


def test_report_pools_the_seeds_and_pairs_each_variant_with_the_constant_of_its_settings() -> None:
    records = [
        record("projected", 0, [True] * 4, inputs="older"),
        record("constant", 0, [True, False, False, False]),
        record("projected", 0, [True, True, True, False]),
        record("projected", 1, [True, True, True, True]),
        record("projected", 0, [False] * 4, settings="training.num_epochs=1"),
    ]
    rows = {
        (row["settings"], row["variant"]): row
        for row in Report.of(records).rows()
        if row["pairs"] == UNSEEN_USERS
    }
    assert len(rows) == 3
    projected = rows["as in the config", "projected"]
    assert (projected["seeds"], projected["scored"], projected["by seed"]) == (2, 8, "0.750, 1.000")
    assert projected["aspect accuracy"].startswith("0.875 (")
    assert projected["minus constant"].startswith(
        "0.500 (0.500 to 0.500"
    )  # of seed 0 only: that of the baseline; both users gain a half
    assert projected["gain"] == "0.500 (0.500 to 0.500)"
    assert (projected["validation loss"], projected["seconds"]) == (0.2, 3)
    assert rows["as in the config", "constant"]["minus constant"] == ""
    assert rows["training.num_epochs=1", "projected"]["minus constant"] == ""


def test_planted_runs_what_is_missing_and_writes_table_and_plot(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    import benchmarks.planted as planted

    arguments = [
        "--workspace",
        str(workspace),
        "--seed",
        "0",
        "--output",
        str(tmp_path),
        "--max-scored",
        "6",
    ]
    chosen = [
        argument
        for name in ("constant", "soft-tokens", "text-profile")
        for argument in ("--variant", name)
    ]
    overrides = [
        "training.num_epochs=1",
        "training.global_batch_size=16",
        "training.micro_batch_size=8",
    ]
    done = CliRunner().invoke(
        planted.app, [*overrides, *arguments, *chosen], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "planted.json").read_text())
    assert {(row["variant"], row["pairs"]) for row in rows} == {
        (name, kind)
        for name in ("constant", "soft-tokens", "text-profile")
        for kind in (UNSEEN_PAIRS, UNSEEN_USERS)
    }
    assert (tmp_path / "planted.png").stat().st_size > 10_000
    assert len(Results(tmp_path).read("planted")) == 3

    monkeypatch.setattr(planted, "run_variant", None)  # a second run would call it
    again = CliRunner().invoke(
        planted.app, [*overrides, *arguments, *chosen], catch_exceptions=False
    )
    assert again.exit_code == 0
    assert (tmp_path / "planted.md").read_text() in again.output
