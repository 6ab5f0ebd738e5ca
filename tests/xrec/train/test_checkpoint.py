"""Checkpoints belong to one run: the first that comes claims the folder, another is refused and told what differs."""

import json
from pathlib import Path

import pytest

from xrec.errors import ArtifactMismatchError
from xrec.storage import open_location
from xrec.train.checkpoint import claim, progress_values

CONFIG = {"training": {"seed": 0, "num_epochs": 2}}
INPUTS = {"dataset": "d1", "graph": "g1"}


def test_claim_is_new_once_and_then_this_runs(tmp_path: Path) -> None:
    folder = open_location(str(tmp_path / "checkpoints"))
    assert not claim(folder, "adapter", CONFIG, INPUTS)
    assert claim(folder, "adapter", CONFIG, INPUTS)


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({"training": {"seed": 7, "num_epochs": 2}}, INPUTS, r"training\.seed: 0 there, 7 here"),
        (CONFIG, {**INPUTS, "graph": "g2"}, r"inputs\.graph: 'g1' there, 'g2' here"),
    ],
)
def test_claim_by_another_run_is_refused_with_field_and_both_values(
    tmp_path: Path, config: dict[str, object], inputs: dict[str, str], message: str
) -> None:
    folder = open_location(str(tmp_path / "checkpoints"))
    claim(folder, "adapter", CONFIG, INPUTS)
    with pytest.raises(ArtifactMismatchError, match=message):
        claim(folder, "adapter", config, inputs)


def test_progress_values_of_another_run_are_refused() -> None:
    data = json.dumps({"run": "r1", "step": 3}).encode()
    assert progress_values(lambda name: data, "r1") == {"run": "r1", "step": 3}
    with pytest.raises(ArtifactMismatchError, match="of run r1, this is run r2"):
        progress_values(lambda name: data, "r2")
    with pytest.raises(ArtifactMismatchError, match=r"of run \(not named\), this is run r2"):
        progress_values(lambda name: b"{}", "r2")
