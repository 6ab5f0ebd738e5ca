"""The cache never holds more bytes than it may, and lets go of what was used longest ago."""

import random

from xrec.storage.cache import ByteCache


def test_what_was_used_longest_ago_goes_first():
    cache: ByteCache[str, int] = ByteCache(100)
    for name in "abc":
        cache.put(name, ord(name), 30)
    assert cache.get("a") == ord("a")
    cache.put("d", ord("d"), 30)
    assert [cache.get(name) for name in "abcd"] == [ord("a"), None, ord("c"), ord("d")]


def test_bytes_stay_within_the_bound_and_only_the_latest_value_of_a_key_is_kept():
    cache, sizes, rng = ByteCache[int, int](500), dict[int, int](), random.Random(0)
    for _ in range(2000):
        key, size = rng.randrange(40), rng.choice([rng.randrange(1, 120), 501])
        cache.put(key, size, size)
        assert cache.get(key) == (None if size > 500 else size)
        sizes[key] = size
        kept = {key: value for key in sizes if (value := cache.get(key)) is not None}
        assert cache.num_bytes == sum(kept.values()) <= 500
        assert kept.items() <= sizes.items()
