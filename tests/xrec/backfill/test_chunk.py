"""The hash that assigns users to chunks, and the names of a chunk's files."""

import pytest
from xrec.backfill.chunk import chunk_of, chunk_of_file, part_name


@pytest.mark.parametrize(
    ("user_id", "num_chunks", "chunk"),
    [("u0", 16, 2), ("u17", 16, 0), ("Zoë", 1000, 922), ("anyone", 1, 0)],
)
def test_chunk_of_known_values_stay_for_ever(user_id: str, num_chunks: int, chunk: int) -> None:
    assert chunk_of(user_id, num_chunks) == chunk


def test_chunk_of_spreads_users_evenly() -> None:
    counts = [0] * 8
    for user in range(8000):
        counts[chunk_of(f"user-{user}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


@pytest.mark.parametrize("folder", ["", "failed/"])
def test_part_name_tells_its_chunk(folder: str) -> None:
    name = part_name(folder, 1234567, "0123456789abcdef")
    assert name == f"{folder}part-1234567-01234567.parquet"
    assert chunk_of_file(name) == 1234567
