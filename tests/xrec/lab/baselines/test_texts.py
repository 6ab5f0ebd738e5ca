"""What a baseline writes, from one that was written without training."""

from typing import Any

import pytest
import torch

from tests.xrec.lab.baselines.conftest import NUM_ITEMS, NUM_USERS, MakeBaseline
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.lab.baselines import Baseline, write_baseline_texts
from xrec.lab.baselines.artifact import read_baseline, write_baseline
from xrec.lab.baselines.batch import collate_pairs
from xrec.lab.baselines.build import Sizes, build_model
from xrec.lab.baselines.data import build_data
from xrec.lab.baselines.models.lora import LoRA
from xrec.lab.baselines.models.model import Writer
from xrec.lab.baselines.train import baseline_identity
from xrec.lab.baselines.write import write_greedily
from xrec.storage import Manifest

PAIRS = [(user, (user + 3) % NUM_ITEMS) for user in range(NUM_USERS)]


def write_untrained(baseline: Baseline, dataset: Dataset) -> Manifest:
    """Write an untrained baseline at its place, with 0.1 in place of a LoRA's zeros."""
    data = build_data(baseline, dataset)
    model = build_model(baseline, Sizes.of(data))
    settings, inputs = baseline_identity(baseline)
    parameters = {
        name: torch.full_like(each, 0.1) if "lora_B" in name else each.detach()
        for name, each in model.named_parameters()
        if each.requires_grad
    }
    about: dict[str, Any] = {"settings": settings, "inputs": inputs, "metrics": {}}
    return write_baseline(baseline, data, parameters, [], **about)


@pytest.mark.usefixtures("processes_here")
@pytest.mark.parametrize("kind", ["att2seq", "pepler"])
def test_texts_are_what_the_model_writes_for_each_pair_alone(
    kind: str, make_baseline: MakeBaseline, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrec.lab.baselines.texts._AT_ONCE", 4)
    baseline = make_baseline(kind)
    about = write_untrained(baseline, dataset)
    assert ("words.json" in about.files) is (kind == "att2seq")
    texts, rate = write_baseline_texts(baseline, PAIRS)
    assert len(set(texts)) > 1 or kind == "att2seq"
    assert rate > 0
    trained = read_baseline(baseline)
    assert isinstance(trained.model, Writer)
    assert trained.codec is not None
    for (user, item), text in zip(PAIRS, texts, strict=True):
        (ids,) = write_greedily(
            trained.model,
            collate_pairs([user], [item], [()]),
            end_ids=trained.codec.end_ids,
            never_written=trained.codec.never_written,
            max_tokens=trained.max_words,
        )
        assert text == trained.codec.decode(ids)


@pytest.mark.usefixtures("processes_here")
def test_texts_without_a_baseline_and_changed_weights_are_refused(
    make_baseline: MakeBaseline, dataset: Dataset
) -> None:
    baseline = make_baseline()
    with pytest.raises(ArtifactNotFoundError, match="run xrec lab compare first"):
        write_baseline_texts(baseline, PAIRS)
    write_untrained(baseline, dataset)
    weights = baseline.model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactMismatchError, match="not what the manifest says"):
        write_baseline_texts(baseline, PAIRS)


def test_lora_comes_back_from_its_artifact_and_is_merged(
    make_baseline: MakeBaseline, dataset: Dataset
) -> None:
    pytest.importorskip("peft", reason="the extra compare is not installed")
    baseline = make_baseline("lora")
    written = write_untrained(baseline, dataset)
    assert set(written.inputs) == {"dataset", "base_model"}
    found, data = read_baseline(baseline), build_data(baseline, dataset)
    assert found.codec is None
    assert isinstance(found.model, LoRA)
    batch = data.collate(data.train)
    expected, frozen = found.model(batch), build_model(baseline, Sizes.of(data))(batch)
    assert not torch.allclose(expected, frozen, rtol=1e-3)
    merged = found.model.merged()
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    assert torch.allclose(found.model(batch), expected, rtol=1e-4)
