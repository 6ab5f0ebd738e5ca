"""The examples of schedulers call commands that xrec has; schedulers are stubs, their packages big.

A program `xrec` on the path stands for the real one: it keeps its words, and ends as it is told to.
The real command is then called with these words.
"""

import json
import os
import runpy
import subprocess
import sys
from datetime import date
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from tests.cluster.test_submit import ON_S3
from tests.infra.manifests import ROOT
from tests.world.program import said
from tests.world.shop import write_yaml

SCHEDULERS, NIGHT, PROJECT = ROOT / "infra" / "schedulers", "2026-11-28", "/etc/xrec/shop.yaml"
FIGURES = {"num_carried": 940, "night.money": 2.5}
TOLD = json.dumps({"state": "SUCCEEDED", "exit_code": 0, "result": {"metrics": FIGURES}})


@pytest.fixture
def check_words(tmp_path, monkeypatch):
    """Lets `xrec` be the stub; returns what checks that its words submit the night of a key."""
    calls, program = tmp_path / "calls", tmp_path / "xrec"
    words = f'for word; do echo "$word"; done >> {calls}'
    program.write_text(f"#!/bin/sh\n{words}\necho '{TOLD}'\nexit ${{XREC_STUB_CODE:-0}}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    ended = {"follow.return_value.status": "SUCCEEDED", "result.return_value": {}}
    server = Mock(url="http://HEAD:8265", **ended)
    server.submit_once.return_value = ("xrec-refresh-1", None)
    monkeypatch.setattr("cluster.submit.JobServer", lambda address: server)
    backfill = {"pairs": {"kind": "split"}, "llm": {"model": "a/b"}}
    values = {**ON_S3, "pretrain-graph": {}, "backfill": backfill}
    path = write_yaml(tmp_path / "shop.yaml", values)

    def check(key: str) -> None:
        said(*(path if word == PROJECT else word for word in calls.read_text().splitlines()))
        (name, _, command, _), _ = server.submit_once.call_args
        assert (key in name, command[:2]) == (True, ["refresh", "shop.yaml"])
        server.follow.assert_called_once()

    return check


def test_cron_calls_refresh_with_the_date_as_key(check_words):
    lines = (SCHEDULERS / "crontab").read_text().splitlines()
    (*when, command) = next(line for line in lines if "xrec submit" in line).split(maxsplit=5)
    assert (when, "%" in command.replace("\\%", "")) == (["30", "2", "*", "*", "*"], False)
    subprocess.run(["/bin/sh", "-c", command.replace("\\%", "%")], check=True)
    check_words(date.today().isoformat())


def test_airflow_calls_refresh_with_the_date_as_key(check_words, monkeypatch):
    stub = MagicMock()
    for name in ("airflow", "airflow.sdk", "airflow.providers.standard.operators.bash"):
        monkeypatch.setitem(sys.modules, name, stub)
    runpy.run_path(str(SCHEDULERS / "airflow_dag.py"))
    command = stub.BashOperator.call_args.kwargs["bash_command"].replace("{{ ds }}", NIGHT)
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["state"] == "SUCCEEDED"
    check_words(NIGHT)


def test_dagster_makes_an_asset_and_tries_again_what_may_succeed(check_words, monkeypatch):
    class Failure(Exception):  # noqa: N818  its name
        def __init__(self, description: str, *, metadata: Any, allow_retries: bool):
            super().__init__(description)
            self.metadata, self.allow_retries = metadata, allow_retries

    stub: Any = MagicMock(Failure=Failure, MaterializeResult=dict)
    stub.asset = lambda **_: lambda function: function
    monkeypatch.setitem(sys.modules, "dagster", stub)
    night = runpy.run_path(str(SCHEDULERS / "dagster_asset.py"))["explanations"]
    assert night(Mock(partition_key=NIGHT)) == {"metadata": FIGURES}
    check_words(NIGHT)
    for code in (1, 2, 3, 4):
        monkeypatch.setenv("XREC_STUB_CODE", str(code))
        with pytest.raises(Failure, match=f"exit code {code}") as failed:
            night(Mock(partition_key=NIGHT))
        assert (failed.value.allow_retries, failed.value.metadata) == (code == 1, FIGURES)
