"""Workers that ask for more GPUs than there are; the cluster is a stand-in."""

import logging
from typing import Any

import pytest

from xrec.config.shared import ScalingConfig
from xrec.errors import ClusterError
from xrec.train.scaling import uses_gpu


@pytest.fixture
def cluster_of_8_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 64.0, "GPU": 8.0})


def scaling(**changes: Any) -> ScalingConfig:
    return ScalingConfig(**{"device": "cuda", "num_workers": 9, **changes})


@pytest.mark.usefixtures("cluster_of_8_gpus")
def test_uses_gpu_more_than_there_are_is_refused_with_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    with pytest.raises(ClusterError, match="9 workers with a GPU each, and the cluster has 8;"):
        uses_gpu(scaling())
    assert uses_gpu(scaling(num_workers=8))
    assert uses_gpu(scaling(min_workers=8))
    assert not uses_gpu(scaling(device="auto"))


@pytest.mark.usefixtures("cluster_of_8_gpus")
def test_uses_gpu_more_than_there_are_is_a_warning_where_nodes_may_join(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.1")
    with caplog.at_level(logging.WARNING, "xrec"):
        assert uses_gpu(scaling(num_workers=8))
        assert caplog.text == ""
        assert uses_gpu(scaling())
    assert "9 workers with a GPU each, and the cluster has 8: waiting up to 10" in caplog.text
