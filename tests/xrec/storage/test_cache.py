"""The cache never holds more bytes than it may, and lets go of what was used longest ago."""

import random

from xrec.storage.cache import ByteCache


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: ByteCache[str, int] = ByteCache(100)
    for name in ("a", "b", "c"):
        cache.put(name, ord(name), 30)
    assert cache.get("a") == ord("a")
    cache.put("d", ord("d"), 30)
    assert [cache.get(name) for name in ("a", "b", "c", "d")] == [
        ord("a"),
        None,
        ord("c"),
        ord("d"),
    ]


def test_value_that_is_replaced_counts_once_and_one_too_large_is_not_kept() -> None:
    cache: ByteCache[str, int] = ByteCache(100)
    cache.put("a", 1, 60)
    cache.put("a", 2, 70)
    assert (cache.get("a"), cache.num_bytes) == (2, 70)
    cache.put("b", 3, 101)
    assert (cache.get("b"), len(cache)) == (None, 1)
    cache.put("a", 4, 101)
    assert (cache.get("a"), cache.num_bytes) == (None, 0)


def test_bytes_stay_within_the_bound_whatever_comes() -> None:
    cache, sizes, rng = ByteCache[int, int](500), dict[int, int](), random.Random(0)
    for _ in range(2000):
        key, size = rng.randrange(40), rng.randrange(1, 120)
        cache.put(key, size, size)
        sizes[key] = size
        assert cache.num_bytes <= 500
        assert cache.num_bytes == sum(
            value for key in sizes if (value := cache.get(key)) is not None
        )
