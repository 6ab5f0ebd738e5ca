"""What `auto` becomes is what the cluster has, whatever the driver's machine has."""

import pytest

from tests.xrec.compare.conftest import MakeConfig
from xrec.compare.computed import Computed, as_recorded, computation_of_a_process, computed_on_ray
from xrec.compare.identity import comparison_identity
from xrec.errors import ModelError
from xrec.generate.choice import computation

OF_CPU = {"dtype": "float32", "device": "cpu", "engine": "builtin"}


def cluster_has(num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": float(num_gpus)})


@pytest.mark.parametrize(
    ("device", "num_gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cpu", 1, "cpu"), ("cuda", 0, "cuda")],
)
@pytest.mark.parametrize("driver_has_gpu", [False, True])
def test_scores_are_computed_on_what_the_cluster_has(
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    num_gpus: int,
    expected: str,
    driver_has_gpu: bool,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: driver_has_gpu)
    cluster_has(num_gpus, monkeypatch)
    assert computed_on_ray(make_config(device=device)) == Computed(expected)


def test_texts_are_computed_on_a_cpu_where_the_cluster_has_too_few_gpus(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    cluster_has(1, monkeypatch)
    config = make_config(
        contestants=["ours"],
        device="auto",
        llm={"model": make_config().language_model.model, "dtype": "auto"},
        actors={"num_actors": 2},
    )
    assert computed_on_ray(config) == Computed("cuda", OF_CPU)


@pytest.mark.usefixtures("ray_cluster")
def test_a_process_of_the_cluster_says_what_texts_are_computed_with_and_not_the_driver(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ModelError, match="this process sees no GPU"):
        computation_of_a_process(make_config(contestants=["ours"]), num_gpus=0)


def test_identity_says_what_auto_became_and_nothing_where_that_is_not_known(
    make_config: MakeConfig,
) -> None:
    config = make_config(contestants=["ours"], device="auto")
    assert config.actors.device == "auto"
    unknown, _ = comparison_identity(config, "model")
    assert (unknown["device"], unknown["computation"]) == (None, None)
    found = Computed("cuda", {**OF_CPU, "device": "cuda"})
    settings, _ = comparison_identity(config, "model", found)
    assert (settings["device"], settings["computation"]) == ("cuda", found.computation)
    recorded = as_recorded(config, settings)
    assert (recorded.device, recorded.actors.device) == ("cuda", "cuda")


def test_identity_of_settings_without_auto_is_known_without_a_cluster(
    make_config: MakeConfig,
) -> None:
    config = make_config(
        contestants=["ours"],
        device="cpu",
        actors={"device": "cpu"},
        engine={"kind": "builtin"},
    )
    settings, _ = comparison_identity(config, "model")
    assert settings["device"] == "cpu"
    expected = computation(config.language_model, "cpu", config.engine, config.storage)
    assert settings["computation"] == expected == OF_CPU
