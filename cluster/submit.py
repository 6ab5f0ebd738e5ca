"""A job sent to a Ray cluster: code and config go up, in one folder; no data does.

What the job reads and writes must lie where every node finds it.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xrec
from cluster.jobs import JobServer
from xrec.config.jobs import ARTIFACTS
from xrec.config.shared import JobConfig
from xrec.errors import ConfigError

_PACKAGES = ("xrec", "jobs", "cluster")
_URI_KEYS = frozenset(
    {
        *("workspace", "uri", "carry_from", "interactions", "users", "items"),
        *("pairs", "unsafe_words", "prompts", "answers"),
        *ARTIFACTS,
    }
)
_NAME_KEYS = frozenset({"files", "columns"})  # what stands below them is below `uri`


def submit_job(
    server: JobServer, config_path: Path, command: Sequence[str], packages: str | None = None
) -> str:
    """Start `xrec COMMAND` on the cluster, and return the submission id.

    The project file `config_path` goes along by its name. The AWS_* variables of this process go
    with the job, and no others. `packages` is a requirements file, whose packages are installed for
    it on each node. Raises ClusterError.
    """
    with working_folder(config_path) as folder, server.errors():
        return str(
            server.client.submit_job(
                entrypoint=f"python -m xrec.cli {shlex.join(command)}",
                runtime_env=runtime_environment(folder, packages),
            )
        )


@contextmanager
def working_folder(config_path: Path) -> Iterator[Path]:
    """Make a temporary folder with the code and the config, which becomes the job's own folder."""
    source = Path(xrec.__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with tempfile.TemporaryDirectory(prefix="xrec-submit-") as name:
        folder = Path(name)
        for package in _PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=ignored)
        shutil.copy(config_path, folder / config_path.name)
        yield folder


def runtime_environment(folder: Path, packages: str | None = None) -> dict[str, Any]:
    """Return Ray's runtime environment for a job with the working folder `folder`.

    Raises ConfigError if there is no file `packages`.
    """
    if packages and not Path(packages).is_file():
        raise ConfigError(
            f"packages {packages!r}: no such file; expected a requirements file, such as "
            "requirements/lock.txt"
        )
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment: dict[str, Any] = {"working_dir": str(folder), "env_vars": variables}
    return {**environment, "pip": packages} if packages else environment


def check_shared_paths(config: JobConfig) -> None:
    """Raise ConfigError if `config` names a relative path.

    It would lie in the job's own folder on the cluster, which is deleted after the job.
    """
    relative = [
        f"{key}={value}"
        for key, value in _uris(config.model_dump())
        if "://" not in value and not os.path.isabs(value)
    ]
    if relative:
        raise ConfigError(
            f"relative path {', '.join(relative)}: a submitted job has a folder of its own on the "
            "cluster, which is deleted; give an s3:// URI, or an absolute path on a disk that all "
            "nodes share"
        )


def _uris(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for name, value in values.items():
            if name not in _NAME_KEYS:
                # What stands below `prompts` are files of prompts, whatever their keys.
                yield from _uris(value, key if key == "prompts" else name)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _uris(value, key)
    elif isinstance(values, str) and (key in _URI_KEYS or _is_local_model(key, values)):
        yield key, values


def _is_local_model(key: str, value: str) -> bool:
    """Whether it names a folder of a language model, and no hub id: both may look like a/b."""
    return key == "model" and (value.startswith(".") or os.path.isdir(value))
