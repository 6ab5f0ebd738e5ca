"""A lookup finds exactly the explanations of the version that was the newest when it was opened.

Explanations of another model are refused.
"""

from typing import Any

import pytest

from tests.xrec.backfill.runs import output_of, published_rows
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError, StorageError
from xrec.schemas import GENERATED
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

PAIRS = (*(f"u{user} i{item}" for user in range(12) for item in range(0, 5, 2)), "u3 i1", "u3 i3")


def lookup_of(config: Any, max_bytes: int = 2**20, **inputs: str) -> ExplanationLookup:
    output = output_of(config)
    there = read_manifest(output, "explanations").inputs
    expected = {name: there[name] for name in ("base_model", "adapter", "graph")}
    return open_lookup(output.uri, {**expected, **inputs}, max_bytes, config.storage)


def check(config: Any, lookup: ExplanationLookup) -> None:
    """Look up every pair of known and unknown users and items, the second time from memory."""
    rows = [
        {name: row[name] for name in GENERATED.names} for row in published_rows(output_of(config))
    ]
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}
    assert lookup.num_rows == len(texts)
    for user in [*(f"u{number}" for number in range(12)), "nobody", "", "é\u200f\ud7ff"]:
        assert lookup.of_user(user).to_pylist() == [row for row in rows if row["user_id"] == user]
        assert lookup.of_user(user).schema == GENERATED
        for item in [*(f"i{number}" for number in range(5)), "nothing"]:
            found = lookup.find(user, item)
            assert (found.text if found else None) == texts.get((user, item))
            assert lookup.in_memory(user, item) == (True, found)


def test_lookup_finds_every_explanation_after_a_run_and_after_a_retry(runs, s3):
    values = {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}
    config, toy = runs.config(**values), runs.toy(mute=("u1 i2", "u3 i1"))
    runs.run(*PAIRS, toy=toy, **values)
    first = lookup_of(config)
    assert first.read_ahead() == 1  # one file
    row = published_rows(output_of(config))[0]
    assert first.in_memory(row["user_id"], row["item_id"]) == (False, None)
    found = first.find(row["user_id"], row["item_id"])
    assert found.num_generated_tokens == row["num_generated_tokens"]
    assert found.model_fingerprint == row["model_fingerprint"]
    check(config, first)
    assert first.find("u1", "i2") is None

    runs.heal()
    runs.run(*PAIRS, toy=toy, **values, retry_failed="all")
    second = lookup_of(config)
    assert second.in_memory("u1", "i2") == (False, None)
    check(config, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # the lookup of an earlier version does not change


def test_lookup_keeps_no_more_than_it_may(runs):
    runs.run(*PAIRS)
    lookup = lookup_of(runs.config(), max_bytes=4_000)
    check(runs.config(), lookup)
    assert 0 < lookup._users.num_bytes <= 4_000
    assert lookup.in_memory("u0", "i0") == (False, None)


def test_lookup_of_nothing_of_another_model_or_in_a_broken_or_lost_file_says_so(runs):
    with pytest.raises(ArtifactNotFoundError):
        open_lookup(runs.output.uri, {}, 2**20)
    runs.run("u0 i0")
    with pytest.raises(
        ArtifactMismatchError, match=r"another model:\n  adapter: '\w+' there, 'other' here"
    ) as error:
        lookup_of(runs.config(), adapter="other")
    assert "graph:" not in str(error.value)
    (name,) = (each for each in runs.output.sizes() if each.startswith("part-"))
    (runs.output / name).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="go back to the version before"):
        lookup_of(runs.config()).find("u0", "i0")
    (runs.output / name).delete()
    with pytest.raises(StorageError, match="not found"):
        lookup_of(runs.config()).find("u0", "i0")
