"""What PETER+ reads: what train-aspects chooses, as words."""

import pytest

from jobs.prepare import run as prepare_dataset
from jobs.train_aspects import run as train_aspects
from tests.xrec.aspects.planted_aspects import TOWN, with_aspects
from tests.xrec.lab.baselines.conftest import MakeBaseline
from tests.xrec.lab.baselines.test_texts import write_untrained
from xrec.aspects import read_chooser
from xrec.config.aspects import TrainAspectsConfig
from xrec.config.data import PrepareConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactNotFoundError, DataError
from xrec.lab.baselines import Baseline, write_baseline_texts
from xrec.lab.baselines.aspects import NUM_ASPECT_WORDS, ChosenAspects, aspect_ids, read_aspects
from xrec.lab.baselines.data import build_data
from xrec.lab.baselines.train import baseline_identity
from xrec.lab.baselines.words import PAD, UNKNOWN, Words
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
    train_aspects(TrainAspectsConfig(workspace=workspace))
    return workspace


@pytest.fixture(scope="module")
def town_dataset(town: str) -> Dataset:
    return read_dataset(open_location(f"{town}/dataset"))


@pytest.fixture
def baseline(town: str, make_baseline: MakeBaseline) -> Baseline:
    return make_baseline("peter_plus", dataset=f"{town}/dataset", aspects=f"{town}/aspects")


def test_aspects_are_those_of_train_aspects(
    town: str, town_dataset: Dataset, baseline: Baseline
) -> None:
    assert town_dataset.aspects is not None
    names = town_dataset.aspects["aspect"].to_pylist()
    users, items = (
        town_dataset.explanations[f"{name}_index"].to_numpy().astype("int64")
        for name in ("user", "item")
    )
    chooser = read_chooser(open_location(f"{town}/aspects"), town_dataset)
    chosen = chooser.choose(users, items, 1, leave_out_own=True).aspects.tolist()
    reader = read_aspects(baseline, town_dataset)
    assert reader is not None
    found = reader.of(users.tolist(), items.tolist())
    assert found == [tuple(names[each] for each in row if each >= 0) for row in chosen]


def test_aspects_are_read_as_words_within_a_text_and_padded() -> None:
    words = Words.of(["The live music, and more music."], 100, ["live music", "a view of it"])
    ids = aspect_ids(words, ("live music",))
    assert [words.pieces[each] for each in ids] == [" live", " music", "<pad>"]
    assert len(aspect_ids(words, ("a view of it",))) == 3
    assert aspect_ids(words, ()) == (PAD, PAD, PAD)


def test_data_of_peter_plus_alone_has_aspects_and_knows_their_words(
    baseline: Baseline, town: str, town_dataset: Dataset, make_baseline: MakeBaseline
) -> None:
    data = build_data(baseline, town_dataset)
    assert {len(each.aspect_ids) for each in (*data.train, *data.validation)} == {NUM_ASPECT_WORDS}
    assert UNKNOWN not in {index for each in data.train for index in each.aspect_ids}
    assert len({each.aspect_ids for each in data.train}) > 1
    peter = make_baseline("peter", dataset=f"{town}/dataset", aspects=f"{town}/aspects")
    assert {each.aspect_ids for each in build_data(peter, town_dataset).train} == {()}
    assert "aspects" in baseline_identity(baseline)[1]
    assert "aspects" not in baseline_identity(peter)[1]


@pytest.mark.usefixtures("processes_here")
def test_texts_of_peter_plus_follow_the_aspects(
    baseline: Baseline, town_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_untrained(baseline, town_dataset)
    rows = town_dataset.explained_pairs("test").to_pylist()
    pairs = [(row["user_index"], row["item_index"]) for row in rows]
    texts, _ = write_baseline_texts(baseline, pairs)
    aspects = town_dataset.aspects
    assert aspects is not None
    other = [(aspects["aspect"][0].as_py(),)] * len(pairs)
    monkeypatch.setattr(ChosenAspects, "of", lambda *arguments: other)
    assert write_baseline_texts(baseline, pairs)[0] != texts


def test_aspects_that_are_not_there_are_refused(
    make_baseline: MakeBaseline, baseline: Baseline, dataset: Dataset, town: str
) -> None:
    with pytest.raises(DataError, match="the dataset has no aspects, which peter_plus reads"):
        build_data(make_baseline("peter_plus"), dataset)
    elsewhere = make_baseline("peter_plus", dataset=baseline.dataset, aspects=f"{town}/none")
    with pytest.raises(ArtifactNotFoundError, match="run xrec train-aspects first"):
        baseline_identity(elsewhere)
