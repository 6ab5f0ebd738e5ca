"""The environment: metadata, lock, set-up and image say the same about Python and packages."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.infra.manifests import ROOT

PYTHONS = ["3.11", "3.12", "3.13"]


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _lock() -> dict[str, str]:
    lines = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def _requirements(project: dict[str, object]) -> list[Requirement]:
    """All dependencies, those of the extras too."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    lines = [*project["dependencies"], *(line for each in extras.values() for line in each)]
    return [Requirement(line) for line in lines]


def test_pythons_are_the_same_in_metadata_set_up_checks_and_image(pyproject):
    project, tools = pyproject["project"], pyproject["tool"]
    allowed = SpecifierSet(str(project["requires-python"]))
    minors = [f"3.{minor}" for minor in range(8, 20)]
    assert [each for each in minors if f"{each}.5" in allowed] == PYTHONS
    named = re.findall(r"Programming Language :: Python :: ([\d.]+)", str(project["classifiers"]))
    assert named == PYTHONS
    assert tools["mypy"]["python_version"] == PYTHONS[0]
    assert tools["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    set_up = _text("requirements/setup.sh")
    pattern = re.search(r"=~ (\^\S+\$)", set_up)
    assert pattern
    assert [each for each in minors if re.match(pattern[1], each)] == PYTHONS
    assert re.findall(r"python(3\.\d+) ", set_up.split("candidates=")[1].splitlines()[0]) == PYTHONS
    images = re.findall(r"^FROM python:([\d.]+)", _text("infra/docker/Dockerfile"), re.MULTILINE)
    assert images
    assert set(images) <= set(PYTHONS)


def test_lock_has_a_version_that_fits_for_every_dependency(pyproject):
    lock = _lock()
    for requirement in _requirements(pyproject["project"]):
        version = lock[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement


def test_extra_vllm_leaves_out_the_versions_that_cannot_serve_us(pyproject):
    (vllm,) = [each for each in _requirements(pyproject["project"]) if each.name == "vllm"]
    assert all(each in vllm.specifier for each in ("0.29.0", "0.30.0", "0.32.0"))
    assert not [each for each in ("0.28.0", "0.33.0") if each in vllm.specifier]


def test_ci_calls_the_makefiles_targets_and_survives_a_machine_without_apt(tmp_path):
    """Run with a PATH on which there is no apt-get, and a `make` that notes its targets."""
    for name in ("bash", "dirname", "id", "env"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": str(tmp_path)}
    subprocess.run([str(ROOT / ".ci" / "run")], env=environment, check=True, timeout=60)
    assert (tmp_path / "asked").read_text().split() == ["check", "test"]


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
