"""Batches of adapter training are the same for any number of workers, and noise has its seeds."""

import numpy as np
import pytest
import torch

from xrec.train.data import epoch_steps, noise_seed, validation_batches

NUM_LABEL_TOKENS = np.arange(21) * 7 % 5 + 1
LENGTHS = NUM_LABEL_TOKENS + 1  # with a prompt of one token


def steps(
    rank: int = 0, world_size: int = 1, *, epoch: int = 1, seed: int = 0, global_batch_size: int = 8
) -> list[list[list[int]]]:
    """Return the rows by step and micro-batch."""
    settings = {"epoch": epoch, "seed": seed, "global_batch_size": global_batch_size}
    sizes = {"micro_batch_size": 2, "rank": rank, "world_size": world_size}
    found = epoch_steps(LENGTHS, NUM_LABEL_TOKENS, **sizes, **settings)
    return [[micro.rows.tolist() for micro in step] for step in found]


@pytest.mark.parametrize(("world_size", "num_passes"), [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_epoch_steps_of_all_workers_together_are_those_of_one(world_size, num_passes):
    """Where they do not divide, some workers get empty ones at the end."""
    workers = [steps(rank, world_size) for rank in range(world_size)]
    for number, step in enumerate(steps()):
        shares = [worker[number] for worker in workers]
        assert {len(share) for share in shares} == {num_passes}
        assert sorted(micro for share in shares for micro in share if micro) == sorted(step)
    assert [len(worker) for worker in workers] == [2] * world_size


def test_epoch_steps_show_no_example_twice_and_leave_out_less_than_a_batch():
    seen = [index for step in steps() for micro in step for index in micro]
    assert len(seen) == len(set(seen)) == 16
    assert sum(len(step) for step in steps(global_batch_size=20)) == 10
    assert steps(global_batch_size=22) == []
    assert steps() == steps()
    assert steps() != steps(epoch=2)
    assert steps() != steps(seed=1)


@pytest.mark.parametrize("rank", [0, 1])
def test_epoch_steps_count_the_labels_of_the_whole_global_batch(rank):
    expected = [
        {sum(NUM_LABEL_TOKENS[index] for micro in step for index in micro)} for step in steps()
    ]
    sizes = {"micro_batch_size": 2, "rank": rank, "world_size": 2}
    found = list(epoch_steps(LENGTHS, NUM_LABEL_TOKENS, **sizes, **SETTINGS))
    assert [{micro.num_global_tokens for micro in step} for step in found] == expected


SETTINGS = {"epoch": 1, "seed": 0, "global_batch_size": 8}


def test_epoch_steps_rows_of_a_step_are_of_similar_length():
    lengths, sizes = np.arange(512) % 64 + 2, {"micro_batch_size": 4, "rank": 0, "world_size": 1}
    found = [
        [lengths[row] for micro in step for row in micro.rows]
        for step in epoch_steps(lengths, lengths - 1, **sizes, **SETTINGS)
    ]
    positions = sum(max(lengths) * 8 for lengths in found)
    assert sum(map(sum, found)) / positions > 0.92
    means = np.array([np.mean(lengths) for lengths in found])
    # Short and long steps alternate by chance.
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.3


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_epoch_steps_example_stays_with_one_worker_in_all_epochs(world_size):
    def seen_by(rank: int) -> set[int]:
        epochs = (steps(rank, world_size, epoch=epoch) for epoch in range(1, 6))
        return {index for epoch in epochs for step in epoch for micro in step for index in micro}

    seen = [seen_by(rank) for rank in range(world_size)]
    assert set().union(*seen) == set(range(21))  # and over the epochs none is left out
    assert sum(map(len, seen)) == 21


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
