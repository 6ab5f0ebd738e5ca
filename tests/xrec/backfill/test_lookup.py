"""A lookup finds exactly the explanations of the version that the manifest names.

How rows are found in files is tested with xrec.bulk.lookup. The output of another model is refused.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, plan, published_rows, run
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import publish_explanations
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.bulk import compact
from xrec.bulk.lookup import LookupCache
from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.schemas import GENERATED
from xrec.storage import Location, read_manifest, write_manifest

PAIRS = (*(f"u{user} i{item}" for user in range(12) for item in range(0, 5, 2)), "u3 i1", "u3 i3")
MakeConfig = Callable[..., Any]


def lookup_of(
    output: Location, cache: LookupCache | None = None, storage: StorageConfig | None = None
) -> ExplanationLookup:
    inputs = read_manifest(output, "explanations").inputs
    expected = {name: inputs[name] for name in ("base_model", "adapter", "graph")}
    return open_lookup(output.uri, expected, cache or LookupCache(2**20), storage)


def check(output: Location, lookup: ExplanationLookup) -> None:
    """Look up every pair of known and unknown users and items, the second time from memory."""
    rows = [{name: row[name] for name in GENERATED.names} for row in published_rows(output)]
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in rows}
    assert lookup.num_rows == len(texts)
    for user in [*(f"u{number}" for number in range(12)), "nobody", "", "é\u200f\ud7ff"]:
        assert lookup.of_user(user).to_pylist() == [row for row in rows if row["user_id"] == user]
        assert lookup.of_user(user).schema == GENERATED
        for item in [*(f"i{number}" for number in range(5)), "nothing"]:
            found = lookup.find(user, item)
            assert (found.text if found else None) == texts.get((user, item))
            assert lookup.in_memory(user, item) == (True, found)


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("place", ["local", "s3"])
def test_lookup_finds_every_explanation_after_a_run_a_retry_and_a_compaction(
    make_config: MakeConfig,
    pairs: Callable[..., pa.Table],
    tmp_path: Any,
    request: pytest.FixtureRequest,
    place: str,
) -> None:
    values: dict[str, Any] = {"rows_per_chunk": 2}
    if place == "s3":
        s3 = request.getfixturevalue("s3")
        values |= {"storage": s3.storage, "explanations": f"{s3.new_bucket()}/out"}
    config = make_config(**values)
    output, storage = output_of(config), config.storage
    (tmp_path / "muted").touch()
    toy = Toy(mute=("u1 i2", "u3 i1"), muted=str(tmp_path / "muted"))
    run(config, pairs(*PAIRS), load=toy)
    cache = LookupCache(2**22)
    first = lookup_of(output, cache, storage)
    row = published_rows(output)[0]
    assert first.in_memory(row["user_id"], row["item_id"]) == (False, None)
    found = first.find(row["user_id"], row["item_id"])
    assert found is not None
    assert (found.text, found.num_generated_tokens, found.model_fingerprint) == (
        row["explanation"],
        row["num_generated_tokens"],
        row["model_fingerprint"],
    )
    check(output, first)
    assert first.find("u1", "i2") is None

    (tmp_path / "muted").unlink()
    run(make_config(**values, retry_failed="all"), pairs(*PAIRS), load=toy)
    second = lookup_of(output, cache, storage)
    # The pairs of buckets that the retry changed nothing in are still in memory.
    known = [pair for pair in PAIRS if second.in_memory(*pair.split())[0]]
    assert len(PAIRS) / 2 < len(known) < len(PAIRS)
    check(output, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # the lookup of an earlier version does not change

    opened = plan(config, pairs(*PAIRS))
    compact(opened, holder="test")
    publish_explanations(opened)
    compacted = lookup_of(output, cache, storage)
    assert compacted.manifest.version > second.manifest.version
    assert compacted.in_memory(row["user_id"], row["item_id"]) == (False, None)
    check(output, compacted)


def _finished(make_config: MakeConfig) -> tuple[Location, dict[str, str]]:
    """An output that is finished, as far as the manifest tells, and its inputs."""
    output = output_of(make_config())
    inputs = {"base_model": "b", "adapter": "a", "graph": "g"}
    write_manifest(output, "explanations", config={}, inputs=inputs, version=3)
    return output, inputs


def test_another_models_output_is_refused_naming_what_differs(make_config: MakeConfig) -> None:
    output, inputs = _finished(make_config)
    expected = {**inputs, "adapter": "0123456789abcdef"}
    with pytest.raises(
        ArtifactMismatchError, match="adapter: 'a' there, '0123456789abcdef' here"
    ) as error:
        open_lookup(output.uri, expected, LookupCache(2**20))
    assert "graph:" not in str(error.value)


def test_output_that_is_not_finished_is_not_found(make_config: MakeConfig) -> None:
    with pytest.raises(ArtifactNotFoundError):
        open_lookup(output_of(make_config()).uri, {}, LookupCache(2**20))
