"""The clusters that run on this machine by `xrec cluster up`: a small file each, so that later commands find them by name.

$XDG_STATE_HOME/xrec/clusters/<name>.json      (without XDG_STATE_HOME: ~/.local/state)
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.node import NodeProcess
from xrec.errors import ClusterError, ConfigError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")
_RAY_WORDS = frozenset({"auto", "local"})  # mean something else to ray.init


class LocalCluster(BaseModel):
    """Ray nodes on this machine: the head, then the workers. `environment` holds the variables by which a client proves that it may use them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What `--address` and `ray.address` call it.")
    address: str = Field(description="host:port for ray.address.")
    dashboard_url: str = Field(description="URL of dashboard and job server.")
    folder: str = Field(description="Temporary folder of logs, sessions and the token.")
    token_path: str = Field(description="File with the token.")
    nodes: tuple[NodeProcess, ...] = Field((), description="The nodes, head first.")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of a client."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_path}


def check_name(name: str) -> None:
    """Raise ConfigError if no cluster can be called `name`."""
    if not is_name(name):
        raise ConfigError(
            f"cluster name {name!r}: expected a-z, 0-9 and hyphens, a letter first, at most 30, and neither 'auto' nor 'local'"
        )


def is_name(text: str) -> bool:
    """Whether `text` can be a cluster's name; an address cannot."""
    return bool(_NAME.fullmatch(text)) and text not in _RAY_WORDS


def claim(name: str) -> None:
    """Take `name` for a cluster that is to be started; raises ClusterError if it is taken."""
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.touch(exist_ok=False, mode=0o600)
    except FileExistsError as error:
        raise ClusterError(
            f"cluster {name!r} was brought up already; end it with `xrec cluster down --name {name}`, or give another --name"
        ) from error


def save(cluster: LocalCluster) -> None:
    """Write what is known of a claimed cluster."""
    path = _path(cluster.name)
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(cluster.model_dump_json(indent=2), encoding="utf-8")
    new.replace(path)


def forget(name: str) -> None:
    """Give the name free."""
    _path(name).unlink(missing_ok=True)


def find(name: str) -> LocalCluster | None:
    """The cluster `name`; None if there is none, or if it has only been claimed."""
    try:
        text = _path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return LocalCluster.model_validate_json(text) if text else None
    except ValidationError as error:
        raise ClusterError(
            f"{_path(name)}: not a record of this version of xrec ({error.error_count()} errors); delete it"
        ) from error


def names() -> list[str]:
    """The names that are taken, sorted."""
    return sorted(path.stem for path in _state_folder().glob("*.json"))


def _path(name: str) -> Path:
    return _state_folder() / f"{name}.json"


def _state_folder() -> Path:
    return (
        Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        / "xrec"
        / "clusters"
    )
