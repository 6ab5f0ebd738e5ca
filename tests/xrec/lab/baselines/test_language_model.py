"""PEPLER from a language model's folder to its texts: phases, artifact, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.toy import save_toy_model, toy_tokenizer
from tests.xrec.lab.baselines.conftest import MakePeerConfig, explanation
from tests.xrec.lab.baselines.test_texts import write_untrained
from tests.xrec.lab.baselines.test_trainer import texts_of, trainer_of
from xrec.backfill import read_explanations
from xrec.config.baselines import PeerConfig
from xrec.config.llm import LLMConfig
from xrec.data.dataset import Dataset
from xrec.errors import ArtifactMismatchError, ConfigError, DataError
from xrec.lab.baselines import peer_identity, write_peer_texts
from xrec.lab.baselines.artifact import read_peer
from xrec.lab.baselines.data import build_peer_data
from xrec.lab.baselines.language_model import LanguageModelTokens
from xrec.storage import location_of


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_model(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def config(make_config: MakePeerConfig, llm: Path) -> PeerConfig:
    return make_config(kind="pepler", llm={"model": str(llm)})


def test_tokens_of_a_text_come_back_to_the_letter_and_end_at_an_end(llm: Path) -> None:
    tokens = LanguageModelTokens(llm)
    text = explanation(3, 4)
    ids = tokens.encode(text)
    assert tokens.end_ids[0] == toy_tokenizer().eos_token_id
    assert tokens.decode([*ids, tokens.end_ids[0], *ids]) == tokens.decode(ids) == text
    assert not set(tokens.never_written) & set(tokens.end_ids)
    assert len(tokens) == len(toy_tokenizer())


def test_trainer_overfits_twenty_pairs_to_the_letter(config: PeerConfig, dataset: Dataset) -> None:
    values = {
        "pepler": {"learning_rate": 0.01, "batch_size": 20, "micro_batch_size": None},
        "training": {"num_epochs": 60, "patience": 60, "max_validation_pairs": 1},
    }
    config = PeerConfig.model_validate({**config.model_dump(), **values})
    data = build_peer_data(config, dataset)
    trainer = trainer_of(config, data)
    written: list[str] = []
    wanted = [explanation(each.user_index, each.item_index) for each in data.train]
    while written != wanted and not trainer.has_finished:
        for _ in range(20):
            trainer.run_epoch()
        written = texts_of(trainer, data)
    assert written == wanted


def test_trainer_trains_the_vectors_first_and_then_everything(
    config: PeerConfig, dataset: Dataset
) -> None:
    pepler = {"learning_rate": 0.01, "batch_size": 20}
    config = PeerConfig.model_validate(
        {**config.model_dump(), "pepler": pepler, "training": {"num_epochs": 2}}
    )
    trainer = trainer_of(config, build_peer_data(config, dataset))
    before = {name: each.detach().clone() for name, each in trainer.model.named_parameters()}
    changed = []
    while not trainer.has_finished:
        trainer.run_epoch()
        changed.append(
            {
                name.split(".")[0]
                for name, each in trainer.model.named_parameters()
                if not torch.equal(each, before[name])
            }
        )
    assert [row["phase"] for row in trainer.progress.history] == [0, 0, 1, 1]
    assert changed[1] == {"users", "items"}
    assert changed[3] == {"users", "items", "language_model"}
    assert trainer.best.keys() == before.keys()  # the last phase has all


def test_trainer_second_phase_begins_with_the_best_of_the_first(
    config: PeerConfig, dataset: Dataset
) -> None:
    """Resumed between the phases; the vectors are those of the first phase's best epoch."""
    pepler = {"learning_rate": 0.5, "batch_size": 20}  # so large that it gets worse
    values = {"pepler": pepler, "training": {"num_epochs": 4, "patience": 2}}
    config = PeerConfig.model_validate({**config.model_dump(), **values})
    data = build_peer_data(config, dataset)
    first = trainer_of(config, data, run="r")
    while first.progress.phase(config.training, 2) == 0:
        first.run_epoch()
    files = first.checkpoint()
    best = first.best
    assert best.keys() == {"users.weight", "items.weight"}
    resumed = trainer_of(config, data, run="r")
    resumed.restore(files.__getitem__)
    started: dict[str, Any] = {}
    begin = resumed._begin_phase
    resumed._begin_phase = lambda phase: (  # type: ignore[method-assign]
        begin(phase),
        started.update({name: each.clone() for name, each in resumed.model.named_parameters()}),
    )
    resumed.run_epoch()
    assert all(torch.equal(started[name], best[name]) for name in best)
    first.run_epoch()
    row, expected = resumed.progress.history[-1], first.progress.history[-1]
    assert {**row, "seconds": 0} == {**expected, "seconds": 0}


@pytest.mark.usefixtures("actors_here")
def test_texts_of_pepler_come_from_the_artifact_and_its_language_model(
    config: PeerConfig, dataset: Dataset, tmp_path: Path
) -> None:
    written = write_untrained(config, dataset)
    assert "words.json" not in written.files
    write_peer_texts(config)
    peer = read_peer(location_of(config, "peer"), llm=config.llm)
    data = build_peer_data(config, dataset)
    assert peer.max_words == data.max_words
    rows = read_explanations(config.artifact("explanations")).to_pylist()
    assert len({row["explanation"] for row in rows}) > 1
    other = save_toy_model(tmp_path / "other", seed=3)
    with pytest.raises(ArtifactMismatchError, match="trained from the language model"):
        read_peer(location_of(config, "peer"), llm=LLMConfig(model=str(other)))


def test_identity_has_the_language_model(config: PeerConfig, tmp_path: Path) -> None:
    other = config.model_copy(
        update={"llm": LLMConfig(model=str(save_toy_model(tmp_path / "other", seed=3)))}
    )
    inputs = [peer_identity(each)[1]["base_model"] for each in (config, other)]
    assert inputs[0] != inputs[1]
    assert peer_identity(config, base_model="known")[1]["base_model"] == "known"


def test_config_pepler_without_a_language_model_is_refused(make_config: MakePeerConfig) -> None:
    with pytest.raises(ConfigError, match=r"kind pepler needs llm\.model"):
        make_config(kind="pepler")


def test_data_regularization_without_ratings_is_refused(
    make_config: MakePeerConfig, llm: Path, dataset: Dataset
) -> None:
    config = make_config(kind="pepler", llm={"model": str(llm)}, pepler={"recommendation": "mf"})
    with pytest.raises(DataError, match=r"pepler\.recommendation = 'mf' needs ratings"):
        build_peer_data(config, dataset)
