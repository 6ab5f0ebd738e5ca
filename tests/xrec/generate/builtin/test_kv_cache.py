"""Ranges of the KV cache; slots have one length while there is room, and a few otherwise."""

import pytest
import torch

from xrec.generate.builtin.kv_cache import Block, KVCache, KVShape, SlotLengths, size_class

SHAPE = KVShape(1, 1, 1, torch.float32, torch.device("cpu"))
NEEDS = range(65, 257)


def test_rows_of_similar_need_share_one_length_while_there_is_room() -> None:
    lengths = SlotLengths(num_slots=10, num_positions=10 * 256)
    for need in NEEDS:
        lengths.see(need)
    assert {lengths.choices(need)[0] for need in NEEDS} == {256}


def test_rows_share_a_length_with_needs_up_to_twice_as_large_where_room_is_scarce() -> None:
    lengths = SlotLengths(num_slots=10, num_positions=10 * 256 - 1)
    for need in NEEDS:
        lengths.see(need)
    first = {need: lengths.choices(need)[0] for need in NEEDS}
    assert set(first.values()) == {128, 256}
    assert all(need <= length < 2 * need for need, length in first.items())


@pytest.mark.parametrize("num_positions", [10**6, 0])
def test_what_is_tried_last_is_the_need_itself(num_positions: int) -> None:
    lengths = SlotLengths(10, num_positions)
    lengths.see(200)
    for need in (5, 64, 130, 199):
        choices = lengths.choices(need)
        assert choices == sorted(choices, reverse=True)
        assert choices[-1] == need
        assert size_class(need) in choices


def test_size_class_is_at_most_a_quarter_longer() -> None:
    for need in range(64, 3000):
        assert need <= size_class(need) <= 1.25 * need
        assert size_class(need) % 16 == 0


def test_cache_gives_ranges_out_and_joins_those_that_come_back() -> None:
    cache = KVCache(SHAPE, 100)
    first, second = (Block(*found) for found in reserved(cache, (10, 3), (10, 2)))
    assert (first.start, first.stop, second.start, second.stop) == (0, 30, 30, 50)
    assert not cache.grow(first)
    assert cache.grow(second)
    cache.shrink(first, 1)
    assert cache.num_free == 100 - 10 - 30
    assert cache.reserve(25, 1) == (60, 1)
    cache.shrink(first, 0)
    cache.shrink(second, 0)
    assert cache.reserve(60, 5) == (0, 1)
    assert cache.reserve(60, 1) is None
    assert cache.num_free == 100 - 25 - 60


def reserved(cache: KVCache, *wanted: tuple[int, int]) -> list[tuple[int, int, int]]:
    """The start, length and number of slots of each range."""
    ranges = []
    for length, count in wanted:
        found = cache.reserve(length, count)
        assert found is not None
        ranges.append((found[0], length, found[1]))
    return ranges


def test_cache_without_positions_is_empty() -> None:
    assert KVCache(SHAPE, 0).reserve(1, 1) is None
