"""What adapter training reads: batches for any number of workers, examples, and the leak meter."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.errors import raises
from tests.world.here import map_here
from tests.world.town import dataset_in, rewrite_dataset
from tests.xrec.train.adapter_town import adapter_data, load_here, make_config
from xrec import schemas
from xrec.config import TrainAdapterConfig
from xrec.data import Dataset
from xrec.errors import DataError
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.leave_out import TrainingVectors
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import load_tokenizer
from xrec.storage import Manifest
from xrec.train.data import MicroBatch, epoch_steps, noise_seed, validation_batches
from xrec.train.example_shards import write_examples
from xrec.train.leak import Fit, measure_leak

NUM_LABEL_TOKENS = np.arange(21) * 7 % 5 + 1
LENGTHS = NUM_LABEL_TOKENS + 1  # with a prompt of one token


SETTINGS = {"epoch": 1, "seed": 0, "global_batch_size": 8}


def epoch_of(rank: int = 0, world_size: int = 1, **changes: int) -> list[list[MicroBatch]]:
    sizes = {"micro_batch_size": 2, "rank": rank, "world_size": world_size}
    return list(epoch_steps(LENGTHS, NUM_LABEL_TOKENS, **sizes, **(SETTINGS | changes)))


def steps(rank: int = 0, world_size: int = 1, **changes: int) -> list[list[list[int]]]:
    """Return the rows by step and micro-batch."""
    found = epoch_of(rank, world_size, **changes)
    return [[micro.rows.tolist() for micro in step] for step in found]


@pytest.mark.parametrize(("world_size", "num_passes"), [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_epoch_steps_of_all_workers_together_are_those_of_one(world_size, num_passes):
    """If they do not divide evenly, some workers get empty ones at the end."""
    workers = [epoch_of(rank, world_size) for rank in range(world_size)]
    assert [len(worker) for worker in workers] == [2] * world_size
    for number, step in enumerate(steps()):
        shares = [worker[number] for worker in workers]
        assert {len(share) for share in shares} == {num_passes}
        micros = [micro for share in shares for micro in share]
        assert sorted(rows for micro in micros if (rows := micro.rows.tolist())) == sorted(step)
        num_labels = sum(NUM_LABEL_TOKENS[index] for rows in step for index in rows)
        assert {micro.global_weight for micro in micros} == {num_labels}
        assert sum(micro.weight for micro in micros) == num_labels


def test_epoch_steps_show_no_example_twice_and_drop_less_than_a_batch():
    seen = [index for step in steps() for micro in step for index in micro]
    assert len(seen) == len(set(seen)) == 16
    assert sum(len(step) for step in steps(global_batch_size=20)) == 10
    assert steps(global_batch_size=22) == []
    assert steps() == steps()
    assert steps() != steps(epoch=2)
    assert steps() != steps(seed=1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 16])
def test_validation_batches_hold_every_example_once_in_equal_shares(world_size):
    shares = [
        validation_batches(LENGTHS, batch_size=4, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sorted(row for batch in batches for row in batch) == list(range(21))
    assert all(len(batch) <= 4 for batch in batches)


def test_noise_seed_differs_for_each_seed_step_and_micro_batch():
    keys = [(seed, step, micro) for seed in range(3) for step in range(20) for micro in range(20)]
    seeds = [noise_seed(*key) for key in keys]
    assert len(set(seeds)) == len(seeds)
    torch.manual_seed(max(seeds))  # in torch's range


# Examples


RUN, INPUTS = {"seed": 1}, {"dataset": "d"}


@pytest.fixture
def config(workspace, tmp_path):
    return make_config(workspace, adapter=tmp_path)


def files_of(config: TrainAdapterConfig) -> dict[str, bytes]:
    folder = Path(config.artifact("adapter"), "checkpoints", "examples")
    return {file.name: file.read_bytes() for file in folder.glob("*.arrow")}


@pytest.mark.parametrize(("run", "inputs"), [(RUN, {"dataset": "e"}), ({"seed": 2}, INPUTS)])
def test_finished_examples_are_used_and_those_of_another_run_replaced(config, run, inputs):
    manifest, whole = write_examples(config, RUN, INPUTS), files_of(config)
    not_read = config.with_artifacts({"dataset": "/nowhere"})
    assert write_examples(not_read, RUN, INPUTS) == manifest
    training = config.training.model_copy(update={"max_pairs": 20})
    fewer = config.model_copy(update={"training": training})
    assert write_examples(fewer, run, inputs).row_counts["train"] == 20
    assert files_of(config) != whole
    Path(config.artifact("adapter"), "checkpoints/examples/manifest.json").unlink()
    write_examples(config, run, inputs)
    assert files_of(config) == whole


@pytest.mark.parametrize("on_ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_examples_in_many_shards_equal_those_in_one(config, request, monkeypatch, on_ray):
    whole = adapter_data(config)
    if on_ray:
        request.getfixturevalue("ray_cluster")
    else:
        monkeypatch.setattr("xrec.train.example_shards.map_in_processes", map_here)
    in_shards = config.with_artifacts({"adapter": f"{config.artifact('adapter')}/other"})
    write_examples(in_shards, {}, {}, pairs_per_shard=40)
    data = load_here(in_shards)
    assert len(files_of(in_shards)) > 3
    for split in ("train", "validation"):
        assert list(getattr(data, split)) == list(getattr(whole, split))
    assert (data.shared_ids, data.left_out) == (whole.shared_ids, whole.left_out)


def test_examples_are_of_the_pairs_and_their_parts_are_counted(config):
    data = adapter_data(config)
    dataset, tokenizer = dataset_in(config.workspace), load_tokenizer(Path(config.llm.model))
    num_text_tokens, titles = len(tokenizer), dataset.items["title"].to_pylist()
    vocabulary = Vocabulary(num_text_tokens, dataset.num_users, dataset.num_items, num_tokens=2)
    for split, examples in (("train", data.train), ("validation", data.validation)):
        pairs = dataset.explained_pairs(split).to_pylist()
        assert len(examples) == len(pairs)
        for row, pair in enumerate(pairs):
            example = examples[row]
            text = tokenizer.decode(example.label_ids, skip_special_tokens=True)
            assert text.strip() == pair["explanation"].replace(
                titles[pair["item_index"]], "[title]"
            )
            tokens = [token for token in example.prompt_ids if token >= num_text_tokens]
            of_user = vocabulary.user_tokens(pair["user_index"])
            assert tokens == of_user + vocabulary.item_tokens(pair["item_index"])
            num_before = example.prompt_ids.index(of_user[0])
            assert examples.num_prefix_tokens[row] == num_before
            assert example.prompt_ids[: len(data.shared_ids)] == data.shared_ids
            assert examples.num_label_tokens[row] == len(example.label_ids)
            assert examples.lengths(can_split=False)[row] == len(example)
            assert examples.lengths(can_split=True)[row] == len(example) - num_before
    assert len(data.shared_ids) > 3
    both = (data.train, data.validation)
    assert data.longest()[0] == max(each.num_prefix_tokens.max() for each in both)


@pytest.mark.parametrize("change", [{"global_batch_size": 4096}, {"max_explanation_tokens": 1}])
def test_too_few_examples_are_refused(workspace, tmp_path, change: dict[str, Any]):
    config = make_config(workspace, adapter=tmp_path, **change)
    for _ in range(2):  # nothing was finished
        with raises(DataError, "too_few_pairs", "training.global_batch_size"):
            write_examples(config, RUN, INPUTS)


@pytest.mark.parametrize("leave_out", ["own", "nothing"])
def test_examples_of_training_are_without_the_pairs_own_review(workspace, tmp_path, leave_out):
    source = dataset_in(workspace)
    pairs = source.explained_pairs("train").select(["user_index", "item_index"])
    for side in ("user", "item"):
        pairs = pairs.append_column(
            f"{side}_profile", pa.array([f"This {side} is {n}." for n in range(pairs.num_rows)])
        )
    rewrite_dataset(tmp_path, source, {"training_profiles": pairs})
    config = make_config(workspace, adapter=tmp_path / "adapter", leave_out=leave_out)
    config = config.with_artifacts({"dataset": f"{tmp_path}/dataset"})
    data = adapter_data(config)
    decode = load_tokenizer(Path(config.llm.model)).decode
    shown = [decode(data.train[row].prompt_ids) for row in range(len(data.train))]
    assert len(shown) == pairs.num_rows
    for number, prompt in enumerate(shown):
        for side in ("user", "item"):
            assert (f"This {side} is {number}." in prompt) is (leave_out == "own")
    assert "is 0." not in decode(data.validation[0].prompt_ids)


# Leaks


NUM_USERS, NUM_ITEMS, D = 80, 40, 32
PAIRS = sorted((user, (user + step) % NUM_ITEMS) for user in range(NUM_USERS) for step in range(4))
TRAIN = [pair for place, pair in enumerate(PAIRS) if place % 4 != 3]


def word(user: int, item: int) -> str:
    """Return a word that occurs in this pair's review only."""
    return f"word{user:03d}x{item:03d}"


@pytest.fixture
def leaking():
    """A dataset whose profiles have the words of all training reviews."""
    explanations = [
        {
            "user_index": user,
            "item_index": item,
            "explanation": f"A {word(user, item)}",
            "split": "train" if (user, item) in TRAIN else "test",
        }
        for user, item in PAIRS
    ]
    users = [" ".join(word(*pair) for pair in TRAIN if pair[0] == u) for u in range(NUM_USERS)]
    items = [" ".join(word(*pair) for pair in TRAIN if pair[1] == i) for i in range(NUM_ITEMS)]
    return Dataset(
        Manifest.model_construct(metrics={}),
        users=pa.table({"profile": users}),
        items=pa.table({"profile": items}),
        interactions=pa.table({}),
        explanations=pa.Table.from_pylist(explanations, schemas.EXPLANATIONS),
    )


def without_own(dataset: Dataset) -> Dataset:
    """Add profiles for training, which lack the pair's word."""
    users, items = (rows["profile"].to_pylist() for rows in (dataset.users, dataset.items))
    rows = [
        {
            "user_index": user,
            "item_index": item,
            "user_profile": users[user].replace(word(user, item), ""),
            "item_profile": items[item].replace(word(user, item), ""),
        }
        for user, item in TRAIN
    ]
    profiles = pa.Table.from_pylist(rows, schemas.TRAINING_PROFILES)
    return replace(dataset, training_profiles=profiles)


@pytest.fixture
def graph():
    """Vectors that know the training pairs: a user's is the sum of the items'."""
    items = torch.randn(NUM_ITEMS, D, generator=torch.Generator().manual_seed(0))
    users = torch.zeros(NUM_USERS, D)
    for user, item in TRAIN:
        users[user] += items[item]
    return GraphEmbeddings(users, items, Manifest.model_construct())


def leaks(found: dict[str, Fit]) -> list[str]:
    return [name for name, fit in found.items() if fit.is_leak]


def test_measure_leak_finds_each_input_that_holds_its_target(leaking, graph):
    found = measure_leak(leaking, graph, None, leave_out_own=False)
    assert leaks(found) == ["user profile", "item profile", "vectors"]
    assert found["user profile"].train == found["item profile"].train == 1
    assert found["user profile"].held_out == found["user profile"].train_other == 0
    assert "learns to copy" in found["vectors"].warning("vectors")


def test_measure_leak_finds_nothing_where_the_own_review_is_left_out(leaking, graph):
    drawn = torch.randn(2, len(TRAIN), D, generator=torch.Generator().manual_seed(1))
    vectors = TrainingVectors(*drawn)
    dataset = without_own(leaking)
    found = measure_leak(dataset, graph, vectors, leave_out_own=True)
    assert leaks(found) == []
    assert found["user profile"].train == 0
    # Training that leaves nothing out does not use these profiles.
    assert "user profile" in leaks(measure_leak(dataset, graph, vectors, leave_out_own=False))
    nothing_held_out = replace(leaking, explanations=leaking.explained_pairs("train"))
    assert measure_leak(nothing_held_out, graph, None, leave_out_own=False) == {}
