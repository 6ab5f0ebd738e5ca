"""Runs the Dockerfile's steps in clean roots, with chroot in place of a container.

In place of the base image there is the same Debian, made by debootstrap, with this machine's
Python in /usr/local. DEVICE is cpu, and packages come from this machine's own index. Not run are
the docker daemon and BuildKit, the pull of the real base image, DEVICE=gpu and HEALTHCHECK.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.infra.dockerfile import Instruction, stages
from tests.infra.manifests import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

# The libraries that the base image's Python links to.
_LIBRARIES = (
    "ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libreadline8t64,libsqlite3-0,"
    "libssl3t64,libuuid1,zlib1g"
)
# How this machine reaches packages. A build of an image uses its host's network.
_NETWORK = (
    "/etc/resolv.conf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/xdg/pip",
    "/etc/pip.conf",
    "/opt/wheels",
    "/etc/apt/apt.conf.d",
)
_PASSED = (
    "PIP_",
    "SSL_CERT",
    "REQUESTS_CA",
    "http_proxy",
    "https_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "no_proxy",
)
_ARGUMENTS = {"DEVICE": "cpu", "CPU_TORCH_INDEX": "file:///opt/wheels"}


class Root:
    """A folder in which a stage of the image is built."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.variables: dict[str, str] = {}
        self._arguments: dict[str, str] = {}
        self._workdir = "/"
        self._user = "0:0"

    def build(self, steps: list[Instruction], others: Mapping[str, "Root"]) -> None:
        """Run the steps of a stage; `others` are the stages before it."""
        for step in steps:
            if step.keyword == "RUN":
                self.run(step.value)
            elif step.keyword == "COPY":
                self._copy(shlex.split(step.value), others)
            elif step.keyword == "ENV":
                self._set(step.value)
            elif step.keyword == "ARG":
                name, _, default = step.value.partition("=")
                self._arguments[name] = _ARGUMENTS.get(name, default)
            elif step.keyword == "WORKDIR":
                self._workdir = step.value
                self._inside(step.value).mkdir(parents=True, exist_ok=True)
            elif step.keyword == "USER":
                self._user = step.value

    def run(self, command: str) -> str:
        """Run a shell command as the stage's user, with /proc and /dev; returns what it prints.

        Fails with the command's output if the command fails.
        """
        variables = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": "/root" if self._user == "0:0" else "/home/xrec",
        }
        passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        environment = {**variables, **passed, **self._arguments, **self.variables}
        root = shlex.quote(str(self.folder))
        inner = f"cd {shlex.quote(self._workdir)} && {command}"
        mounts = f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
        chroot = f"chroot --userspec={self._user} {root} /bin/sh -c {shlex.quote(inner)}"
        script = f"{mounts} && exec {chroot}"
        done = subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-c", script],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def _set(self, value: str) -> None:
        for word in shlex.split(value):
            name, _, text = word.partition("=")
            self.variables[name] = text.replace(
                "$PATH", self.variables.get("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            )

    def _copy(self, words: list[str], others: Mapping[str, "Root"]) -> None:
        options = dict(word[2:].split("=") for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        for source in sources:
            begin = (
                others[options["from"]].folder / source.lstrip("/")
                if "from" in options
                else ROOT / source
            )
            end = self._inside(target)
            if begin.is_dir():
                shutil.copytree(
                    begin,
                    end,
                    symlinks=True,
                    dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
                )
            else:
                end = end / begin.name if target.endswith("/") else end
                end.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(begin, end)

    def _inside(self, path: str) -> Path:
        return self.folder / (path if path.startswith("/") else f"{self._workdir}/{path}").lstrip(
            "/"
        )


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Root]]:
    """Build the stages `build` and `node`."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap: apt-get install debootstrap")
    folder = tmp_path_factory.mktemp("roots")
    base = _debian(folder / "base")
    made: dict[str, Root] = {}
    for name in ("build", "node"):
        # Devices are not copied: /dev/full, read as a file, has no end.
        shutil.copytree(base, folder / name, symlinks=True, ignore=_devices)
        root = Root(folder / name)
        root.build(stages()[name], made)
        made[name] = root
    yield made
    shutil.rmtree(folder, ignore_errors=True)


def _debian(base: Path) -> Path:
    """Make what stands for the base image: a Debian with this machine's Python and its network."""
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={_LIBRARIES}",
        "trixie",
        str(base),
        "http://deb.debian.org/debian",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    shutil.copytree(
        sys.base_prefix,
        base / "usr/local",
        symlinks=True,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__", "test", "site-packages"),
    )
    # The base image does this after it has built Python.
    subprocess.run(["chroot", str(base), "ldconfig"], check=True)
    for name in _NETWORK:
        if Path(name).is_dir():
            shutil.copytree(name, base / name[1:], dirs_exist_ok=True)
        elif Path(name).exists():
            shutil.copy2(name, base / name[1:])
    return base


def _devices(folder: str, names: list[str]) -> list[str]:
    return names if Path(folder).name == "dev" else []


def test_node_runs_commands_and_a_job_as_a_user_without_rights(roots: dict[str, Root]) -> None:
    node = roots["node"]
    assert node.run("id -u").strip() == "1000"
    assert "pretrain-graph" in node.run("xrec --help")
    assert "Python 3." in node.run("python --version")
    made = node.run(
        "xrec prepare /opt/xrec/configs/sample.yaml workspace=/tmp/town source.num_users=20"
    )
    assert "dataset: /tmp/town/dataset" in made
    assert node.run("wget --version").startswith("GNU Wget")


def test_node_has_the_locked_versions_and_can_import_what_jobs_need(roots: dict[str, Root]) -> None:
    lock = {
        line.split("==")[0].lower().replace("_", "-"): line.split("==")[1]
        for line in (ROOT / "requirements/lock.txt").read_text().splitlines()
        if "==" in line
    }
    listed = roots["node"].run("python -m pip list --format=freeze --disable-pip-version-check")
    installed = {
        line.split("==")[0].lower().replace("_", "-"): line.split("==")[1].split("+")[0]
        for line in listed.splitlines()
    }
    assert {
        name: version
        for name, version in installed.items()
        if name not in ("xrec", "pip") and lock.get(name) != version
    } == {}
    modules = "ray, ray.serve, deepspeed, torch, xrec.backfill, jobs.backfill, cluster.preflight"
    assert "ok" in roots["node"].run(f"python -c 'import {modules}; print(\"ok\")'")


def test_node_may_write_nothing_of_the_program(roots: dict[str, Root]) -> None:
    found = roots["node"].run("find /opt/xrec /etc /usr -writable -not -type l | head")
    assert found.strip() == ""
