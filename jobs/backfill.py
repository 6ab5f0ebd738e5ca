"""Job `backfill`: pairs in, explanations artifact out."""

from cluster.connect import ensure_ray
from xrec.backfill import plan_backfill, read_pairs, run_backfill
from xrec.config import BackfillConfig
from xrec.storage import Manifest, check_access, open_location


def run(config: BackfillConfig) -> Manifest:
    """Plan, connect to Ray, explain what is left; a finished run does no work and starts no cluster."""
    for name in ("dataset", "graph", "adapter", "explanations"):
        check_access(open_location(config.artifact(name), config.storage), config.storage)
    plan = plan_backfill(config, read_pairs(config))
    if plan.done is not None:
        return plan.done
    with ensure_ray(config.ray):
        return run_backfill(config, plan)


if __name__ == "__main__":
    from xrec.cli.main import run_job

    run_job("backfill")
