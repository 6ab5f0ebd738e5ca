"""The Dockerfile as text: its paths exist and reach the build, and it runs a command of ours."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import metadata

import pytest

from tests.infra.manifests import ROOT

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


def test_packages_are_installed_at_the_locked_versions_and_in_no_cache():
    installs = [each for value in _of("RUN") for each in re.findall(r"pip install [^&]+", value)]
    packages, parser, own = installs
    assert "--constraint requirements/lock.txt" in packages
    assert ".[$EXTRAS]" in packages
    assert "--no-deps --require-hashes" in parser
    assert "--no-deps" in own
    assert any("PIP_NO_CACHE_DIR=1" in value for value in _of("ENV"))
    named = re.findall(r"(?:--build-arg |ARG )EXTRAS=([\w,]+)", TEXT)
    extras = {extra for each in named for extra in each.split(",")}
    assert {"evaluate", "gguf", "vllm"} <= extras
    assert extras <= set(metadata("xrec").get_all("Provides-Extra") or [])


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
