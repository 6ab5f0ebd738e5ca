"""A stage's actor in the test's own process, without Ray; small rows of the three kinds of text."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from ray import cloudpickle

from tests.world.here import PoolHere, map_here
from xrec.annotate.annotator import ItemInput, ItemText, PairInput, Review, ReviewedItem, UserInput


class PickledPool(PoolHere):
    """A pool whose processes get what they do as bytes, as those of Ray do."""

    def run(
        self, make: Any, numbers: Sequence[int], is_over: Any, num_threads: int = 1
    ) -> Iterator[tuple[int, Any]]:
        return super().run(cloudpickle.loads(cloudpickle.dumps(make)), numbers, is_over)


@pytest.fixture(scope="module")
def actor_here():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xrec.processes.RayPool", lambda **actors: PickledPool())
        patch.setattr("xrec.processes.map_in_processes", map_here)
        yield


def shown_review(
    text: str, *, number: int = 0, summary: str = "", rating: float | None = 5.0
) -> Review:
    """A review of user `u<number>` and item `i<number>`."""
    return Review(f"u{number}", f"i{number}", text, summary, rating)


def item_row(*texts: str, title: str = "", details: str = "") -> ItemInput:
    return ItemInput("i0", title, details, tuple(map(shown_review, texts)), len(texts))


def user_row(*texts: str, item: ItemText | None = None) -> UserInput:
    """A user with these training reviews, all of one item."""
    return UserInput(
        "u0", tuple(ReviewedItem(shown_review(text), item) for text in texts), len(texts)
    )


def pair_row(text: str, *, number: int = 0, item: ItemText | None = None) -> PairInput:
    return PairInput(f"u{number}", f"i{number}", shown_review(text, number=number), item, "train")
