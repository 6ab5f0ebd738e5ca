"""Process many rows in processes on Ray, and publish the results as a table.

Four calls: `open_run` plans, `drive` does the work, `publish` publishes (`complete` does both), and
`published` reads. A run is work in progress; a table is what readers see, and changes only when a
version is published. A `ChunkTask` decides what is done with the rows.

    _delta_log/, part-*.parquet                 the table: complete, published versions only
    _xrec/runs/<run>/run-<k>.json               names the valid plan; the highest k counts
    _xrec/runs/<run>/<nonce>/plan/, results/    the rows by chunk; a file for each finished chunk
    _xrec/runs/<run>/<nonce>/pass-<p>.json      names the plan of retry p and its results
    _xrec/runs/<run>/<nonce>/driver.json        who works on the run, and the progress
    _xrec/runs/<run>/<nonce>/counted.json       counts of results, for the next driver
    _xrec/takedowns/<n>.json                    what later versions must leave out

*Creating* a file succeeds only if no file of that name exists. Tests of rule N are named
`test_rule_N_...`, in tests/xrec/bulk.

1. A run is named by its settings, its inputs and a hash of its rows, so runs with different
   settings never meet. The table can be read at any time.
2. A plan is written to a unique folder, then named by creating `run-<k>.json`. A second driver uses
   the plan already named. If that plan is gone, k + 1 names a new one. Each row is planned once;
   rows with invalid IDs are rejected with file, line and reason.
3. A chunk is done once its result is created, so drivers can stop, resume and work concurrently,
   and counts come from results. Readers check the digests of plans and results. A damaged result is
   made again under a second name; if that is damaged too, or a plan is, an error names the file.
4. A driver that was suspended while its output was deleted only writes into its abandoned folder. A
   thread renews its lease every 15 s, and ends the driver if another plan is valid. Until the 90 s
   lease expires, no other driver starts and no command deletes the run.
5. A row that succeeds becomes a row of the table. An error in `row_errors` fails only the row to
   blame, one that makes the GPU unusable ends the process, and any other error ends the run.
6. A chunk that killed two processes is divided until one row is left; a row that kills two fails
   (see xrec.processes.marks). Lost nodes do not count. The run ends after 64 deaths in a row with
   nothing done in between, or if processes keep dying while loading.
7. A retry is the next pass: once all earlier ones are done, `pass-<p>.json` names a plan of rows
   whose last attempt failed for one of its reasons. A row's last pass counts. Once a pass has
   started, nothing is published until it is finished.
8. Publishing is one Delta commit, which takes the next version number or fails. Repeat until done:
   (a) open the newest version, and undo it if its files are missing or differ from its commit; (b)
   stop if it shows this plan with this pass or a later one; fail if another publish, rollback or
   emptying came since the command started, or if a rollback or emptying took back this run and no
   later version shows it, unless `republish` is set; (c) read passes and plan again, and check the
   files written so far, which are kept; (d) commit.
9. Nothing is published if a run is unfinished, was limited or has too many failed rows, or if its
   results have fewer rows than its plan.
10. A limit (`max_rows`) or a used-up budget (`spent`) ends a run after the chunks in progress, and
    the next driver continues. Both, and the share of failed rows, are checked after each chunk. In
    a plan made with a limit, a chunk ends exactly at the limit.
11. Rows of the published version, and of unpublished runs planned since, are copied into the plan,
    and carried over if the task accepts them.
12. Failed requests are retried after 1, 4 and 16 s; then the run ends with that error and keeps its
    results. A failure to renew the lease is only logged.
13. A takedown is listed before anything else happens, and each commit records the last entry that
    it honors. Plans, retries, carried rows and commits leave out what is listed. The next command
    that opens the table to commit removes rows listed since. Nothing is committed while entries are
    missing. A takedown can be lifted; the next run then makes a new plan and brings the rows back.
"""

from xrec.bulk.driver import (
    DriveOptions,
    check_failed_share,
    complete,
    costs_in_errors,
    drive,
    has_work,
)
from xrec.bulk.input import clean_keys, first_of
from xrec.bulk.log import find_published, newest_entry, open_log, read_published
from xrec.bulk.progress import Progress, Survey, start_costs
from xrec.bulk.publisher import Describe, lacks_lifted, publish
from xrec.bulk.read import Published, export_run, published
from xrec.bulk.request import ROWS_PER_CHUNK, RunRequest, listing_of, open_run
from xrec.bulk.rows import (
    AGAIN,
    FAILED,
    OK,
    ChunkTask,
    Outcome,
    RowFormat,
    Summary,
    added,
    bucket_of,
    carried_of,
    spent_of,
    use_of,
    used_up,
)
from xrec.bulk.run import BulkRun, Identity, final_rows, now, records
from xrec.bulk.status import (
    NOTES,
    Preview,
    Status,
    check_output,
    history_of,
    preview,
    read_status,
)
from xrec.bulk.table import file_errors
from xrec.bulk.takedown import read_takedowns
from xrec.bulk.upkeep import (
    delete_runs,
    empty,
    lift,
    restart_takedowns,
    rollback,
    take_down,
    time_of,
    vacuum,
)
