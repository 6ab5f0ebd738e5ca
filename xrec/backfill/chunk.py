"""A chunk is the unit of work that is generated, committed and retried.

A pair belongs to the chunk hash(user_id) mod C. So the pairs of a user are in one chunk: they
share the beginning of their prompts, and a reader knows where to look for them. A chunk that
became too large is cut into pieces: piece p of chunk h has the number p C + h, so that the
number mod C is still the hash.
"""

import hashlib
import re
from functools import lru_cache

_FILE = re.compile(r"part-(\d+)-[0-9a-f]+\.parquet$")


@lru_cache(2**17)  # 25 MB; the same users come again in each batch of pairs
def user_hash(user_id: str) -> int:
    """Return a hash of 64 bits, which is the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest(), "big")


def chunk_of(user_id: str, num_chunks: int) -> int:
    """Return hash(user_id) mod `num_chunks`."""
    return user_hash(user_id) % num_chunks


def chunk_name(chunk: int) -> str:
    """Return the number of a chunk as it stands in file names."""
    return f"{chunk:05d}"


def part_name(folder: str, chunk: int, content_hash: str) -> str:
    """Return the name of a file of a chunk in `folder`, which is "" or "failed/".

    The name contains a part of the content's hash, so attempts with different contents do not
    overwrite each other's files.
    """
    return f"{folder}part-{chunk_name(chunk)}-{content_hash[:8]}.parquet"


def chunk_of_file(name: str) -> int:
    """Return the chunk that a file named by `part_name` belongs to."""
    match = _FILE.search(name)
    assert match is not None, name
    return int(match[1])
