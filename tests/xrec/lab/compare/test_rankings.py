"""What ranks statements without a text, below the entries of a comparison."""

import pytest

from tests.world.town import OF_PROFILES, prepared_town
from tests.xrec.lab.compare.comparisons import figures, run
from xrec.aspects.train import train_aspects
from xrec.config.entries import RANKERS
from xrec.config.graph import TrainAspectsConfig

POPULARITY = list(RANKERS[:-1])
RANKING = {"ranking_ndcg", "ranking_recall", "ranking_precision"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A dataset with the aspects of profiles, and what `train-aspects` makes of it in `trained`."""
    folder = tmp_path_factory.mktemp("rankings")
    prepared_town(folder, aspects_from=OF_PROFILES)
    train_aspects(TrainAspectsConfig(workspace=str(folder), aspects=f"{folder}/trained"))
    return str(folder)


def test_rankers_stand_below_the_entries_with_rankings_alone(make_config, workspace, tmp_path):
    config = make_config(workspace=workspace, entries=["profile"])
    run(config)
    found = figures(config)
    assert list(dict.fromkeys(entry for entry, _ in found)) == ["profile", *POPULARITY]
    assert {metric for entry, metric in found if entry == POPULARITY[0]} == RANKING
    for name in POPULARITY:
        row, of_entry = found[name, "ranking_ndcg"], found["profile", "ranking_ndcg"]
        assert row["difference"] == pytest.approx(row["value"] - of_entry["value"])
        assert row["low"] <= row["value"] <= row["high"]
    # A profile names all of its item's aspects, and so do all rankings: of ten none is left out.
    recalls = [found[name, "ranking_recall"]["value"] for name in ("profile", *POPULARITY)]
    assert min(recalls) > 0.9
    page = (tmp_path / "comparison" / "table.md").read_text()
    tables = [part for part in page.split("\n\n") if "| `profile` |" in part]
    assert ["`item_popularity`" in table for table in tables] == [
        "ranked" in table for table in tables
    ]


def test_chooser_is_a_ranker_where_the_aspects_of_the_dataset_are(make_config, workspace, town):
    config = make_config(workspace=workspace, entries=["profile"])
    before = run(config)
    trained = {"aspects": f"{workspace}/trained"}
    with_chooser = make_config(workspace=workspace, entries=["profile"], **trained)
    assert run(with_chooser).inputs["aspects"] != before.inputs.get("aspects")
    found = figures(with_chooser)
    assert 0 < found["chooser", "ranking_ndcg"]["value"] <= 1
    elsewhere = {"comparison": f"{config.artifact('comparison')}-plain", **trained}
    plain = make_config(workspace=town, entries=["profile"], **elsewhere)
    assert "aspects" not in run(plain).inputs  # they are of another dataset
    assert {entry for entry, _ in figures(plain)} == {"profile", *POPULARITY}
