"""Dagster: the explanations as an asset with a partition a day, made by `xrec refresh`.

The key of a night is its partition: a retry follows the job that is at work, or goes on where it
failed. Only exit code 1 is tried again; 2 and 3 ask for a person, 4 for time or money
(docs/projects.md). What a night cost and what its gate saw are figures of the asset, by day.
"""

import json
import subprocess

from dagster import (
    AssetExecutionContext,
    DailyPartitionsDefinition,
    Definitions,
    Failure,
    MaterializeResult,
    RetryPolicy,
    asset,
    build_schedule_from_partitioned_job,
    define_asset_job,
)

COMMAND = "xrec submit --json --key {key} refresh /etc/xrec/shop.yaml --address http://HEAD:8265"


@asset(
    partitions_def=DailyPartitionsDefinition(start_date="2026-01-01"),
    retry_policy=RetryPolicy(max_retries=3, delay=600),
)
def explanations(context: AssetExecutionContext) -> MaterializeResult:
    """A night: what changed since the last one."""
    words = COMMAND.format(key=context.partition_key).split()
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    told, code = json.loads(done.stdout or "{}"), done.returncode
    figures = (told.get("result") or {}).get("metrics", {})
    if code:
        raise Failure(f"exit code {code}", metadata=figures, allow_retries=code == 1)
    return MaterializeResult(metadata=figures)


nights = define_asset_job("nights", [explanations])
schedule = build_schedule_from_partitioned_job(nights, hour_of_day=2, minute_of_hour=30)
definitions = Definitions(assets=[explanations], schedules=[schedule])
