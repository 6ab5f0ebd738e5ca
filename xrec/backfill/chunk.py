"""A chunk: the unit that is generated, committed and retried. A pair belongs to chunk hash(user_id) mod C.

A user's pairs share a chunk, so that they share a prompt's prefix and one file holds the explanation of (u, i). A chunk that
a few users make too large is cut into pieces: piece p of chunk h is number p C + h, so that number mod C is still the hash.
"""

import hashlib
import re
from functools import lru_cache

_FILE = re.compile(r"part-(\d+)-[0-9a-f]+\.parquet$")


@lru_cache(2**17)  # 25 MB: a user comes again in each batch of pairs
def user_hash(user_id: str) -> int:
    """A hash of 64 bits; the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest(), "big")


def chunk_of(user_id: str, num_chunks: int) -> int:
    """hash(user_id) mod C."""
    return user_hash(user_id) % num_chunks


def chunk_name(chunk: int) -> str:
    """The number of a chunk as it stands in file names."""
    return f"{chunk:05d}"


def part_name(folder: str, chunk: int, content_hash: str) -> str:
    """A file of a chunk, in `folder` ("" or "failed/"): its name tells the content, so attempts never overwrite each other."""
    return f"{folder}part-{chunk_name(chunk)}-{content_hash[:8]}.parquet"


def chunk_of_file(name: str) -> int:
    """The chunk that a file of `part_name` belongs to."""
    match = _FILE.search(name)
    assert match is not None, name
    return int(match[1])
