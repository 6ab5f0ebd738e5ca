"""One Delta table that one driver at a time may extend; any number of readers read it meanwhile.

Workers write files (`write_file`, `copy_file`) and hand what they return to the driver. The driver
adds them to the table, with removals if need be, in one step (`Writer.commit`). Whoever reads takes
a version (`Table.snapshot`), or another program that reads Delta tables. Version N of the table is
what entry N of its log makes of version N - 1.

The invariants. Invariant N has the tests `test_invariant_N_...` in tests/xrec/table:

1. A version is committed once. Entry N is created by a write that succeeds only if there is no
   entry N. Of several writers at the same version one wins, and the others change nothing.
2. Once `take_over` has returned, no earlier driver commits anything. A writer commits version N + 1
   only if version N is its own, and a take-over is a commit. This holds for a driver that is
   stopped at any moment and goes on at any later one: also if the log was cut meanwhile, because
   entries are deleted oldest first and a writer sees after its write that entry N is still there.
3. Each take-over has one winner, and a number of its own, the epoch. Of drivers that take the same
   version over at the same time, the others get LostTableError.
4. A commit is in the table once or not at all, with all of its files. It has an id of its own, so a
   writer whose answer was lost finds out. If it cannot, because the store fails for longer or the
   table was taken over meanwhile, it is closed, and who takes the table over next sees the fate of
   the commit.
5. A file is removed only if it is in the version before; else the commit is refused.
6. A file is added only if it was seen in the store, below the table, in the folder of its
   partition, with the size that its writer stated, the table's columns, and at least one row; and
   if it is not in the table yet. Rows and statistics in the log are those of the file's footer.
7. A version never changes: a snapshot has the same rows, each once, whatever is committed later. A
   retry, which replaces files, and a compaction are one commit: no version has half of one.
8. A compaction changes no row. Afterwards each value of the column `group_by` is one row group of
   one file of its partition.
9. A vacuum deletes no file that is needed: by a version that was the newest within its retention,
   by a pinned version, or by an attempt in flight (files younger than a day). Nor does it delete
   what is not named like a data file, all below `_xrec/` for instance. No later commit can add a
   file that it deletes: commits refuse files that are nearly a day old.
10. Every version within the log's retention, and every pinned one, can be opened.
11. Every version was committed by a driver of xrec. A commit of another program is not built upon,
    and who opens that version is told.
12. The log holds no values of rows, but the least and greatest of each file in the columns that
    the table's format names.
13. The store has conditional writes: making a table and taking it over try it.

What they rest on: the store's create-only write (`Location.create_bytes`) has one winner, and who
reads after a write sees it, as on S3 and on a local disk; nothing else deletes files below the
table; and clocks that give files their times differ by less than three hours.

Commits are written here, not by deltalake, which reads the log and writes checkpoints: a commit
through deltalake takes time for every file of the table, and does not fence (docs/table.md).
"""

from xrec.table.data_file import DataFile, copy_file, write_file
from xrec.table.format import TableFormat
from xrec.table.log import Commit
from xrec.table.snapshot import Filter, Snapshot
from xrec.table.table import Table, check_conditional_writes, refuse_other_files
from xrec.table.vacuum import Vacuumed
from xrec.table.writer import Writer

__all__ = [
    "Commit",
    "DataFile",
    "Filter",
    "Snapshot",
    "Table",
    "TableFormat",
    "Vacuumed",
    "Writer",
    "check_conditional_writes",
    "copy_file",
    "refuse_other_files",
    "write_file",
]
