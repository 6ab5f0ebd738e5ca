"""A second run generates only what changed; the rest is carried from the first run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xrec.backfill.chunk import chunk_of

import jobs.backfill
from tests.xrec.backfill.runs import output_of, pairs_of, rows_by_manifest, run
from tests.xrec.backfill.toy_engines import Toy, calls
from xrec.backfill import read
from xrec.errors import ArtifactNotFoundError
from xrec.storage import read_manifest

MakeConfig = Callable[..., Any]
FIRST = tuple(f"u{user} i{item}" for user in range(12) for item in range(3))
TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest
NEW = ("u0 i3", "u5 i4")


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """The folder in which toy engines write their pairs."""
    (tmp_path / "calls").mkdir()
    return tmp_path / "calls"


def _with_profile(folder: Path, user_id: str, profile: str) -> dict[str, str]:
    """Return a cold start that gives a known user another profile."""
    pq.write_table(
        pa.table({"user_id": [user_id], "profile": [profile]}), folder / f"{user_id}.parquet"
    )
    return {"users": str(folder / f"{user_id}.parquet")}


@pytest.mark.usefixtures("actors_here")
@pytest.mark.parametrize("is_compacted", [False, True])
def test_carry_generates_only_new_pairs_and_those_of_a_changed_profile(
    make_config: MakeConfig,
    pairs: Callable[..., pa.Table],
    tmp_path: Path,
    called: Path,
    is_compacted: bool,
) -> None:
    config = make_config(rows_per_chunk=8)
    run(config, pairs(*FIRST), load=Toy())
    first = output_of(config)
    if is_compacted:
        jobs.backfill.compact_output(make_config(rows_per_chunk=8))
    old = {name: (first / name).read_bytes() for name in first.files() if name.startswith("part-")}

    values = {
        "carry_from": first.uri,
        "explanations": str(tmp_path / "second"),
        "cold_start": _with_profile(tmp_path, "u7", "Now a poet."),
    }
    second = make_config(rows_per_chunk=8, **values)
    manifest = run(second, pairs(*FIRST[:-1], *NEW, "nobody i0"), load=Toy(calls=str(called)))
    assert sorted(calls(called)) == sorted(["u7 i0", "u7 i1", "u7 i2", *NEW])
    expected = sorted({*FIRST[:-1], *NEW})
    assert pairs_of(rows_by_manifest(output_of(second))) == expected
    assert sorted(pairs_of(read(output_of(second).uri).to_table().to_pylist())) == expected
    assert manifest.metrics["num_carried"] == len(expected) - 5
    assert {
        name: (first / name).read_bytes() for name in first.files() if name.startswith("part-")
    } == old

    # A file whose rows all stay is carried by reference, and new pairs of its chunk are in another
    # file. The rows of u7 changed, and one of u11 is not in the second run.
    num_chunks = 8
    touched = {chunk_of(user, num_chunks) for user in ("u7", "u11")}
    referred = {name for name in manifest.files if name.startswith("/")}
    if is_compacted:
        assert referred == set()
    else:
        assert referred == {
            str(tmp_path / "explanations" / name)
            for name in old
            if int(name.split("-")[1]) % num_chunks not in touched
        }
        assert len(referred) == manifest.metrics["num_carried_files"] > 0

    # A third run carries everything from the second.
    for path in called.iterdir():
        path.unlink()
    third = make_config(
        rows_per_chunk=8,
        **{**values, "carry_from": output_of(second).uri, "explanations": str(tmp_path / "third")},
    )
    assert (
        run(third, pairs(*expected[:20]), load=Toy(calls=str(called))).metrics["num_carried"] == 20
    )
    assert calls(called) == []
    assert pairs_of(rows_by_manifest(output_of(third))) == expected[:20]


@pytest.mark.usefixtures("actors_here")
def test_carry_from_a_run_with_another_decoding_generates_everything(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path, called: Path
) -> None:
    run(make_config(), pairs(*FIRST[:6]), load=Toy())
    values = {
        "carry_from": output_of(make_config()).uri,
        "explanations": str(tmp_path / "second"),
        "decoding": {"max_new_tokens": 5, "text": TEXT},
    }
    assert (
        run(make_config(**values), pairs(*FIRST[:6]), load=Toy(calls=str(called))).metrics[
            "num_carried"
        ]
        == 0
    )
    assert sorted(calls(called)) == sorted(FIRST[:6])


@pytest.mark.usefixtures("actors_here")
def test_carry_leaves_texts_that_name_an_item_which_is_new_in_the_catalogue(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path, called: Path
) -> None:
    says = "With Blue Heron there is tea,"
    first = make_config(rows_per_chunk=3)
    run(first, pairs(*FIRST[:6]), load=Toy(says=says))
    assert pairs_of(rows_by_manifest(output_of(first))) == sorted(FIRST[:6])
    renamed = tmp_path / "items.parquet"
    pq.write_table(
        pa.table({"item_id": ["wordy"], "title": ["Blue Heron"], "profile": ["Near."]}), renamed
    )
    second = make_config(
        rows_per_chunk=3,
        carry_from=output_of(first).uri,
        explanations=str(tmp_path / "second"),
        cold_start={"items": str(renamed)},
    )
    manifest = run(second, pairs(*FIRST[:6]), load=Toy(calls=str(called), says=says))
    assert manifest.metrics["num_carried"] == 0
    assert sorted(calls(called)) == sorted(FIRST[:6])
    failed = rows_by_manifest(output_of(second), failed=True)
    assert {row["reason"] for row in failed} == {"names_another_item"}
    assert pairs_of(failed) == sorted(FIRST[:6])


def test_carry_from_an_unfinished_run_is_refused(
    make_config: MakeConfig, pairs: Callable[..., pa.Table], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactNotFoundError, match="nowhere: no explanations artifact"):
        run(make_config(carry_from=str(tmp_path / "nowhere")), pairs(*FIRST))
    assert not (tmp_path / "explanations").exists()
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output_of(make_config()), "explanations")
