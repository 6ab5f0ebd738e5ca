"""Bulk explanation: pairs in, Parquet chunks out, each committed once; resumes at the chunks that are left.

plan.json + plan/chunk-00007.parquet     what is to be done, written once (xrec.backfill.plan)
part-00007-<hash>.parquet, failed/...    a worker's output of a chunk     (xrec.backfill.worker)
commits/00007.json                       create-only: this output counts  (xrec.backfill.commit)
manifest.json                            last: the winners                (xrec.backfill.run)
"""

from xrec.backfill.pairs import read_pairs
from xrec.backfill.plan import BackfillPlan, plan_backfill
from xrec.backfill.run import read_explanations, run_backfill

__all__ = ["BackfillPlan", "plan_backfill", "read_explanations", "read_pairs", "run_backfill"]
