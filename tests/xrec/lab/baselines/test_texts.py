"""What a baseline writes: greedily, and from one that was written without training."""

import pytest
import torch
from torch import Tensor

from tests.xrec.lab.baselines.conftest import NUM_ITEMS, NUM_USERS, MakeBaseline, write_untrained
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.lab.baselines import write_baseline_texts
from xrec.lab.baselines.artifact import Sizes, build_model, read_baseline
from xrec.lab.baselines.data import build_data, collate_pairs
from xrec.lab.baselines.lora import LoRA
from xrec.lab.baselines.model import Pairs, Step, TextBatch, Writer, write_greedily

PAIRS = [(user, (user + 3) % NUM_ITEMS) for user in range(NUM_USERS)]
END, V = 2, 8


class Parrot(Writer):
    """User u says u, u + 1, ... and wants to stop once it has said `stop` of the item."""

    def forward(self, batch: TextBatch) -> Tensor:
        raise NotImplementedError

    def first(self, pairs: Pairs) -> Step:
        return self._say(pairs.users, pairs.items)

    def next(self, step: Step, token_ids: Tensor) -> Step:
        return self._say(token_ids + 1, step.state)

    def _say(self, wanted: Tensor, stops: Tensor) -> Step:
        wanted = torch.where(wanted > stops, END, wanted.clamp(max=V - 1))
        logits = torch.zeros(len(wanted), V)
        logits.scatter_(1, wanted[:, None], 5.0)
        logits[:, 1] = 9.0  # never written
        return Step(logits, stops)


def _written(users: list[int], items: list[int], max_tokens: int) -> list[list[int]]:
    pairs = collate_pairs(users, items, [()] * len(users))
    return write_greedily(Parrot(), pairs, end_ids=[END], never_written=[1], max_tokens=max_tokens)


def test_write_each_text_to_its_own_end() -> None:
    assert _written([3, 5, 4], [5, 5, 3], 10) == [[3, 4, 5, END], [5, END], [END]]


def test_write_a_text_without_an_end_is_as_long_as_allowed() -> None:
    assert _written([3, 4], [99, 5], 2) == [[3, 4], [4, 5, END]]


def test_write_does_not_depend_on_the_pairs_beside() -> None:
    users, items = [3, 5, 4, 6], [5, 5, 7, 7]
    together = _written(users, items, 10)
    alone = [_written([user], [item], 10)[0] for user, item in zip(users, items, strict=True)]
    assert together == alone


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
