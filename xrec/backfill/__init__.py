"""Explains many pairs: pairs go in, Parquet files come out, and an interrupted run can go on.

The pairs are divided into chunks. Each chunk is committed once, and a run that is started again
does only the chunks that are not committed. An output folder holds, in the order of writing:

lease/00000007.json                    which driver works on the run      (lease)
plan.json, plan/<run>/00007.parquet    which pairs are in which chunk     (plan)
attempts/00007/...                     attempts that did not end          (attempts)
part-00007-<hash>.parquet, failed/...  what a worker wrote for a chunk    (worker)
commits/00007.json                     which files of the chunk count     (commit)
generations/00002/...                  a later retry or compaction        (generation)
manifest.json, _SUCCESS                all files that count, at the end   (finish)

The word in brackets is the module of xrec.backfill that writes it. `read` gives a reader exactly
the rows that count; `part-*.parquet` may match more, or fewer (xrec.backfill.reader).
"""

from xrec.backfill.clean import clean
from xrec.backfill.compact import compact
from xrec.backfill.finish import finish
from xrec.backfill.identity import RunIdentity
from xrec.backfill.lease import Lease
from xrec.backfill.pairs import pair_batches
from xrec.backfill.plan import BackfillPlan, PlanDraft, draft_plan, read_plan
from xrec.backfill.reader import read, read_explanations, read_failed
from xrec.backfill.run import run_backfill

__all__ = [
    "BackfillPlan",
    "Lease",
    "PlanDraft",
    "RunIdentity",
    "clean",
    "compact",
    "draft_plan",
    "finish",
    "pair_batches",
    "read",
    "read_explanations",
    "read_failed",
    "read_plan",
    "run_backfill",
]
