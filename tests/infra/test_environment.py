"""The environment: metadata, lock, set-up and image say the same about Python and packages."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.infra.manifests import ROOT, requirements_of

PYTHONS = ["3.11", "3.12", "3.13"]


def test_pythons_are_the_same_in_metadata_set_up_checks_and_image():
    pyproject = tomllib.loads(_text("pyproject.toml"))
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
    workflow = _text(".github/workflows/checks.yml")
    used = re.findall(r"\"(3\.\d+)\"", workflow)
    assert images
    assert used
    assert {*images, *used} <= set(PYTHONS)
    made = re.findall(r"^(\w[\w-]*):", _text("Makefile"), re.MULTILINE)
    assert set(re.findall(r"run: make ([\w-]+)", workflow)) <= set(made)


def test_lock_has_a_version_that_fits_of_every_package_that_is_installed():
    """Follow the requirements of xrec and all its extras through what is installed here."""
    pins = [
        line.split("==") for line in _text("requirements/lock.txt").splitlines() if "==" in line
    ]
    lock = {canonicalize_name(name): version for name, version in pins}
    left = [Requirement(f"xrec[{','.join(metadata('xrec').get_all('Provides-Extra') or [])}]")]
    seen: set[str] = set()
    while left:
        for requirement in requirements_of(left.pop()):
            name = canonicalize_name(requirement.name)
            # torch pins the versions of CUDA's libraries itself.
            if not name.startswith(("nvidia-", "cuda-", "triton")):
                assert lock[name] in requirement.specifier, requirement
            if name not in seen:
                seen.add(name)
                left.append(requirement)
    assert len(seen) > 100


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
