"""Bulk explanation: pairs in, Parquet chunks out, each committed once; resumes at the chunks that are left.

lease/00000007.json                          who drives this run             (xrec.backfill.lease)
plan.json, plan/<run>/00007.parquet          what is to be done, create-only (xrec.backfill.plan)
attempts/00007/...                           who died on which rows          (xrec.backfill.attempts)
part-00007-<hash>.parquet, failed/...        a worker's output of a chunk    (xrec.backfill.worker)
commits/00007.json                           create-only: this output counts (xrec.backfill.commit)
generations/00002/...                        a retry or compaction over it   (xrec.backfill.generation)
manifest.json, _SUCCESS                      last: the winners               (xrec.backfill.finish)
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
