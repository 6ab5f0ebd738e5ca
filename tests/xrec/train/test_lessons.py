"""Lessons: which users and texts are drawn, the same for any number of workers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.xrec.train.adapter_town import make_config
from xrec.config.adapter import AdapterTrainingConfig
from xrec.data.dataset import edges_of, read_dataset
from xrec.errors import DataError
from xrec.llm.examples import Example
from xrec.storage import open_location
from xrec.train.data import Lessons, load_adapter_data

ROWS = [{"user_index": user, "item_index": user % 7, "explanation": "x"} for user in range(20)]
SEEN = frozenset((user, item) for user in range(20) for item in range(7) if (user + item) % 2)


class Prompts:
    """Writes which user and row a lesson is of; texts of users above 15 are too long."""

    def lesson(self, user: int, row: Mapping[str, Any]) -> tuple[Example, Example] | None:
        length = 9 if row["user_index"] > 15 else 1 + row["user_index"] % 3
        labels = [0] * length
        return Example([user], labels), Example([user, row["item_index"]], labels)


def lessons(**changes: Any) -> Lessons:
    training = AdapterTrainingConfig.model_validate(
        {"global_batch_size": 12, "max_explanation_tokens": 8, "distill": {"num_steps": 3}}
    )
    given = {"rows": ROWS, "users": np.arange(10), "seen": SEEN, "training": training}
    return Lessons(prompts=Prompts(), **{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_lessons_of_all_workers_together_are_those_of_one(world_size: int) -> None:
    alone = lessons().step(4, micro_batch_size=3, rank=0, world_size=1)
    workers = [
        lessons().step(4, micro_batch_size=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    found = [workers[number % world_size][number // world_size] for number in range(len(alone))]
    assert found == alone
    assert {len(worker) for worker in workers} == {-(-4 // world_size)}
    assert {each.num_global_pairs for each in alone} == {12}
    num_tokens = sum(len(row.label_ids) for each in alone for row in each.examples)
    assert {each.num_global_tokens for each in alone} == {num_tokens}


def test_lessons_are_of_items_that_are_new_to_the_user_and_differ_by_step() -> None:
    steps = [lessons().step(step, micro_batch_size=12, rank=0, world_size=1) for step in range(9)]
    drawn = [tuple(row.prompt_ids) for (batch,) in steps for row in batch.examples]
    assert not set(drawn) & SEEN
    assert len(set(drawn)) > 30
    assert {user for user, _ in drawn} == set(range(10))


def test_lessons_of_nobody_are_refused() -> None:
    everything = frozenset((user, item) for user in range(20) for item in range(7))
    with pytest.raises(DataError, match=r"training\.distill: none of 1000 .*to null"):
        lessons(seen=everything).step(0, micro_batch_size=3, rank=0, world_size=1)


def test_lessons_of_a_dataset_are_of_training_explanations(workspace: str) -> None:
    data = load_adapter_data(make_config(workspace, distill={"num_steps": 1}))
    assert data.lessons is not None
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    assert data.lessons.rows == dataset.explained_pairs("train").to_pylist()
    assert len(data.lessons.seen) == edges_of(dataset.interactions).shape[1]
    batches = data.lessons.step(0, micro_batch_size=4, rank=0, world_size=1)
    for batch in batches:
        assert batch.teachers is not None
        for teacher, student in zip(batch.teachers, batch.examples, strict=True):
            assert teacher.label_ids == student.label_ids


def test_lessons_of_a_dataset_without_profiles_are_none(workspace: str) -> None:
    config = make_config(workspace, distill={"num_steps": 1})
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    nobody = dataset.users.set_column(2, "profile", pa.array([""] * dataset.num_users))
    assert Lessons.of(config, replace(dataset, users=nobody), Prompts()) is None  # type: ignore[arg-type]
