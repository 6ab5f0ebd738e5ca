"""What a submitted job takes along to the cluster: code, config, variables, and named packages.

Code and config lie in one folder: xrec/, jobs/, cluster/ and the config file. Ray sends the folder
to every node that takes part, so it holds no data.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xrec
from xrec.errors import ConfigError

_PACKAGES = ("xrec", "jobs", "cluster")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?==[A-Za-z0-9.!+_-]+")


@contextmanager
def working_folder(config_path: Path) -> Iterator[Path]:
    """Make a temporary folder with the code and the config, which becomes the job's own folder."""
    source = Path(xrec.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(
                source / package,
                folder / package,
                ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
            )
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def runtime_environment(folder: Path, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return Ray's runtime environment for a job with the working folder `folder`.

    The AWS_* variables of this process go along, and no others. pip installs `packages` on each
    node.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": variables}
    if packages:
        environment["pip"] = {"packages": list(packages), "pip_check": False}
    return environment


def read_pinned(path: str) -> list[str]:
    """Return the lines of a requirements file such as requirements/lock.txt, without comments.

    Raises ConfigError if a line is not name==version: without exact versions, a node that joins
    later would install others.
    """
    try:
        lines = [
            line.split(" #")[0].strip()
            for line in Path(path).read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read requirements {path!r} ({error}); expected a text file with "
            "name==version on each line"
        ) from error
    packages = [line for line in lines if line and not line.startswith("#")]
    loose = [package for package in packages if not _PINNED.fullmatch(package)]
    if loose or not packages:
        saw = ", ".join(map(repr, loose)) or "no lines"
        raise ConfigError(
            f"requirements {path!r}: saw {saw}; expected name==version on each line, "
            "as in requirements/lock.txt"
        )
    return packages
