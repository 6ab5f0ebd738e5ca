"""A later run generates only what changed; the rest is taken over from what is published."""

import json

import pytest

from tests.world.town import make_dataset
from tests.world.workspace import save_graph
from tests.xrec.backfill.runs import OTHER_DECODING, Runs, never, pairs_of, published_rows
from xrec.errors import ArtifactNotFoundError
from xrec.graph.artifact import read_graph
from xrec.storage import open_location

pytestmark = pytest.mark.usefixtures("actors_here")

FIRST = tuple(f"u{user} i{item}" for user in range(12) for item in range(3))
SIX = FIRST[:6]


def _later(runs: Runs, table: str, row: int, **texts: str) -> dict[str, str]:
    """A later dataset that has other texts in a row of users or items, and the same vectors."""
    rows = {
        file.stem: [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        for file in (runs.workspace / "raw").glob("*.jsonl")
    }
    rows[table][row] |= texts
    earlier = read_graph(open_location(str(runs.workspace / "graph")))
    dataset = make_dataset(runs.folder, extends=runs.workspace / "dataset", **rows)
    vectors = earlier.users, earlier.items
    save_graph(runs.folder / "graph", *vectors, dataset, start_from=[earlier.manifest.fingerprint])
    return {name: str(runs.folder / name) for name in ("dataset", "graph")}


def test_carry_generates_only_new_pairs_and_those_of_a_changed_profile(runs):
    runs.run(*FIRST, rows_per_chunk=8)
    runs.calls()
    new = ("u0 i3", "u5 i4")
    manifest = runs.run(
        *(*FIRST[:-1], *new, "nobody i0"),
        toy=runs.toy(says="made later"),
        rows_per_chunk=8,
        **_later(runs, "users", 7, profile="Now a poet."),
    )
    made = sorted(["u7 i0", "u7 i1", "u7 i2", *new])
    assert runs.calls() == made
    rows = published_rows(runs.output)
    assert pairs_of(rows) == sorted({*FIRST[:-1], *new})
    assert pairs_of([row for row in rows if row["explanation"].startswith("made later")]) == made
    assert manifest.metrics["num_carried"] == len(rows) - len(made)
    assert manifest.row_counts == {"explanations": len(rows), "failed": 1, "rejected": 0}


@pytest.mark.parametrize("values", [{"carry_from": None}, {"decoding": OTHER_DECODING}])
def test_carry_from_null_or_with_other_settings_generates_everything(runs, values):
    runs.run(*SIX)
    runs.calls()
    manifest = runs.run(*SIX[:5], **values)
    assert (manifest.metrics["num_carried"], runs.calls()) == (0, sorted(SIX[:5]))


def test_carry_leaves_texts_that_name_an_item_which_is_new_in_the_catalogue(runs):
    toy = runs.toy(says="With Blue Heron there is tea,")
    runs.run(*SIX, toy=toy)
    assert pairs_of(published_rows(runs.output)) == sorted(SIX)
    runs.calls()
    renamed = _later(runs, "items", -1, title="Blue Heron")
    manifest = runs.run(*SIX, toy=toy, **renamed)
    assert (manifest.metrics["num_carried"], runs.calls()) == (0, sorted(SIX))
    failed = published_rows(runs.output, failed=True)
    assert {row["reason"] for row in failed} == {"names_another_item"}
    assert pairs_of(failed) == sorted(SIX)


def test_carry_from_another_output_takes_its_rows(runs):
    runs.run(*SIX)
    runs.calls()
    second = str(runs.folder / "second")
    manifest = runs.run(*SIX[:4], carry_from=runs.output.uri, explanations=second)
    assert (manifest.metrics["num_carried"], runs.calls()) == (4, [])


def test_carry_from_where_nothing_was_published_is_refused(runs):
    with pytest.raises(ArtifactNotFoundError, match="nowhere: nothing was published there"):
        runs.run(*SIX, toy=never, carry_from=str(runs.folder / "nowhere"))
    assert runs.output.files() == []
