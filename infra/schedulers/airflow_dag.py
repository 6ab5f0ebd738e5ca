"""Airflow: `xrec refresh` each night. Put it into the folder of DAGs; it needs `xrec` on the path.

The key of a night is its date: a retry follows the job that is at work, or goes on where it failed.
Exit codes other than 0 fail the task (docs/projects.md), with the cause and the costs in its log.
After 3, which asks for a person, a retry does no work and ends with 3 again. After 4 it goes on for
budget.seconds once more: leave `retries` out where that is too late.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG(
    "xrec_refresh",
    schedule="30 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    BashOperator(
        task_id="refresh",
        bash_command="xrec submit --json --key {{ ds }} refresh /etc/xrec/shop.yaml",
        env={"RAY_API_SERVER_ADDRESS": "http://HEAD:8265"},
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=10),
        do_xcom_push=True,  # {"job": "refresh", ..., "result": {"version": 12, "metrics": ...}}
    )
