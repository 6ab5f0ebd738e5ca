"""Which cluster a name, a URL, or no address stands for."""

from pathlib import Path

import pytest

from cluster.address import job_server
from cluster.record import LocalCluster
from xrec.errors import ConfigError


def test_job_server_by_name_has_the_clusters_own_token_whatever_is_set(
    three_nodes: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    server = job_server(three_nodes.name)
    assert server.url == three_nodes.dashboard_url
    assert server.headers == {"Authorization": "Bearer " + Path(three_nodes.token_path).read_text()}


@pytest.mark.parametrize("address", ["http://10.0.0.5:8265", "10.0.0.5:8265"])
def test_job_server_by_url_or_host_and_port_has_the_users_token(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    server = job_server(address)
    assert (server.url, server.headers, server.local) == (
        "http://10.0.0.5:8265",
        {"Authorization": "Bearer mine"},
        None,
    )


def test_job_server_unknown_name_lists_the_names_there_are(three_nodes: LocalCluster) -> None:
    with pytest.raises(ConfigError, match=r"'other'.*three.*host:port"):
        job_server("other")


def test_job_server_none_named_is_the_only_one_here_or_an_error(
    three_nodes: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job_server(None).url == three_nodes.dashboard_url
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="--address"):
        job_server(None)
