"""Rows in, chunks of them done by actors, one table out; an interrupted run goes on.

It knows nothing of what is done with the rows: a `ChunkTask` does it. A row of the plan is named by
its keys; the table (xrec.table) has it once, as one that succeeded (`status=ok`) or failed. If the
format has `ok_keys`, a row that succeeds becomes one or more rows of the table, such as the best
items of a user. Below, a row is one of the plan.

    run = open_run(uri, identity, format, batches, listing=..., rows_per_chunk=...)
    pool = ActorPool(run.worker_settings(make_task), num_actors=8, cpus_per_actor=1)
    state = drive(run, pool, holder=this_process(), retry=("timeout",))

`open_run` writes the plan (modules keys, spill, plan, run). `drive` feeds what is left to actors
(driver, process, attempts, pool, worker), commits what they wrote (ledger, state) and retries
failed rows (retry). `check_output` says what is wrong with an output, and what mends it. An output
holds

    _xrec/plan.json           which run this is, and where its plan lies                (plan)
    _xrec/plan/<folder>/      the rows of each chunk, an index, rejected rows           (plan)
    _delta_log/, status=*/    the table, and in its commits the state of the run        (state)

The state of a run is `planned` once `plan.json` is there, and then what the newest commit that
states something says: `running` or `finished`. A retry makes a finished run `running` again. Of a
chunk only one thing is kept, whether it is committed; what is in flight is known to the driver
alone.

The rules. Rule N has the tests `test_rule_N_...` in tests/xrec/bulk:

1. An output belongs to one run: the one in `plan.json`. Another run is refused, and the message
   names the fields that differ.
2. A plan that exists is complete: its files are written before `plan.json`, which is created once
   and names their folder. If config and inputs are the same, and the listing of the inputs is, it
   is trusted and no input is read. If only the listing differs, the rows are compared.
3. A row is planned once, under its keys as strings. Rows whose keys are no exact strings or
   integers are rejected with file, line and reason; no rejected row is lost.
4. One driver commits: the one that took the table over last. A driver is not started while the last
   commit says that another one is alive (`expires_at`), unless the caller says so, or that one was
   a process of this machine that is no more. A driver says so with each commit, and commits at
   least every 30 seconds, if only that.
5. Each row of a chunk is done or failed once, and the files of a chunk are committed together. A
   chunk is committed if and only if a file in the table has its number; the others are left. A row
   that succeeds becomes at least one row of the table.
6. A result that is committed already is dropped: a unit is committed once, whatever arrives late.
7. A result is committed at most two seconds after it arrived. Each commit states the totals of all
   that is committed: counts, costs, deaths. They also count the rows of the table, which has as
   many, at each version.
8. From the version on at which all chunks are committed, the table has the rows of the plan, each
   once. A retry replaces a failed file, in one commit, by what became of its rows; rows that failed
   for other reasons stay. A retry that was interrupted goes on with the files that are left.
   Compaction and vacuum are refused before.
9. A driver that lost the table ends and says who has it. One whose commit failed, or whose answer
   was lost, finds out whether it is in the table, if the table is still its own; then it goes on,
   with the results that it has. Files that are not as they were written are written again, once.
10. An actor that dies costs only its work: the driver counts the death against the rows, and a
    restarted driver knows of it. A unit is tried twice, then its halves once, and so on; a row is
    tried twice, then it is a failed row. What died is tried on an actor that does nothing else.
    The loss of a machine that was taken away does not count. If 64 actors die one after the other
    and nothing is done in between, the run ends, because no row can be to blame for that.
11. An error of the task that may be a row's fault (`row_errors`) fails that row alone. One after
    which the process can use its GPU no more ends the process. Any other ends the run.
12. A store that fails is tried again after 1, 4 and 16 seconds, by actors for each read and write,
    and by the driver; then the run ends with that error. What is committed stays.
13. A run that ends in any way but a kill commits what is done, and the next driver may begin at
    once. A run with too many failed rows ends so.
14. Rows are carried over from one version of an earlier run, which is pinned from before the plan
    until the run is finished, if the task says that they are still good; the others are done. A
    file of which all rows are carried over is copied as it is, if the runs have as many buckets and
    the same columns. What happens to the earlier run meanwhile, or later, changes nothing.
15. A run may be begun with a limit of rows (`max_rows`). The driver then ends as soon as the table
    has so many rows of the run, those of earlier drivers included, and does no chunk beyond: a
    chunk is not divided, so the last one may bring more. The run stays `running`; it is finished
    only if no chunk is left. The next driver goes on. A limit that is reached already changes
    nothing.
"""

from typing import TYPE_CHECKING

from xrec.bulk.check import Finding, check_output
from xrec.bulk.driver import drive
from xrec.bulk.export import Exported, export_run, is_exported
from xrec.bulk.interrupted import tells_what_is_done
from xrec.bulk.keys import clean_keys, key_hash
from xrec.bulk.ledger import refuse_live_driver
from xrec.bulk.limits import nothing_left
from xrec.bulk.plan import PLAN, Identity, Plan, listing_of, read_plan
from xrec.bulk.preview import Preview, preview
from xrec.bulk.publish import publish, published, release_older
from xrec.bulk.rate import Rate, measured_rate
from xrec.bulk.row_format import RowFormat
from xrec.bulk.run import BulkRun, open_run
from xrec.bulk.state import RunState, read_state
from xrec.bulk.status import Status, read_status
from xrec.bulk.task import CarryingTask, ChunkTask, Outcome
from xrec.bulk.upkeep import compact, vacuum
from xrec.bulk.work import Pool
from xrec.bulk.worker import WorkerSettings
from xrec.storage.process import this_process

if TYPE_CHECKING:
    from xrec.bulk.pool import ActorPool

__all__ = [
    "PLAN",
    "ActorPool",
    "BulkRun",
    "CarryingTask",
    "ChunkTask",
    "Exported",
    "Finding",
    "Identity",
    "Outcome",
    "Plan",
    "Pool",
    "Preview",
    "Rate",
    "RowFormat",
    "RunState",
    "Status",
    "WorkerSettings",
    "check_output",
    "clean_keys",
    "compact",
    "drive",
    "export_run",
    "is_exported",
    "key_hash",
    "listing_of",
    "measured_rate",
    "nothing_left",
    "open_run",
    "preview",
    "publish",
    "published",
    "read_plan",
    "read_state",
    "read_status",
    "refuse_live_driver",
    "release_older",
    "tells_what_is_done",
    "this_process",
    "vacuum",
]


def __getattr__(name: str) -> object:
    """The pool of actors, with which Ray is imported; a status, for instance, needs neither."""
    if name == "ActorPool":
        from xrec.bulk.pool import ActorPool

        return ActorPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
