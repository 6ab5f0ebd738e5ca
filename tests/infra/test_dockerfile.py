"""The Dockerfile as text: its paths exist and reach the build, and it runs a command of ours.

The steps themselves are run by test_dockerfile_steps.py (slow), without a container engine.
"""

import fnmatch
import json
import re
import shlex
import subprocess
import sys

import pytest

from tests.infra.dockerfile import DOCKERFILE, Instruction, instructions, stages
from tests.infra.manifests import ROOT


def _of(keyword: str) -> list[Instruction]:
    return [each for each in instructions() if each.keyword == keyword]


def test_stages_are_those_that_the_head_and_the_overlays_name() -> None:
    assert list(stages()) == ["build", "node", "serve"]
    head = "".join(
        line for line in DOCKERFILE.read_text().splitlines(keepends=True) if line.startswith("#")
    )
    assert set(re.findall(r"--target (\w+)", head)) == {"node", "serve"}


def test_base_is_the_python_that_the_project_needs_without_a_moving_distribution() -> None:
    images = {each.value.split()[0] for each in _of("FROM")} - set(stages())
    assert images == {"python:3.11-slim-trixie"}


def test_copy_takes_only_what_is_there_and_not_ignored() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    allowed = [line[1:].rstrip("/") for line in rules if line.startswith("!")]
    assert rules[0] == "*"
    for each in _of("COPY"):
        words = [word for word in each.value.split() if not word.startswith("--")]
        if "--from=" in each.value:
            continue
        for source in words[:-1]:
            assert (ROOT / source).exists(), source
            assert any(
                fnmatch.fnmatch(source.rstrip("/").split("/")[0], pattern) for pattern in allowed
            ), source


def test_ignored_is_everything_but_code_and_configs() -> None:
    allowed = {
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert allowed == {
        "requirements",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "xrec",
        "jobs",
        "cluster",
        "configs",
    }


def test_image_runs_as_a_user_without_rights_and_demands_a_token() -> None:
    for name in ("node", "serve"):
        parents = {"node": ["node"], "serve": ["node", "serve"]}[name]
        steps = [step for parent in parents for step in stages()[parent]]
        assert [step.value for step in steps if step.keyword == "USER"][-1] == "1000:1000"
        assert any("RAY_AUTH_MODE=token" in step.value for step in steps if step.keyword == "ENV")
    after_user = False
    for step in stages()["node"]:
        after_user = after_user or step.keyword == "USER"
        assert not (after_user and step.keyword in ("RUN", "COPY"))


def test_packages_are_installed_at_the_locked_versions_and_in_no_cache() -> None:
    installs = [
        command for step in _of("RUN") for command in re.findall(r"pip install [^&]+", step.value)
    ]
    assert len(installs) == 2
    assert "--constraint requirements/lock.txt" in installs[0]
    assert "--no-deps" in installs[1]
    assert any("PIP_NO_CACHE_DIR=1" in step.value for step in _of("ENV"))
    from importlib.metadata import metadata

    assert ".[$EXTRAS]" in installs[0]
    (default,) = [step.value for step in _of("ARG") if step.value.startswith("EXTRAS=")]
    named = {default, *re.findall(r"--build-arg (EXTRAS=[\w,]+)", DOCKERFILE.read_text())}
    extras = {extra for each in named for extra in each.removeprefix("EXTRAS=").split(",")}
    assert {"evaluate", "gguf", "vllm"} <= extras
    assert extras <= set(metadata("xrec").get_all("Provides-Extra") or [])


def test_lock_pins_every_package_that_the_image_installs() -> None:
    """Follow the requirements of the image's packages through what is installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lock = {
        canonicalize_name(line.split("==")[0])
        for line in (ROOT / "requirements" / "lock.txt").read_text().splitlines()
        if "==" in line
    }
    seen: set[str] = set()
    left = [Requirement("xrec[evaluate,gguf]")]
    while left:
        wanted = left.pop()
        for requirement in _requirements(wanted):
            name = canonicalize_name(requirement.name)
            if name not in seen:
                seen.add(name)
                left.append(requirement)
    assert len(seen) > 100
    # torch pins the versions of CUDA's libraries itself.
    assert {
        name
        for name in seen - lock
        if not name.startswith(("nvidia-", "cuda-")) and name != "triton"
    } == set()


def _requirements(wanted: "object") -> "list[object]":
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    assert isinstance(wanted, Requirement)
    try:
        lines = requires(wanted.name) or []
    except PackageNotFoundError:  # a package for another platform
        return []
    found = [Requirement(line) for line in lines]
    extras = wanted.extras or {""}
    return [
        each
        for each in found
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras)
    ]


@pytest.mark.parametrize("stage", ["node", "serve"])
def test_command_is_one_of_ours(stage: str) -> None:
    (command,) = [step.value for step in stages()[stage] if step.keyword == "CMD"]
    words = json.loads(command)
    assert words[0] == "xrec"
    if stage == "serve":
        pytest.importorskip("xrec.serve.app", reason="the endpoint is not in this checkout")
    done = subprocess.run(
        [sys.executable, "-m", "xrec.cli", words[1], "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_healthcheck_asks_the_endpoint_alone() -> None:
    assert [
        name
        for name, steps in stages().items()
        if any(step.keyword == "HEALTHCHECK" for step in steps)
    ] == ["serve"]
    (check,) = _of("HEALTHCHECK")
    command = json.loads(check.value[check.value.index("[") :])
    assert command[0] == "wget"
    assert command[-1] == "http://127.0.0.1:8000/healthz"
    assert any("wget" in step.value for step in stages()["node"] if step.keyword == "RUN")


def test_shell_of_every_step_parses() -> None:
    for step in _of("RUN"):
        done = subprocess.run(
            ["bash", "-n", "-c", step.value], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert shlex.split(step.value)
