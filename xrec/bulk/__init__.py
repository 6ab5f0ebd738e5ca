"""Rows in, chunks of them done on Ray Data, one published table out; an interrupted run goes on.

It knows nothing of what is done with the rows: a `ChunkTask` does it. A run is work in progress, a
table is what readers see; they share nothing but the moment of publishing.

    _delta_log/, part-*.parquet                 the table: only whole, published versions
    _xrec/runs/<run>/run-<k>.json               names the plan that counts; the highest k does
    _xrec/runs/<run>/<nonce>/plan/, results/    the rows by chunk; a file for each chunk done
    _xrec/runs/<run>/<nonce>/pass-<p>.json      names the plan of retry p and its results
    _xrec/takedowns/<n>.json                    what no later version may have

    run = open_run(RunRequest(uri, identity, format, batches, listing))
    manifest = complete(run, RayPool(max_actors=8), make_task, kind, describe, retry=("timeout",))

A file that is *created* is written if and only if nothing has its name. The rules; rule N has the
tests `test_rule_N_...` in tests/xrec/bulk; test_turns.py draws orders of commands:

1. A run is named by its settings, its inputs and a hash of its rows, so another config is another
   folder. Both may work at once, and the published table is readable all the time.
2. A plan is written under a name that nobody else has, and then `run-<k>.json`, which is created,
   names it. Who was not first takes the plan that is named. If that plan is gone, k + 1 names
   another. A row is planned once; rows whose ids are none are rejected with file, line and reason.
3. A chunk is done if its result is there, which is created by whoever is first. So drivers may
   come, go, sleep and work side by side. Counts come from the results that stand. Results and plans
   have digests, which readers recompute. A result that is damaged is done once more under a second
   name; if that is damaged too, an error names it. A damaged plan is an error.
4. A driver that was suspended while its output was deleted only writes into its abandoned folder.
   Every 15 s, however long a chunk or the publication takes, a thread gives a sign of life and
   looks whether the plan is still the one that counts; if not, the driver ends. While signs of
   life are less than 90 s old, no other driver begins and no command deletes the run.
5. A row that succeeds becomes at least one row of the table. An error that may be a row's fault
   (`row_errors`) fails that row alone; one after which the process can use its GPU no more ends the
   process; any other ends the run.
6. Rows that kill their process are found by marks (xrec.bulk.work.marks): a chunk that killed twice
   is cut until one row is left, and a row that killed twice is a failed row. A node that went away
   counts for nothing. 64 processes that die with nothing done in between, or processes that die
   while they load, end the run.
7. A retry is the next pass: `pass-<p>.json` is created once every chunk of the passes before has a
   result, and names a plan of the rows that had failed last for its reasons. The last pass of a
   row counts. A pass that was begun is done before anything is published.
8. Publishing replaces the rows of the table in one Delta commit, which takes the next version or
   none. It says which run, plan and pass it publishes, and a digest of the files that it means.
   Around it, again and again until one of these ends it: (a) open the newest version; if it is not
   what its commit meant, or lacks files, a publisher had slept over a deletion: it is undone, by
   the next version; (b) look for the newest publish, rollback or emptying: if it is a publish of
   this very plan, with this pass or a later one, all is done; if it is anything else and came since
   this command began, it ends with an error; so it does, unless it is told otherwise, if a rollback
   or an emptying took this run back, in whatever plan and pass, and nothing has shown it since;
   (c) read passes and plan again, and look whether the files are there; (d) commit, and go back to
   (a) whatever the answer. Files that were written are kept for the next turn.
9. A run that is not done, was limited, has too many failed rows, or whose results do not have as
   many rows as its plan, publishes nothing.
10. A limit (`max_rows`) or a budget that is used up (`spent`) ends a run at the end of a chunk, and
    publishes nothing; the next driver goes on. Both, and the share of failed rows, are judged after
    each chunk; then only the chunks at work are finished. A run that is planned with a limit has
    the end of a chunk there.
11. Rows are carried over from a published version if the task says that they are still good. They
    stand in the plan, so whatever happens to that version later changes nothing.
12. A store that fails is tried again after 1, 4 and 16 seconds; then the run ends with that error.
    What has a result stays. Signs of life are a courtesy: one that cannot be written is logged.
13. What is taken down is on a list first, whose entries are created, and each commit says up to
    which entry it heeds the list. Publish, rollback and undo read it after the table was opened,
    and leave out what is on it; so does the next version where one does not heed all of it, which
    whoever opens the table to commit makes first. Where there is no table, one without rows is
    made. Planned rows, carried ones, and those of a retry are those that the list leaves. Nothing
    is committed while entries are gone that were on the list. Once a takedown is lifted, a plan
    that lacks rows for it no longer counts, and a version that lacks some is published again by the
    next run.
"""

from typing import TYPE_CHECKING, Any

from xrec.bulk.driver import (
    Amounts,
    Spent,
    check_failed_share,
    complete,
    costs_told,
    drive,
    has_work,
    spent_of,
    use_of,
    used_up,
)
from xrec.bulk.export import export_run
from xrec.bulk.parts import final_rows
from xrec.bulk.publish import Describe, lacks_lifted, publish
from xrec.bulk.request import ROWS_PER_CHUNK, RunRequest, listing_of, open_run
from xrec.bulk.runs.keys import bucket_of, clean_keys
from xrec.bulk.runs.progress import Progress, Survey, now
from xrec.bulk.runs.rejected import first_of
from xrec.bulk.runs.result import Summary, added
from xrec.bulk.runs.row_format import AGAIN, FAILED, OK, ChunkTask, Outcome, RowFormat
from xrec.bulk.runs.run import Base, BulkRun, Identity, records
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
from xrec.bulk.table import Published, published
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
    from xrec.bulk.work.pool import Pool, RayPool, map_in_processes, num_cpus
    from xrec.bulk.work.ray_actors import gpus_each

__all__ = [
    "AGAIN",
    "FAILED",
    "NOTES",
    "OK",
    "ROWS_PER_CHUNK",
    "Amounts",
    "Base",
    "BulkRun",
    "ChunkTask",
    "Describe",
    "Identity",
    "Outcome",
    "Pool",
    "Preview",
    "Progress",
    "Published",
    "Rate",
    "RayPool",
    "RowFormat",
    "RunRequest",
    "Spent",
    "Status",
    "Summary",
    "Survey",
    "added",
    "bucket_of",
    "check_failed_share",
    "check_output",
    "clean_keys",
    "complete",
    "costs_told",
    "delete_runs",
    "drive",
    "empty",
    "export_run",
    "final_rows",
    "first_of",
    "gpus_each",
    "has_work",
    "history_of",
    "lacks_lifted",
    "lift",
    "listing_of",
    "map_in_processes",
    "now",
    "num_cpus",
    "open_run",
    "preview",
    "publish",
    "published",
    "read_status",
    "read_takedowns",
    "records",
    "restart_takedowns",
    "rollback",
    "spent_of",
    "take_down",
    "use_of",
    "used_up",
    "vacuum",
]


def __getattr__(name: str) -> Any:
    """Import what runs on Ray when it is first used: most commands need no Ray."""
    if name == "gpus_each":
        from xrec.bulk.work.ray_actors import gpus_each

        return gpus_each
    if name in ("Pool", "RayPool", "map_in_processes", "num_cpus"):
        from xrec.bulk.work import pool

        return getattr(pool, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
