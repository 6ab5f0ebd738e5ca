"""The Dockerfile as text: its paths exist and reach the build, and it runs a command of ours."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.manifests import ROOT, requirements_of

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
assert list(STAGES) == ["build", "node", "serve"]


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


def test_all_packages_but_torch_for_cpus_are_installed_by_hash_and_in_no_cache():
    installs = [each for value in _of("RUN") for each in re.findall(r"pip install [^&;|]+", value)]
    assert all("--no-deps" in each for each in installs)
    cpu_torch, *others, own = installs
    assert '--index-url "$CPU_TORCH_INDEX" "$torch"' in cpu_torch
    assert [bool("--require-hashes" in each) for each in others] == [True] * 3
    assert own.split()[-1] == "."
    assert any("pip check" in value for value in _of("RUN", "build"))
    assert any("PIP_NO_CACHE_DIR=1" in value for value in _of("ENV"))
    named = re.findall(r"(?:--build-arg |ARG )PACKAGES=([\w,]+)", TEXT)
    assert {name for each in named for name in each.split(",")} == {"base", "vllm"}


def _listed(name: str) -> dict[str, str]:
    """The packages of a list with hashes, and their versions; each must have a hash."""
    text = (ROOT / "requirements" / "images" / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=\w)", text.strip())
    assert all(re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", b) for b in blocks)
    pins = [block.split()[0].partition("==") for block in blocks]
    return {package: version for package, _, version in pins}


def test_lists_with_hashes_have_the_locked_versions_of_all_that_an_image_imports():
    base, cuda, vllm = (_listed(name) for name in ("base", "cuda", "vllm"))
    lock = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    assert all(
        f"{name}=={each}" in lock for found in (base, cuda, vllm) for name, each in found.items()
    )
    assert len(base | cuda | vllm) == len(base) + len(cuda) + len(vllm)
    assert "vllm" in vllm
    left, seen = ["xrec[gguf]"], set[str]()
    while left:
        for requirement in requirements_of(Requirement(left.pop())):
            name = canonicalize_name(requirement.name)
            assert name in base or name in cuda, requirement
            if name not in seen:
                seen.add(name)
                left.append(str(requirement).partition(";")[0])
    assert len(seen) > 100


def test_pin_script_pins_each_base_image_and_refuses_what_is_no_digest(tmp_path):
    digest = "sha256:" + "ab" * 32
    for answer, code in ((digest, 0), (digest.replace("ab", "cd", 1), 0), ("no such image", 1)):
        (tmp_path / "docker").write_text(f"#!/bin/sh\necho '{answer}'\n")
        (tmp_path / "docker").chmod(0o755)
        path = tmp_path / "Dockerfile"
        path.write_text(TEXT if code == 0 else path.read_text())
        command = ["bash", str(ROOT / "infra" / "docker" / "pin.sh"), str(path)]
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        before = path.read_text()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        expected = re.sub(r"^(FROM python:\S+)", rf"\1@{answer}", before, flags=re.MULTILINE)
        assert path.read_text() == (expected if code == 0 else before)
    assert "expected a digest (sha256:...), saw 'no such image'" in done.stderr


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
