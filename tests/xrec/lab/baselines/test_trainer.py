"""The training loop, in this process."""

import math
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.xrec.lab.baselines.conftest import MakePeerConfig, explanation
from xrec.config.baselines import PeerConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError, TrainingError
from xrec.lab.baselines.artifact import sizes_of
from xrec.lab.baselines.batch import collate, collate_pairs, example, of_similar_length
from xrec.lab.baselines.build import build_peer
from xrec.lab.baselines.data import PeerData, build_peer_data
from xrec.lab.baselines.trainer import PeerTrainer, Workers
from xrec.lab.baselines.words import END, Words
from xrec.lab.baselines.write import write_greedily
from xrec.storage import open_location

_CPU = torch.device("cpu")


def trainer_of(config: PeerConfig, data: PeerData, **settings: Any) -> PeerTrainer:
    model = build_peer(config, sizes_of(data))
    return PeerTrainer(model, data, config.recipe, config.training, seed=config.seed, **settings)


def texts_of(trainer: PeerTrainer, data: PeerData, device: torch.device = _CPU) -> list[str]:
    """What the trainer's model writes for the training pairs."""
    trainer.model.eval()
    pairs = collate_pairs(
        [each.user_index for each in data.train],
        [each.item_index for each in data.train],
        [each.aspect_ids for each in data.train],
    )
    written = write_greedily(
        trainer.model,
        pairs.to(device),
        end_ids=data.codec.end_ids,
        never_written=data.codec.never_written,
        max_tokens=data.max_words,
    )
    return [data.codec.decode(ids) for ids in written]


OVERFIT: dict[str, dict[str, Any]] = {
    "att2seq": {
        "embedding_dim": 32,
        "hidden_size": 32,
        "num_layers": 2,
        "dropout": 0.0,
        "learning_rate": 0.03,
        "batch_size": 20,
    },
    "nrt": {
        "embedding_dim": 32,
        "hidden_size": 48,
        "num_rating_layers": 2,
        "learning_rate": 0.03,
        "batch_size": 20,
    },
    "peter": {
        "embedding_dim": 32,
        "feedforward_size": 32,
        "dropout": 0.0,
        "batch_size": 20,
        "optimizer": "adam",
        "learning_rate": 0.01,
    },
}


@pytest.mark.parametrize("kind", OVERFIT)
def test_trainer_overfits_twenty_pairs_to_the_letter(
    kind: str, make_config: MakePeerConfig, dataset: Dataset
) -> None:
    training = {"num_epochs": 400, "patience": 400, "max_validation_pairs": 1}
    config = make_config(kind=kind, training=training, **{kind: OVERFIT[kind]})
    data = build_peer_data(config, dataset)
    wanted = [explanation(each.user_index, each.item_index) for each in data.train]
    assert len(set(wanted)) == len(wanted) == 20
    trainer, written = trainer_of(config, data), []
    while written != wanted and not trainer.has_finished:
        for _ in range(20):
            trainer.run_epoch()
        written = texts_of(trainer, data)
    assert written == wanted


def test_trainer_learns_ratings_beside_texts(make_config: MakePeerConfig, rated: str) -> None:
    config = make_config(kind="nrt", nrt=OVERFIT["nrt"], training={"num_epochs": 60})
    data = build_peer_data(config, read_dataset(open_location(f"{rated}/dataset")))
    trainer = trainer_of(config, data)
    batch = collate(data.train)
    with torch.no_grad():
        before = trainer.model(batch)[2].item()
    while not trainer.has_finished:
        trainer.run_epoch()
    with torch.no_grad():
        after = trainer.model(batch)[2].item()
    assert after < 0.5 * before


def test_trainer_stops_early_and_keeps_the_best_epoch(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    recipe = {"embedding_dim": 8, "hidden_size": 16, "learning_rate": 0.05, "dropout": 0.0}
    config = make_config(att2seq=recipe, training={"patience": 2})
    data = build_peer_data(config, dataset)
    trainer, kept = trainer_of(config, data), []
    while not trainer.has_finished:
        trainer.run_epoch()
        kept.append(trainer.best)
    losses = [row["validation_loss"] for row in trainer.progress.history]
    assert len(losses) < 100
    assert min(losses) < losses[-1]
    best = losses.index(min(losses))
    assert trainer.best is kept[best]
    assert all(later is kept[best] for later in kept[best:])


def test_trainer_resumed_after_each_epoch_equals_an_unbroken_one(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    config = make_config(
        att2seq={"embedding_dim": 4, "hidden_size": 8, "dropout": 0.3, "batch_size": 6},
        training={"num_epochs": 3},
    )
    data = build_peer_data(config, dataset)
    unbroken = trainer_of(config, data, run="r")
    while not unbroken.has_finished:
        unbroken.run_epoch()
    files: dict[str, bytes] = {}
    for _ in range(3):
        resumed = trainer_of(config, data, run="r")
        if files:
            resumed.restore(files.__getitem__)
        torch.manual_seed(99)  # no random number may come from before
        resumed.run_epoch()
        files = resumed.checkpoint()
    assert resumed.has_finished
    for row, expected in zip(resumed.progress.history, unbroken.progress.history, strict=True):
        assert {**row, "seconds": 0} == {**expected, "seconds": 0}
    assert all(torch.equal(resumed.best[name], each) for name, each in unbroken.best.items())


def test_trainer_refuses_another_runs_checkpoint(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    config = make_config()
    data = build_peer_data(config, dataset)
    first = trainer_of(config, data, run="one")
    first.run_epoch()
    with pytest.raises(
        ArtifactMismatchError, match="the checkpoint is of run one, this is run two"
    ):
        trainer_of(config, data, run="two").restore(first.checkpoint().__getitem__)


def test_trainer_first_step_of_sgd_follows_the_gradient_of_the_mean_loss(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    config = make_config(
        att2seq={
            "embedding_dim": 4,
            "hidden_size": 8,
            "dropout": 0.0,
            "batch_size": 20,
            "optimizer": "sgd",
            "learning_rate": 0.5,
            "gradient_clipping": None,
        },
    )
    data = build_peer_data(config, dataset)
    model = build_peer(config, sizes_of(data))
    totals = model(collate(data.train))
    (totals[0] / sum(len(each.token_ids) for each in data.train)).backward()
    expected = {name: each - 0.5 * each.grad for name, each in model.named_parameters()}
    trainer = trainer_of(config, data)
    trainer.run_epoch()
    for name, parameter in trainer.model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name


@dataclass
class _Meeting:
    """Where two threads add up their tensors, as workers do."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=30))
    tensors: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Threads(Workers):
    meeting: _Meeting = field(default_factory=_Meeting)

    def add_up(self, tensor: Tensor) -> Tensor:
        self.meeting.tensors[self.rank] = tensor.clone()
        self.meeting.barrier.wait()
        total = self.meeting.tensors[0] + self.meeting.tensors[1]
        self.meeting.barrier.wait()
        return tensor.copy_(total)


def test_passes_have_texts_of_similar_length_and_each_of_them_once() -> None:
    texts = [example(0, 0, range(2, 2 + length), 50, 1) for length in (3, 40, 3, 41, 4, 3) * 8]
    passes = list(of_similar_length(texts, 12))
    lengths = [[len(each.token_ids) for each in of_pass] for of_pass in passes]
    assert sum(map(len, passes)) == len(texts)
    assert [(min(each), max(each), len(each)) for each in lengths] == [
        (4, 4, 12),
        (4, 4, 12),
        (5, 5, 8),
        (41, 42, 12),
        (42, 42, 4),
    ]
    assert list(of_similar_length([], 12)) == []


def test_trainer_small_passes_learn_what_one_learns(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    losses = []
    for micro_batch_size in (None, 3):
        recipe = {"hidden_size": 8, "dropout": 0.0, "micro_batch_size": micro_batch_size}
        config = make_config(att2seq={**recipe, "learning_rate": 0.01, "batch_size": 10})
        row = trainer_of(config, build_peer_data(config, dataset)).run_epoch()
        losses.append([row["train_loss"], row["validation_loss"]])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_trainer_two_workers_learn_what_one_learns(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    # 20 pairs in batches of 7: the last one has 6; in batches of 19 it has one pair, and the
    # second worker none.
    for batch_size in (7, 19):
        config = make_config(
            att2seq={
                "embedding_dim": 4,
                "hidden_size": 8,
                "dropout": 0.0,
                "batch_size": batch_size,
            },
            training={"num_epochs": 2},
        )
        data = build_peer_data(config, dataset)
        alone = trainer_of(config, data)
        meeting = _Meeting()
        pair = [trainer_of(config, data, workers=_Threads(rank, 2, meeting)) for rank in range(2)]

        def run(trainer: PeerTrainer) -> None:
            while not trainer.has_finished:
                trainer.run_epoch()

        run(alone)
        threads = [threading.Thread(target=run, args=(trainer,)) for trainer in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for trainer in pair:
            for row, expected in zip(trainer.progress.history, alone.progress.history, strict=True):
                for name in ("train_loss", "validation_loss"):
                    assert row[name] == pytest.approx(expected[name], rel=1e-5)
            for name, parameter in trainer.model.named_parameters():
                assert torch.allclose(
                    parameter, dict(alone.model.named_parameters())[name], atol=1e-5
                )


def test_trainer_loss_that_is_not_finite_ends_the_run(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    config = make_config()
    data = build_peer_data(config, dataset)
    trainer = trainer_of(config, data)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"epoch 1, step 1: the loss is not finite; lower"):
        trainer.run_epoch()


def test_trainer_seed_decides_the_weights_and_the_order(
    make_config: MakePeerConfig, dataset: Dataset
) -> None:
    def loss(seed: int) -> float:
        config = make_config(seed=seed, att2seq={"hidden_size": 8, "batch_size": 4})
        return float(trainer_of(config, build_peer_data(config, dataset)).run_epoch()["train_loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_trainer_one_user_one_item_and_one_pair_are_enough(make_config: MakePeerConfig) -> None:
    config = make_config(training={"num_epochs": 1})
    words = Words.of(["Good."], max_words=10)
    pair = example(0, 0, words.encode("Good."), 5, END)
    data = PeerData([pair], [pair], words, 5, num_users=1, num_items=1)
    row = trainer_of(config, data).run_epoch()
    assert row["train_loss"] == pytest.approx(math.log(len(words)), rel=0.1)  # near to uniform
