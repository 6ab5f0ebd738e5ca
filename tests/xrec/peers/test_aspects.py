"""What PETER+ reads: chosen aspects, or those of the pair's own review."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.prepare import run as prepare_dataset
from jobs.train_aspects import run as train_aspects
from tests.xrec.aspects.planted_aspects import TOWN, with_aspects
from tests.xrec.peers.conftest import MakePeerConfig
from tests.xrec.peers.test_texts import write_untrained
from xrec.aspects import read_chooser
from xrec.backfill import read_explanations
from xrec.config.aspects import TrainAspectsConfig
from xrec.config.data import PrepareConfig
from xrec.config.peers import PeerConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactNotFoundError, DataError
from xrec.peers import peer_identity, write_peer_texts
from xrec.peers.aspects import aspect_ids, aspect_names
from xrec.peers.data import build_peer_data
from xrec.peers.words import PAD, UNKNOWN, Words
from xrec.storage import open_location


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A workspace with a dataset with aspects, and what train-aspects made of it."""
    plain = str(tmp_path_factory.mktemp("plain"))
    prepare_dataset(PrepareConfig.model_validate({"workspace": plain, "source": TOWN}))
    workspace = with_aspects(
        read_dataset(open_location(f"{plain}/dataset")),
        tmp_path_factory.mktemp("with-aspects"),
        ("train", "validation", "test"),
    )
    similar = {"embedding_dim": 8, "num_neighbours": 5}
    train_aspects(
        TrainAspectsConfig.model_validate({"workspace": workspace, "similar_items": similar})
    )
    return workspace


@pytest.fixture(scope="module")
def town_dataset(town: str) -> Dataset:
    return read_dataset(open_location(f"{town}/dataset"))


@pytest.fixture
def config(town: str, make_config: MakePeerConfig) -> PeerConfig:
    """PETER+ with two aspects of at most five words."""
    small = {"embedding_dim": 8, "num_heads": 2, "feedforward_size": 8, "num_layers": 1}
    peter = {**small, "num_aspects": 2, "num_aspect_words": 5}
    return make_config(workspace=town, kind="peter_plus", peter=peter)


def test_aspects_chosen_are_those_of_train_aspects(town: str, town_dataset: Dataset) -> None:
    location = open_location(f"{town}/aspects")
    assert town_dataset.aspects is not None
    names = town_dataset.aspects["aspect"].to_pylist()
    pairs = town_dataset.explanations
    users, items = (pairs[f"{name}_index"].to_numpy().astype("int64") for name in ("user", "item"))
    chooser = read_chooser(location, town_dataset)
    chosen = chooser.choose(users, items, 2, leave_out_own=True).aspects.tolist()
    found = aspect_names("peter_plus", town_dataset, location, 2).of(
        pairs["user_index"].to_pylist(), pairs["item_index"].to_pylist()
    )
    assert found == [tuple(names[each] for each in row if each >= 0) for row in chosen]


def test_aspects_of_the_oracle_are_those_of_the_pairs_own_review(
    town: str, town_dataset: Dataset
) -> None:
    assert town_dataset.aspects is not None
    assert town_dataset.explanation_aspects is not None
    own = town_dataset.explanation_aspects.to_pylist()
    names = town_dataset.aspects["aspect"].to_pylist()
    found = aspect_names("peter_plus_oracle", town_dataset, open_location(town), 3).of(
        [row["user_index"] for row in own], [row["item_index"] for row in own]
    )
    assert found == [(names[row["aspect_index"]],) for row in own]
    assert {row["split"] for row in own} == {"train", "validation", "test"}
    unknown = next(
        (user, item)
        for user in range(town_dataset.num_users)
        for item in range(town_dataset.num_items)
        if (user, item) not in {(row["user_index"], row["item_index"]) for row in own}
    )
    oracle = aspect_names("peter_plus_oracle", town_dataset, open_location(town), 3)
    assert oracle.of([unknown[0]], [unknown[1]]) == [()]


def test_aspects_are_read_as_words_within_a_text_and_padded() -> None:
    words = Words.of(["The live music, and more music."], 100, ["live music", "view"])
    ids = aspect_ids(words, ("live music", "view"), 5)
    assert [words.pieces[each] for each in ids] == [" live", " music", " view", "<pad>", "<pad>"]
    assert aspect_ids(words, ("live music", "view"), 1) == ids[:1]
    assert aspect_ids(words, (), 2) == (PAD, PAD)


def test_data_of_peter_plus_has_the_aspects_and_knows_their_words(
    config: PeerConfig, town_dataset: Dataset
) -> None:
    data = build_peer_data(config, town_dataset)
    assert data.num_aspect_words == 5
    assert {len(each.aspect_ids) for each in (*data.train, *data.validation)} == {5}
    assert UNKNOWN not in {index for each in data.train for index in each.aspect_ids}
    assert len({each.aspect_ids for each in data.train}) > 1


def test_data_of_peter_has_none(config: PeerConfig, town_dataset: Dataset) -> None:
    data = build_peer_data(config.model_copy(update={"kind": "peter"}), town_dataset)
    assert data.num_aspect_words == 0
    assert {each.aspect_ids for each in data.train} == {()}


def test_identity_has_the_aspects_of_peter_plus_alone(config: PeerConfig) -> None:
    for kind, has_aspects in (("peter", False), ("peter_plus", True), ("peter_plus_oracle", False)):
        _, inputs = peer_identity(config.model_copy(update={"kind": kind}))
        assert ("aspects" in inputs) is has_aspects
    with pytest.raises(ArtifactNotFoundError, match="run xrec train-aspects first"):
        peer_identity(config.model_copy(update={"aspects": f"{config.workspace}/none"}))


@pytest.mark.usefixtures("actors_here")
def test_texts_of_peter_plus_follow_the_chosen_aspects(
    config: PeerConfig, town_dataset: Dataset, tmp_path: Path
) -> None:
    """The same weights with chosen and with own aspects write other texts."""
    texts: list[dict[tuple[str, str], Any]] = []
    for kind in ("peter_plus", "peter_plus_oracle"):
        of_kind = config.model_copy(
            update={
                "kind": kind,
                "peer_model": str(tmp_path / f"model-{kind}"),
                "peer_texts": str(tmp_path / f"texts-{kind}"),
            }
        )
        write_untrained(of_kind, town_dataset)
        manifest = write_peer_texts(of_kind)
        assert manifest.row_counts["failed"] == 0
        rows = read_explanations(of_kind.artifact("explanations")).to_pylist()
        assert {row["num_prompt_tokens"] for row in rows} == {7}
        texts.append({(row["user_id"], row["item_id"]): row for row in rows})
    assert texts[0].keys() == texts[1].keys()
    keys = [(texts[0][pair]["content_key"], texts[1][pair]["content_key"]) for pair in texts[0]]
    assert all(one != other for one, other in keys)


def test_aspects_of_a_dataset_without_any_are_refused(
    dataset: Dataset, make_config: MakePeerConfig
) -> None:
    config = make_config(kind="peter_plus_oracle")
    with pytest.raises(DataError, match="the dataset has no aspects, which peter_plus reads"):
        build_peer_data(config, dataset)
    assert isinstance(dataset.explanations, pa.Table)
