"""Which files a compaction rewrites, and into what."""

import itertools

import pytest

from tests.xrec.table.conftest import Place
from tests.xrec.table.small_table import file_of, paths_of, users_of
from xrec.table.compaction import plan_pieces


def test_compaction_of_a_compact_table_does_nothing_and_commits_nothing(disk: Place) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    assert writer.compact(group_by="bucket") is None
    writer.commit([file_of(table, bucket, f"u{bucket}") for bucket in range(8)])
    assert writer.compact(group_by="bucket", target_bytes=3000) == 3
    assert writer.compact(group_by="bucket", target_bytes=3000) is None
    assert table.newest_version() == 3


def test_compaction_leaves_files_alone_whose_groups_nothing_new_has(disk: Place) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    writer.commit([file_of(table, bucket, f"u{bucket}") for bucket in range(8)])
    writer.compact(group_by="bucket", target_bytes=1)
    before = paths_of(table.snapshot())
    assert len(before) == 8
    writer.commit([file_of(table, 3, "u3-late"), file_of(table, 9, "u9")])
    writer.compact(group_by="bucket", target_bytes=1)
    after = paths_of(table.snapshot())
    assert len(before & after) == 7
    assert len(after) == 9
    assert users_of(table.snapshot()) == sorted([*(f"u{b}" for b in range(8)), "u3-late", "u9"])


def test_compaction_pieces_divide_the_groups_of_each_partition(disk: Place) -> None:
    table = disk.table()
    writer = table.take_over("driver")
    for turn in range(3):
        writer.commit(
            [
                file_of(table, bucket, f"{turn}-{bucket}", status=status)
                for bucket in range(10)
                for status in ("ok", "no")
            ]
        )
    for target_bytes in (1, 4000, 10**9):
        pieces = plan_pieces(writer.snapshot(), "bucket", target_bytes)
        for status in ("ok", "no"):
            mine = [piece for piece in pieces if piece.partition == {"status": status}]
            assert (mine[0].least, mine[-1].greatest) == (0, 9)
            assert all(b.least > a.greatest for a, b in itertools.pairwise(mine))
        assert {path for piece in pieces for path in piece.paths} == paths_of(writer.snapshot())
    assert len(pieces) == 2


def test_compaction_by_a_column_without_statistics_is_refused(disk: Place) -> None:
    with pytest.raises(ValueError, match="expected a non-null integer column with statistics"):
        disk.table().take_over("driver").compact(group_by="score")
