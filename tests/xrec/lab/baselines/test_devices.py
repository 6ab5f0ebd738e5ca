"""Peers where the device is a GPU that is not there: nothing mixes devices; figures are a CPU's."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.toy import save_toy_model
from tests.xrec.lab.baselines.conftest import MakePeerConfig
from tests.xrec.lab.baselines.test_trainer import texts_of, trainer_of
from xrec.config.baselines import PeerConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.lab.baselines.data import PeerData, build_peer_data
from xrec.storage import open_location

# Without clipping, in which torch itself mixes devices by the rules of the stand-in.
SMALL: dict[str, dict[str, Any]] = {
    "att2seq": {"embedding_dim": 4, "hidden_size": 8, "dropout": 0.0, "gradient_clipping": None},
    "nrt": {"embedding_dim": 4, "hidden_size": 8},
    "peter": {"embedding_dim": 8, "feedforward_size": 8, "dropout": 0.0, "gradient_clipping": None},
    "pepler": {"recommendation": "mlp", "rating_hidden_size": 4},
}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_model(tmp_path_factory.mktemp("llm"))


def _run(config: PeerConfig, data: PeerData, device: torch.device) -> tuple[Any, list[str]]:
    """The rows of two epochs, the second after a checkpoint, and the texts."""
    first = trainer_of(config, data, device=device)
    first.run_epoch()
    second = trainer_of(config, data, device=device)
    second.restore(first.checkpoint().__getitem__)
    second.run_epoch()
    rows = [{**row, "seconds": 0} for row in second.progress.history]
    return rows, texts_of(second, data, device)


@pytest.mark.parametrize("kind", SMALL)
def test_peer_on_a_gpu_learns_and_writes_what_it_does_on_a_cpu(
    kind: str, make_config: MakePeerConfig, rated: str, llm: Path
) -> None:
    values: dict[str, Any] = {kind: SMALL[kind], "llm": {"model": str(llm)}}
    config = make_config(kind=kind, training={"num_epochs": 2}, **values)
    dataset: Dataset = read_dataset(open_location(f"{rated}/dataset"))
    data = build_peer_data(config, dataset)
    expected = _run(config, data, CPU)
    with FakeGPU():
        found = _run(config, data, GPU)
    assert found == expected
