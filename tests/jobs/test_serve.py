"""`xrec serve` as a person runs it: start, address, another adapter on SIGHUP, Ctrl-C."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.command_line import xrec
from tests.project_file import write_project
from tests.xrec.generate.town import make_town
from tests.xrec.serve.town import ITEMS, USERS, backfill_config, make_backfill, serve_config


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


def write_config(town: Path, path: Path, **values: object) -> None:
    write_project(path, serve_config(town), **values)


def test_backfill_of_another_model_is_refused_before_anything_starts(town, tmp_path):
    make_backfill(
        backfill_config(town, str(tmp_path / "out"), adapter=str(town / "adapter-2")),
        [(USERS[0], ITEMS[0])],
    )
    write_config(town, tmp_path / "serve.yaml", explanations=str(tmp_path / "out"))
    code, _, err = xrec("serve", tmp_path / "serve.yaml")
    assert code == 1
    assert "these explanations are of another model:\n  adapter: " in err
    assert "starting a local Ray cluster" not in err


@pytest.mark.slow
def test_command_serves_swaps_on_sighup_and_ends_on_ctrl_c(town, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path, log = tmp_path / "serve.yaml", tmp_path / "log"
    write_config(town, path, http={"port": port})
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "xrec.cli", "serve", str(path)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: f"serving at http://127.0.0.1:{port} " in log.read_text(), process)
        pair = f"http://127.0.0.1:{port}/v1/explanations/{USERS[0]}/{ITEMS[0]}"
        first = requests.get(pair, timeout=60).json()["model_fingerprint"]
        path.write_text("serve: {htpp: {}}")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the earlier one stays" in log.read_text(), process)
        assert requests.get(pair, timeout=60).json()["model_fingerprint"] == first
        write_config(town, path, http={"port": port}, adapter=str(town / "adapter-2"))
        process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: requests.get(pair, timeout=60).json()["model_fingerprint"] != first, process
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(pair, timeout=5)


def wait_for(condition: object, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
