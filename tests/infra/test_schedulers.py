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
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from tests.cluster.test_submit import ON_S3
from tests.command_line import xrec
from tests.infra.manifests import ROOT
from tests.project_file import write_yaml

SCHEDULERS = ROOT / "infra" / "schedulers"
NIGHT = "2026-11-28"
TOLD = '{"job": "refresh", "submission_id": "xrec-refresh-1", "state": "SUCCEEDED"}'


@pytest.fixture
def words_of(tmp_path, monkeypatch):
    """Lets `xrec` be the stub; returns what gives the words of its calls."""
    calls = tmp_path / "calls"
    program = tmp_path / "xrec"
    program.write_text(
        f'#!/bin/sh\nfor word; do echo "$word"; done >> {calls}\n'
        f"echo '{TOLD}'\nexit ${{XREC_STUB_CODE:-0}}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return lambda: calls.read_text().splitlines()


@pytest.fixture
def dagster(monkeypatch):
    """A stub of the package, in which assets are functions."""
    stub: Any = ModuleType("dagster")
    stub.__getattr__ = lambda name: MagicMock(name=name)
    stub.asset = lambda **_: lambda function: function
    stub.MaterializeResult = dict

    class Failure(Exception):  # noqa: N818  its name
        def __init__(self, description: str, *, allow_retries: bool):
            super().__init__(description)
            self.allow_retries = allow_retries

    stub.Failure = Failure
    monkeypatch.setitem(sys.modules, "dagster", stub)
    return stub


def check_words(words: list[str], key: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They make xrec submit a night of this key."""
    server = Mock(url="http://HEAD:8265")
    server.submit_once.return_value = ("xrec-refresh-1", None)
    monkeypatch.setattr("cluster.submit.JobServer", lambda address: server)
    backfill = {"pairs": {"kind": "split"}, "llm": {"model": "a/b"}}
    values = {**ON_S3, "pretrain-graph": {}, "backfill": backfill}
    path = write_yaml(folder / "shop.yaml", values)
    code, out, err = xrec(*(path if word == "/etc/xrec/shop.yaml" else word for word in words))
    assert code == 0, out + err
    (name, _, command, _), _ = server.submit_once.call_args
    assert (key in name, command[:2]) == (True, ["refresh", "shop.yaml"])
    server.follow.assert_called_once()


def test_cron_calls_refresh_with_the_date_as_key(words_of, tmp_path, monkeypatch):
    (line,) = [
        line for line in (SCHEDULERS / "crontab").read_text().splitlines() if "xrec submit" in line
    ]
    *when, command = line.split(maxsplit=5)
    assert (when, "%" in command.replace("\\%", "")) == (["30", "2", "*", "*", "*"], False)
    subprocess.run(["/bin/sh", "-c", command.replace("\\%", "%")], check=True)
    check_words(words_of(), date.today().isoformat(), tmp_path, monkeypatch)


def test_airflow_calls_refresh_with_the_date_as_key(words_of, tmp_path, monkeypatch):
    operator = Mock()
    for name in ("airflow", "airflow.sdk", "airflow.providers.standard.operators.bash"):
        stub: Any = ModuleType(name)
        stub.DAG, stub.BashOperator = MagicMock(), operator
        monkeypatch.setitem(sys.modules, name, stub)
    runpy.run_path(str(SCHEDULERS / "airflow_dag.py"))
    settings = operator.call_args.kwargs
    command = settings["bash_command"].replace("{{ ds }}", NIGHT)
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["state"] == "SUCCEEDED"
    check_words(words_of(), NIGHT, tmp_path, monkeypatch)


def test_dagster_makes_an_asset_and_tries_again_what_may_succeed(
    words_of, dagster, tmp_path, monkeypatch
):
    night = runpy.run_path(str(SCHEDULERS / "dagster_asset.py"))["explanations"]
    context = Mock(partition_key=NIGHT)
    assert night(context) == {"metadata": json.loads(TOLD)}
    check_words(words_of(), NIGHT, tmp_path, monkeypatch)
    for code in (1, 2, 3):
        monkeypatch.setenv("XREC_STUB_CODE", str(code))
        with pytest.raises(dagster.Failure, match=f"exit code {code}") as failed:
            night(context)
        assert failed.value.allow_retries == (code == 1)
