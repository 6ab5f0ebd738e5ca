"""Do something with many rows on a Ray cluster, and publish the results as a table.

Four calls: `open_run` plans, `drive` works, `publish` publishes (`complete` does both), `published`
reads. A run is work in progress and a table is what readers see; they meet only when a version is
published. What is done with the rows is up to a `ChunkTask`.

    _delta_log/, part-*.parquet                 the table: whole, published versions only
    _xrec/runs/<run>/run-<k>.json               names the valid plan; the highest k counts
    _xrec/runs/<run>/<nonce>/plan/, results/    the rows by chunk; a file for each done chunk
    _xrec/runs/<run>/<nonce>/pass-<p>.json      names the plan of retry p and its results
    _xrec/takedowns/<n>.json                    what later versions must not have

The rules. Rule N has tests `test_rule_N_...` in tests/xrec/bulk. *Creating* a file succeeds only if
no file has its name.

1. A run is named by its settings, its inputs and a hash of its rows, so runs with other settings
   have other folders and can work at the same time. The table can be read at any time.
2. A plan is written to a unique folder, then named by creating `run-<k>.json`. Whoever comes second
   uses the plan that is named. If that plan is gone, k + 1 names another. A row is planned once;
   rows with invalid IDs are rejected with file, line and reason.
3. A chunk is done once its result is created, so drivers can stop, resume and work concurrently,
   and counts come from results. Readers check the digests of plans and results. A damaged result is
   done again under a second name; if that one is damaged too, or a plan is, an error names it.
4. A driver that was suspended while its output was deleted only writes into its abandoned folder.
   Every 15 s a thread renews its lease and ends the driver if another plan is valid. Until a lease
   of 90 s expires, no other driver starts and no command deletes the run.
5. A row that succeeds becomes one or more rows of the table. An error in `row_errors` fails one
   row, an error that makes the GPU unusable ends the process, and any other ends the run.
6. A chunk that killed two processes is cut until one row is left; a row that kills two fails (see
   xrec.bulk.marks). Lost nodes do not count. 64 deaths in a row, with nothing done in between, or
   deaths during loading, end the run.
7. A retry is the next pass. Once all earlier passes are done, `pass-<p>.json` is created and names
   a plan of the rows that last failed for its reasons. A row's last pass counts. A started pass is
   finished before anything is published.
8. Publishing is one Delta commit that takes the next version or none, and records its run, plan,
   pass and a digest of its files. It repeats these steps until one ends it: (a) open the newest
   version, and undo it if its files are missing or not those of its commit; (b) stop if it shows
   this plan with this pass or a later one; fail if another publish, rollback or emptying came since
   the command began, or if one took this run back, in whatever plan, and nothing has shown it
   since (unless told otherwise); (c) read passes and plan again, and check the written files;
   (d) commit. Files that were written are kept for the next round.
9. A run that is unfinished, was limited, has too many failed rows, or whose results have fewer rows
   than its plan, publishes nothing.
10. A limit (`max_rows`) or a used-up budget (`spent`) ends a run after the chunks at work, and the
    next driver continues. They and the share of failed rows are checked after each chunk. A plan
    made with a limit ends a chunk there.
11. Rows of a published version are carried over if the task accepts them. They are copied into the
    plan, so later changes of that version do not matter.
12. Failed requests are repeated after 1, 4 and 16 s; then the run ends with that error and keeps
    its results. A lease that cannot be renewed is only logged.
13. A takedown is on the list before anything else happens, and each commit records the last entry
    that it honors. Plans, retries, carried rows and all commits leave out what is on the list. If a
    version does not honor all of it, whoever opens the table to commit first makes one that does.
    Nothing is committed while entries are missing. Once a takedown is lifted, plans and versions
    that lack rows because of it no longer count, and the next run brings the rows back.
"""

from typing import TYPE_CHECKING, Any

from xrec.bulk.budget import (
    Amounts,
    Spent,
    check_failed_share,
    costs_in_errors,
    spent_of,
    use_of,
    used_up,
)
from xrec.bulk.driver import DriveOptions, complete, drive, has_work
from xrec.bulk.files import FEW_AT_ONCE, file_errors
from xrec.bulk.log import find_published, open_log, read_published
from xrec.bulk.parts import final_rows
from xrec.bulk.progress import Progress, Survey, now
from xrec.bulk.publish import Describe, lacks_lifted, publish
from xrec.bulk.read import Published, export_run, published
from xrec.bulk.request import ROWS_PER_CHUNK, RunRequest, listing_of, open_run
from xrec.bulk.results import Summary, added
from xrec.bulk.rows import (
    AGAIN,
    FAILED,
    OK,
    ChunkTask,
    Outcome,
    RowFormat,
    bucket_of,
    clean_keys,
    first_of,
)
from xrec.bulk.run import Base, BulkRun, Identity, records
from xrec.bulk.status import (
    NOTES,
    Preview,
    Rate,
    Status,
    check_output,
    history_of,
    preview,
    read_status,
)
from xrec.bulk.takedown import read_takedowns
from xrec.bulk.upkeep import (
    delete_runs,
    empty,
    lift,
    restart_takedowns,
    rollback,
    take_down,
    vacuum,
)

if TYPE_CHECKING:
    from xrec.bulk.processes import Pool, RayPool, gpus_each, map_in_processes, num_cpus


def __getattr__(name: str) -> Any:
    """Import what runs on Ray when it is first used, because most commands need no Ray."""
    if name not in ("Pool", "RayPool", "gpus_each", "map_in_processes", "num_cpus"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from xrec.bulk import processes

    return getattr(processes, name)
