"""Slots have one length while there is room, and a few otherwise.

That no two slots overlap and all memory comes back is tested with the core.
"""

import torch

from xrec.generate.builtin.kv_cache import KVCache, KVShape, SlotLengths

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


def test_bytes_of_a_position_are_those_of_the_tensor():
    shape = KVShape(3, 2, 8, torch.float16, torch.device("cpu"))
    assert KVCache(shape, 5).tensor.nbytes == 5 * shape.bytes_per_position
