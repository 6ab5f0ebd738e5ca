"""A run that waits to be published: shown to some users, or compared with what they get."""

import deltalake
import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import with_pairs
from tests.xrec.bulk.toy_run import PoolHere
from tests.xrec.serve.local_endpoint import local_endpoint
from tests.xrec.serve.town import (
    DECODING,
    ITEMS,
    USERS,
    backfill_config,
    make_backfill,
    rows_of,
    serve_config,
)
from xrec import bulk
from xrec.backfill.driver import finish
from xrec.backfill.plan import open_backfill
from xrec.backfill.task import explain_task
from xrec.errors import ArtifactNotFoundError
from xrec.schemas import PAIRS
from xrec.serve.artifacts import find_candidate
from xrec.serve.feedback import FOLDER, shadow_lines
from xrec.storage import open_location

SHORT = {**DECODING, "max_new_tokens": 12}


class Shop:
    """A table, and a run of other texts that waits for it, whose texts are also at `theirs`."""

    def __init__(self, town, place):
        self.town, self.uri, self.storage = town, place.uri, place.storage
        pairs = [(user, item) for user in USERS for item in ITEMS[:2]]
        make_backfill(self.config_of(), pairs)
        self.config = self.config_of(decoding=SHORT)
        rows = [dict(zip(PAIRS.names, pair, strict=True)) for pair in pairs[:-2]]
        self.run = open_backfill(with_pairs(self.config, pa.Table.from_pylist(rows, PAIRS)))
        drive = explain_task(self.config, self.run.record.identity)
        bulk.drive(self.run, PoolHere(), drive)
        theirs = self.config.model_copy(update={"explanations": f"{self.uri}-theirs"})
        make_backfill(theirs, pairs[:-2])
        self.ours = rows_of(self.uri, self.storage)
        self.theirs = rows_of(f"{self.uri}-theirs", self.storage)

    def config_of(self, **values):
        return backfill_config(self.town, self.uri, storage=self.storage, **values)

    def answers(self, **candidate):
        """The answers of the pairs that are published, and what was noted of the candidate."""
        settings = {"explanations": self.uri, "storage": self.storage, "candidate": candidate}
        with local_endpoint(self.town, **settings) as endpoint:
            pairs = [{"user_id": user, "item_id": item} for user, item in self.ours]
            found = endpoint.post("/v1/explanations", {"pairs": pairs}).json()["explanations"]
            for pair in pairs:
                told = endpoint.post("/v1/feedback", {**pair, "event": "shown"})
                assert told.status_code == 202
        options = open_location(self.uri, self.storage).delta_options()
        events = deltalake.DeltaTable(f"{self.uri}/{FOLDER}", storage_options=options)
        return dict(zip(self.ours, found, strict=True)), events.to_pyarrow_table().to_pylist()


@pytest.fixture
def shop(town, place):
    return Shop(town, place)


def test_users_of_the_share_get_the_texts_of_the_run_that_is_shown(shop):
    name = shop.run.record.run
    found, events = shop.answers(shown=name, share=0.5)
    arms = {pair: answer["arm"] for pair, answer in found.items()}
    texts = {"published": shop.ours, name: shop.theirs}
    assert all(found[pair]["explanation"] == texts[arm][pair] for pair, arm in arms.items())
    share = {user for (user, _), arm in arms.items() if arm == name}
    # All of a user's texts are of one arm, but for those that the run has not.
    assert {pair for pair in shop.theirs if pair[0] in share and pair in arms} == {
        pair for pair, arm in arms.items() if arm == name
    }
    assert 2 <= len(share) <= len(USERS) - 2
    assert {row["event"] for row in events} == {"shown"}
    assert sorted(row["arm"] for row in events) == sorted(arms.values())
    assert {row["version"] for row in events if row["arm"] == name} == {None}
    assert shop.answers(shown=name, share=0.5)[0] == found
    assert set(arms.values()) == {"published", name}


def test_run_that_is_not_shown_is_compared_and_the_gate_tells_it(shop):
    found, events = shop.answers(share=1.0)
    assert {pair: answer["explanation"] for pair, answer in found.items()} == shop.ours
    assert {answer["arm"] for answer in found.values()} == {"published"}
    said = [row["event"] for row in events if row["event"] != "shown"]
    same = sum(shop.theirs.get(pair) == text for pair, text in shop.ours.items())
    missing = sum(pair not in shop.theirs for pair in shop.ours)
    assert 0 < same + missing < len(said) == len(shop.ours)
    (line,) = shadow_lines(shop.uri, shop.run.record.run, shop.storage)
    shares = [n / len(said) for n in (same, len(said) - same - missing, missing)]
    words = "{:.1%} same, {:.1%} other, {:.1%} missing".format(*shares)
    assert line == f"online, in the place of {len(said)} answers: {words}"


def test_run_that_is_published_is_no_candidate_any_more(shop):
    settings = {"explanations": shop.uri, "storage": shop.storage, "candidate": {}}
    config = serve_config(shop.town, **settings)
    known = find_candidate(config)
    assert known is not None
    assert find_candidate(config, known) is known
    named = config.model_copy(
        update={"candidate": config.candidate.model_copy(update={"shown": "x"})}
    )
    with pytest.raises(ArtifactNotFoundError, match="'x': there is no such run"):
        find_candidate(named)
    assert finish(shop.config, shop.run).version == 1
    assert find_candidate(config, known) is None
    assert rows_of(shop.uri, shop.storage) == shop.theirs
