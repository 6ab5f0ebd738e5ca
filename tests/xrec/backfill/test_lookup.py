"""A lookup finds exactly the explanations of the version that was the newest when it was opened.

Explanations of another model are refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, published_rows, run
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError, StorageError
from xrec.schemas import GENERATED
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

PAIRS = (*(f"u{user} i{item}" for user in range(12) for item in range(0, 5, 2)), "u3 i1", "u3 i3")
MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]


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


@pytest.mark.parametrize("place", ["local", "s3"])
def test_lookup_finds_every_explanation_after_a_run_and_after_a_retry(
    make_config: MakeConfig,
    pairs: MakePairs,
    muted: Path,
    request: pytest.FixtureRequest,
    place: str,
) -> None:
    values: dict[str, Any] = {"rows_per_chunk": 2}
    if place == "s3":
        s3 = request.getfixturevalue("s3")
        values |= {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}
    config = make_config(**values)
    toy = Toy(mute=("u1 i2", "u3 i1"), muted=str(muted))
    run(config, pairs(*PAIRS), load=toy)
    first = lookup_of(config)
    assert first.read_ahead() == 1  # one file
    row = published_rows(output_of(config))[0]
    assert first.in_memory(row["user_id"], row["item_id"]) == (False, None)
    found = first.find(row["user_id"], row["item_id"])
    assert found is not None
    assert found.num_generated_tokens == row["num_generated_tokens"]
    assert found.model_fingerprint == row["model_fingerprint"]
    check(config, first)
    assert first.find("u1", "i2") is None

    muted.unlink()
    run(make_config(**values, retry_failed="all"), pairs(*PAIRS), load=toy)
    second = lookup_of(config)
    assert second.in_memory("u1", "i2") == (False, None)
    check(config, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # the lookup of an earlier version does not change


def test_lookup_keeps_no_more_than_it_may(make_config: MakeConfig, pairs: MakePairs) -> None:
    run(make_config(), pairs(*PAIRS), load=Toy())
    lookup = lookup_of(make_config(), max_bytes=4_000)
    check(make_config(), lookup)
    assert 0 < lookup.num_bytes <= 4_000
    assert lookup.in_memory("u0", "i0") == (False, None)


def test_lookup_in_a_file_that_is_broken_or_gone_says_so(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    run(make_config(), pairs(*PAIRS), load=Toy())
    output = output_of(make_config())
    (name,) = (each for each in output.sizes() if each.startswith("part-"))
    (output / name).write_bytes(b"no parquet")
    with pytest.raises(DataError, match="go back to the version before"):
        lookup_of(make_config()).find("u0", "i0")
    (output / name).delete()
    with pytest.raises(StorageError, match="not found"):
        lookup_of(make_config()).find("u0", "i0")


def test_explanations_of_another_model_are_refused_naming_what_differs(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    run(make_config(), pairs("u0 i0"), load=Toy())
    with pytest.raises(
        ArtifactMismatchError, match=r"another model:\n  adapter: '\w+' there, 'other' here"
    ) as error:
        lookup_of(make_config(), adapter="other")
    assert "graph:" not in str(error.value)


def test_output_that_is_not_published_is_not_found(make_config: MakeConfig) -> None:
    with pytest.raises(ArtifactNotFoundError):
        open_lookup(output_of(make_config()).uri, {}, 2**20)
