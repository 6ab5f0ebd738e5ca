"""The Dockerfile as text: its paths exist and reach the build, and it runs a command of ours."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.manifests import ROOT, locked, requirements_of

TEXT = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
ALLOWED = {
    line[1:].rstrip("/")
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line.startswith("!")
}


def _stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name, FROM first, as keyword and value."""
    lines = [line for line in TEXT.splitlines() if line.strip() and line.strip()[0] != "#"]
    found: dict[str, list[tuple[str, str]]] = {}
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            found[value.split(" AS ")[1]] = []
        list(found.values())[-1].append((keyword, value))
    return found


STAGES = _stages()
assert list(STAGES) == ["python", "build", "node", "serve"]


def _of(keyword: str, *names: str) -> list[str]:
    return [value for name in names or STAGES for each, value in STAGES[name] if each == keyword]


def test_copy_takes_only_code_and_configs_and_they_are_there():
    code = {"xrec", "jobs", "cluster", "configs", "requirements"}
    assert {*code, "pyproject.toml", "README.md", "LICENSE"} == ALLOWED
    for value in _of("COPY"):
        words = [word for word in value.split() if not word.startswith("--")]
        for source in [] if "--from=" in value else words[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in ALLOWED, source


def test_image_runs_as_a_user_without_rights_and_demands_a_token():
    for names in (["node"], ["node", "serve"]):
        assert _of("USER", *names)[-1] == "1000:1000"
        assert any("RAY_AUTH_MODE=token" in value for value in _of("ENV", *names))
    keywords = [keyword for keyword, _ in STAGES["node"]]
    assert not {"RUN", "COPY"} & set(keywords[keywords.index("USER") :])


def test_base_image_is_pinned_by_digest():
    (base,) = _of("FROM", "python")
    assert re.fullmatch(r"python:3\.11-slim-trixie@sha256:[0-9a-f]{64} AS python", base)
    assert [value.split(" AS ")[0] for value in _of("FROM")[1:]] == ["python", "python", "node"]
    assert all(
        value.split()[0].startswith("--from=build") for value in _of("COPY") if "--from" in value
    )


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_image_installs_packages_by_hash_only(device, tmp_path):
    """Run the commands of the build with a pip that records its arguments."""
    pip = tmp_path / "pip"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    pip.chmod(0o755)
    (tmp_path / "requirements").symlink_to(ROOT / "requirements")
    environment = {
        "PATH": os.environ["PATH"],
        "DEVICE": device,
        "PACKAGES": "base,vllm",
        "CPU_TORCH_INDEX": "https://index",
    }
    for value in _of("RUN", "build"):
        if "/pip install" in value:
            command = value.replace("/opt/xrec/bin/pip", str(pip))
            subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    *packages, own, check = (tmp_path / "asked").read_text().splitlines()
    wheels = "install --no-deps --require-hashes --only-binary :all: "
    torch = {
        "cpu": "--index-url https://index -r requirements/torch-cpu.txt",
        "gpu": "-r requirements/cuda.txt",
    }
    assert packages == [
        wheels + "-r requirements/base.txt",
        wheels + "-r requirements/vllm.txt",
        "install --no-deps --require-hashes --no-build-isolation -r requirements/source.txt",
        wheels + torch[device],
        wheels + "-r parser.txt",
    ]
    assert own == "install --no-deps --no-build-isolation ."
    assert check == "check"
    assert any("PIP_NO_CACHE_DIR=1" in value for value in _of("ENV"))


def test_lists_hold_all_that_an_image_imports_and_no_package_twice():
    lists = [locked(name) for name in ("base", "source", "cuda", "dev", "vllm", "extras")]
    counts = Counter(name for found in lists for name in found)
    assert [name for name, count in counts.items() if count > 1] == ["triton"]
    base, source, cuda, dev, vllm, _ = lists
    assert dev["triton"] == cuda["triton"]
    assert "vllm" in vllm
    assert locked("torch-cpu") == {"torch": f"{cuda['torch']}+cpu"}
    left, seen = ["xrec[gguf]"], set[str]()
    while left:
        for requirement in requirements_of(Requirement(left.pop())):
            name = canonicalize_name(requirement.name)
            assert name in base | source | cuda, requirement
            if name not in seen:
                seen.add(name)
                left.append(str(requirement).partition(";")[0])
    assert len(seen) > 100


@pytest.mark.parametrize("stage", ["node", "serve"])
def test_command_is_one_of_ours(stage):
    (command,) = _of("CMD", stage)
    words = json.loads(command)
    assert words[0] == "xrec"
    subprocess.run([sys.executable, "-m", "xrec.cli", words[1], "--help"], check=True)


def test_healthcheck_asks_the_endpoint_alone():
    assert not _of("HEALTHCHECK", "build", "node")
    (check,) = _of("HEALTHCHECK", "serve")
    command = json.loads(check[check.index("[") :])
    assert (command[0], command[-1]) == ("wget", "http://127.0.0.1:8000/healthz")
    assert any("wget" in value for value in _of("RUN", "node"))


def test_shell_of_every_step_parses():
    for value in _of("RUN"):
        subprocess.run(["bash", "-n", "-c", value], check=True)
        assert shlex.split(value)
