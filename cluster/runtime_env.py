"""What a submitted job has on the cluster: a folder with code and config, variables, and packages if they are named.

The folder holds xrec/, jobs/, cluster/ and the config file, and no data: Ray sends it to every node that takes part.
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
    """A temporary folder with the code and the config, as the job sees it."""
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
    """Ray's runtime environment: working folder `folder`, AWS_* variables of this process, and `packages`, installed by pip on each node."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": variables}
    if packages:
        environment["pip"] = {"packages": list(packages), "pip_check": False}
    return environment


def read_pinned(path: str) -> list[str]:
    """The requirements of a file such as requirements/lock.txt: name==version on each line, nothing else but comments.

    Raises ConfigError: a job whose packages are not pinned has others on a node that comes later.
    """
    try:
        lines = [
            line.split(" #")[0].strip()
            for line in Path(path).read_text(encoding="utf-8").splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"requirements {path!r} cannot be read ({error}); expected a text file of name==version lines"
        ) from error
    packages = [line for line in lines if line and not line.startswith("#")]
    loose = [package for package in packages if not _PINNED.fullmatch(package)]
    if loose or not packages:
        raise ConfigError(
            f"requirements {path!r}: {', '.join(map(repr, loose)) or 'no lines'}; expected name==version on each line, as in requirements/lock.txt"
        )
    return packages
