"""Records of the clusters that `xrec cluster up` started on this machine.

Each has a small file, so that later commands find it by its name:
$XDG_STATE_HOME/xrec/clusters/<name>.json, where XDG_STATE_HOME is ~/.local/state if it is not set.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.node import NodeProcess
from xrec.errors import ClusterError, ConfigError

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}")
_RAY_WORDS = frozenset({"auto", "local"})  # addresses with a meaning of their own in ray.init


class LocalCluster(BaseModel):
    """A cluster of Ray nodes on this machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the cluster, for `--address` and `ray.address`.")
    address: str = Field(description="Address of the head as host:port, for ray.address.")
    dashboard_url: str = Field(description="URL of the dashboard, which is also the job server.")
    folder: str = Field(description="Temporary folder with logs, sessions and the token.")
    token_path: str = Field(description="Path of the file with the token.")
    nodes: tuple[NodeProcess, ...] = Field((), description="The nodes, the head first.")

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that a client needs so that the cluster lets it in."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": self.token_path}


def check_name(name: str) -> None:
    """Raise ConfigError if `name` is not allowed as the name of a cluster."""
    if not is_name(name):
        raise ConfigError(
            f"cluster name {name!r}: expected at most 30 of a-z, 0-9 and hyphens, beginning with "
            "a letter, and neither 'auto' nor 'local'"
        )


def is_name(text: str) -> bool:
    """Whether `text` is allowed as the name of a cluster; no address is."""
    return bool(_NAME.fullmatch(text)) and text not in _RAY_WORDS


def claim(name: str) -> None:
    """Reserve `name` for a cluster that will be started; raises ClusterError if it is taken."""
    path = _path(name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        path.touch(exist_ok=False, mode=0o600)
    except FileExistsError as error:
        raise ClusterError(
            f"a cluster {name!r} was started already; stop it with "
            f"`xrec cluster down --name {name}`, or give another --name"
        ) from error


def save(cluster: LocalCluster) -> None:
    """Write the record of a cluster whose name is reserved, in place of an earlier one."""
    path = _path(cluster.name)
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(cluster.model_dump_json(indent=2), encoding="utf-8")
    new.replace(path)


def forget(name: str) -> None:
    """Delete the record, so that the name is free; if there is none, nothing happens."""
    _path(name).unlink(missing_ok=True)


def find(name: str) -> LocalCluster | None:
    """Return the cluster `name`, or None if there is none or its name is only reserved.

    Raises ClusterError if its record was written by another version of xrec.
    """
    try:
        text = _path(name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return LocalCluster.model_validate_json(text) if text else None
    except ValidationError as error:
        raise ClusterError(
            f"{_path(name)}: not a record of this version of xrec ({error.error_count()} errors); "
            "delete the file"
        ) from error


def names() -> list[str]:
    """Return the names that are taken, sorted."""
    return sorted(path.stem for path in _state_folder().glob("*.json"))


def _path(name: str) -> Path:
    return _state_folder() / f"{name}.json"


def _state_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "xrec" / "clusters"
