"""`xrec serve` as a person runs it: start, address, another adapter on SIGHUP, Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

from tests.world.program import python
from tests.world.shop import write_project
from tests.world.workspace import make_town
from tests.xrec.serve.town import ITEMS, USERS, serve_config


@pytest.mark.slow
def test_command_that_cannot_listen_says_so(tmp_path):
    config, path = serve_config(make_town(tmp_path)), tmp_path / "serve.yaml"
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        for http in ({"port": port}, {"tls": str(path)}):
            write_project(path, config, http=http)
            done = python("-m", "xrec.cli", "serve", str(path), RAY_ADDRESS="")
            told = [f"http.{name}={value}" for name, value in http.items()]
            assert (done.returncode, "Traceback" in done.stderr) == (1, False)
            assert all(part in done.stderr for part in (*told, "expected a free port"))


@pytest.mark.slow
def test_command_serves_swaps_on_sighup_and_ends_on_ctrl_c(tmp_path):
    town = make_town(tmp_path)
    config = serve_config(town)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path, log, requests_log = (tmp_path / name for name in ("serve.yaml", "log", "requests"))
    write_project(path, config, http={"port": port})
    command = [sys.executable, "-m", "xrec.cli", "serve", str(path)]
    with log.open("w") as errors, requests_log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
    try:
        wait_for(
            lambda: f"serving at http://127.0.0.1:{port} " in requests_log.read_text(), process
        )
        pair = f"http://127.0.0.1:{port}/v1/explanations/{USERS[0]}/{ITEMS[0]}"
        answer = requests.get(pair, timeout=60, headers={"X-Request-ID": "mine"})
        first = answer.json()["model_fingerprint"]
        wait_for(lambda: '"request_id": "mine"' in requests_log.read_text(), process)
        path.write_text("serve: {htpp: {}}")
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "the earlier one stays" in log.read_text(), process)
        assert requests.get(pair, timeout=60).json()["model_fingerprint"] == first
        write_project(path, config, http={"port": port}, adapter=str(town / "adapter-2"))
        process.send_signal(signal.SIGHUP)
        wait_for(
            lambda: requests.get(pair, timeout=60).json()["model_fingerprint"] != first, process
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    _, *lines = requests_log.read_text().splitlines()  # the first one tells the address
    assert {json.loads(line)["status"] for line in lines} == {200}
    assert USERS[0] not in requests_log.read_text() + log.read_text()
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(pair, timeout=5)


def wait_for(condition: object, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
