"""Slots have one length while there is room, and a few otherwise.

That no two slots overlap and all memory comes back is tested with the scheduler.
"""

import pytest

from xrec.generate.builtin.kv_cache import SlotLengths, size_class

NEEDS = range(65, 257)


def test_rows_of_similar_need_share_one_length_while_there_is_room():
    lengths = SlotLengths(num_slots=10, num_positions=10 * 256)
    for need in NEEDS:
        lengths.see(need)
    assert {lengths.choices(need)[0] for need in NEEDS} == {256}


def test_rows_share_a_length_with_needs_up_to_twice_as_large_where_room_is_scarce():
    lengths = SlotLengths(num_slots=10, num_positions=10 * 256 - 1)
    for need in NEEDS:
        lengths.see(need)
    first = {need: lengths.choices(need)[0] for need in NEEDS}
    assert set(first.values()) == {128, 256}
    assert all(need <= length < 2 * need for need, length in first.items())


@pytest.mark.parametrize("num_positions", [10**6, 0])
def test_what_is_tried_last_is_the_need_itself(num_positions):
    lengths = SlotLengths(10, num_positions)
    lengths.see(200)
    for need in (5, 64, 130, 199):
        choices = lengths.choices(need)
        assert choices == sorted(choices, reverse=True)
        assert choices[-1] == need
        assert size_class(need) in choices


def test_size_class_is_at_most_a_quarter_longer():
    for need in range(64, 3000):
        assert need <= size_class(need) <= 1.25 * need
        assert size_class(need) % 16 == 0
