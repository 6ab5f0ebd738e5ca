"""The records of local clusters: one for each name, readable by the user only."""

from pathlib import Path

import pytest

from cluster import record
from cluster.node import NodeProcess
from cluster.record import LocalCluster
from xrec.errors import ClusterError, ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def _cluster(name: str, *nodes: NodeProcess) -> LocalCluster:
    return LocalCluster(
        name=name,
        address="127.0.0.2:1",
        dashboard_url="http://127.0.0.1:1",
        folder="/tmp/x",
        token_path="/tmp/x/t",
        nodes=nodes,
    )


def test_record_saved_is_found_and_forgotten(home: Path) -> None:
    record.claim("dev")
    assert record.names() == ["dev"]
    assert record.find("dev") is None  # the name is reserved, and nothing is recorded yet
    cluster = _cluster("dev", NodeProcess(pid=1, address="127.0.0.2", folder="/tmp/x/0"))
    record.save(cluster)
    assert record.find("dev") == cluster
    (file,) = (home / "xrec" / "clusters").iterdir()
    assert file.stat().st_mode & 0o077 == 0
    record.forget("dev")
    assert record.names() == []


def test_claim_twice_is_refused() -> None:
    record.claim("dev")
    with pytest.raises(ClusterError, match="xrec cluster down --name dev"):
        record.claim("dev")


def test_find_a_record_of_another_version_says_which_file(home: Path) -> None:
    record.claim("dev")
    (home / "xrec" / "clusters" / "dev.json").write_text('{"pid": 4}')
    with pytest.raises(ClusterError, match=r"dev\.json"):
        record.find("dev")


def test_state_lies_below_home_without_the_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(home))
    record.claim("dev")
    assert (home / ".local" / "state" / "xrec" / "clusters" / "dev.json").exists()


@pytest.mark.parametrize(
    "name", ["", "auto", "local", "A", "9a", "a b", "a:1", "http://a", "a" * 31, "../a"]
)
def test_check_name_refuses_what_may_be_an_address_or_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match="cluster name"):
        record.check_name(name)
