"""A lookup finds exactly the pairs in the files of a backfill, and reads few of the files.

The output of another model is refused.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

import jobs.backfill
from tests.xrec.backfill.runs import output_of, rows_by_manifest, run
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.serve.town import make_backfill
from xrec.backfill.lookup import ExplanationLookup, open_lookup
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import Location, read_manifest

PAIRS = (*(f"u{user} i{item}" for user in range(12) for item in range(0, 5, 2)), "u3 i1", "u3 i3")


def lookup_of(output: Location, max_bytes: int = 2**20) -> ExplanationLookup:
    inputs = read_manifest(output, "explanations").inputs
    return open_lookup(
        output, {name: inputs[name] for name in ("base_model", "adapter", "graph")}, max_bytes
    )


def check_against_files(output: Location, lookup: ExplanationLookup) -> None:
    """Look up every pair of known and unknown users and items, the second time from memory."""
    texts = {
        (row["user_id"], row["item_id"]): row["explanation"] for row in rows_by_manifest(output)
    }
    assert lookup.num_rows == len(texts)
    for user in [*(f"u{number}" for number in range(12)), "nobody", "", "é\u200f\ud7ff"]:
        for item in [*(f"i{number}" for number in range(5)), "nothing"]:
            found = lookup.find(user, item)
            assert (found.text if found else None) == texts.get((user, item))
            assert lookup.in_memory(user, item) == (True, found)


def test_every_explained_pair_is_found_and_no_other_also_after_a_compaction(
    make_config: Callable[..., Any],
) -> None:
    make_backfill(make_config(rows_per_chunk=2), [tuple(pair.split()) for pair in PAIRS])
    output = output_of(make_config())
    lookup = lookup_of(output)
    row = rows_by_manifest(output)[0]
    assert lookup.in_memory(row["user_id"], row["item_id"]) == (False, None)
    found = lookup.find(row["user_id"], row["item_id"])
    assert found is not None
    assert (found.model_fingerprint, found.num_generated_tokens) == (
        row["model_fingerprint"],
        row["num_generated_tokens"],
    )
    check_against_files(output, lookup)
    jobs.backfill.compact_output(make_config(rows_per_chunk=2))
    assert read_manifest(output, "explanations").metrics["compacted"]
    check_against_files(output, lookup_of(output))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_pair_of_a_retry_is_found_in_its_generation_and_those_after(
    make_config: Callable[..., Any], pairs: Callable[..., pa.Table], tmp_path: Any
) -> None:
    (tmp_path / "muted").touch()
    toy = Toy(mute=("u1 i2", "u3 i1"), muted=str(tmp_path / "muted"))
    run(make_config(rows_per_chunk=2), pairs(*PAIRS), load=toy)
    output = output_of(make_config())
    first = lookup_of(output)
    check_against_files(output, first)
    assert first.find("u1", "i2") is None
    (tmp_path / "muted").unlink()
    run(make_config(rows_per_chunk=2, retry_failed="all"), pairs(*PAIRS), load=toy)
    second = lookup_of(output)
    check_against_files(output, second)
    assert second.find("u1", "i2") is not None
    assert first.find("u1", "i2") is None  # the lookup of an earlier generation does not change
    jobs.backfill.compact_output(make_config(rows_per_chunk=2))
    check_against_files(output, lookup_of(output))


def test_memory_is_bounded_and_a_lookup_reads_one_file_of_many(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_backfill(make_config(rows_per_chunk=2), [tuple(pair.split()) for pair in PAIRS])
    output = output_of(make_config())
    whole = lookup_of(output)
    check_against_files(output, whole)
    bound = whole.num_bytes // 3
    lookup = lookup_of(output, bound)
    for row in rows_by_manifest(output):
        assert lookup.find(row["user_id"], row["item_id"]) is not None
        assert lookup.num_bytes <= bound
    read: list[str] = []
    original = type(output).arrow_filesystem
    monkeypatch.setattr(
        type(output),
        "arrow_filesystem",
        lambda location: (read.append(location.name), original(location))[1],
    )
    fresh = lookup_of(output)
    assert fresh.find("u7", "i2") is not None
    assert len(set(read)) == 1
    assert len([name for name in output.files() if name.startswith("part-")]) > 6


def test_another_models_output_is_refused_naming_what_differs(
    make_config: Callable[..., Any],
) -> None:
    make_backfill(make_config(), [("u0", "i0")])
    output = output_of(make_config())
    inputs = read_manifest(output, "explanations").inputs
    expected = {name: inputs[name] for name in ("base_model", "graph")} | {
        "adapter": "0123456789abcdef"
    }
    with pytest.raises(
        ArtifactMismatchError,
        match=f"adapter: '{inputs['adapter']}' there, '0123456789abcdef' here",
    ) as error:
        open_lookup(output, expected, 2**20)
    assert "graph:" not in str(error.value)


def test_output_that_is_not_finished_is_not_found(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ArtifactNotFoundError):
        open_lookup(output_of(make_config()), {}, 2**20)
