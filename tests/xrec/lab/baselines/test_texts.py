"""What a baseline writes: greedily, and from one that was written without training."""

import pytest
import torch
from torch import Tensor

from tests.xrec.lab.baselines.conftest import NUM_ITEMS, NUM_USERS, write_untrained
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.lab.baselines.artifact import build_model, read_baseline
from xrec.lab.baselines.codec import END, UNKNOWN
from xrec.lab.baselines.data import TextExample, build_data, collate
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.peter import PETER, TextBatch
from xrec.lab.baselines.texts import write_baseline_texts

PAIRS = [(user, (user + 3) % NUM_ITEMS) for user in range(NUM_USERS)]
V = 10


class Parrot(PETER):
    """User u says u, u + 1, ... and wants to stop once it has said the item's number."""

    def __init__(self) -> None:
        super().__init__(num_users=1, num_items=1, num_tokens=V, embedding_dim=2, num_heads=1)

    def next_logits(self, pairs: TextBatch, token_ids: Tensor) -> Tensor:
        wanted = pairs.users + token_ids.shape[1] - 1
        wanted = torch.where(wanted > pairs.items, END, wanted.clamp(max=V - 1))
        logits = torch.zeros(len(wanted), V)
        logits.scatter_(1, wanted[:, None], 5.0)
        logits[:, UNKNOWN] = 9.0  # never written
        return logits


def _written(users: list[int], items: list[int], max_words: int) -> list[list[int]]:
    pairs = zip(users, items, strict=True)
    return Parrot().write(collate([TextExample(*pair, ()) for pair in pairs]), max_words)


def test_write_each_text_to_its_own_end_or_as_long_as_allowed():
    assert _written([4, 6, 5], [6, 6, 4], 10) == [[4, 5, 6, END], [6, END], [END]]
    assert _written([4, 5], [99, 6], 2) == [[4, 5], [5, 6, END]]
    assert _written([4], [99], 1) == [[4]]


@pytest.mark.usefixtures("processes_here")
def test_texts_are_what_the_model_writes_for_each_pair_alone(make_baseline, dataset, monkeypatch):
    monkeypatch.setattr("xrec.lab.baselines.texts._AT_ONCE", 4)
    baseline = make_baseline()
    write_untrained(baseline, dataset)
    texts, rate = write_baseline_texts(baseline, PAIRS)
    assert len(set(texts)) > 1
    assert rate > 0
    trained = read_baseline(baseline)
    for (user, item), text in zip(PAIRS, texts, strict=True):
        (ids,) = trained.model.write(collate([TextExample(user, item, ())]), trained.max_words)
        assert text == trained.codec.decode(ids)


@pytest.mark.usefixtures("processes_here")
def test_texts_without_a_baseline_and_changed_weights_are_refused(make_baseline, dataset):
    baseline = make_baseline()
    with pytest.raises(ArtifactNotFoundError, match="run xrec lab compare first"):
        write_baseline_texts(baseline, PAIRS)
    write_untrained(baseline, dataset)
    weights = baseline.model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactMismatchError, match="not what the manifest says"):
        write_baseline_texts(baseline, PAIRS)


def test_lora_comes_back_from_its_artifact(make_baseline, dataset):
    pytest.importorskip("peft", reason="the extra compare is not installed")
    baseline = make_baseline("lora")
    written = write_untrained(baseline, dataset)
    assert set(written.inputs) == {"dataset", "base_model"}
    found, data = read_baseline(baseline), build_data(baseline, dataset)
    assert found.codec is None
    assert isinstance(found.model, LoRA)
    batch = data.collate(data.train)
    expected, frozen = found.model(batch), build_model(baseline, data.sizes)(batch)
    assert not torch.allclose(expected, frozen, rtol=1e-3)
