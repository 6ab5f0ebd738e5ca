"""A plan assigns pairs to chunks; it is written once, and another run's plan is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from xrec.backfill.chunk import chunk_of
from xrec.backfill.plan import pairs_location, read_chunk_pairs

from tests.xrec.backfill.runs import output_of, pairs_of, plan
from xrec.backfill import draft_plan
from xrec.backfill.identity import sources_of
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, DataError
from xrec.schemas import PAIRS
from xrec.storage import parquet_bytes, read_table

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
SIX = ("u0 i0", "u0 i1", "u1 i0", "u2 i3", "u3 i0", "u4 i1")


def test_plan_each_pair_is_once_in_the_chunk_of_its_user_by_user_and_item(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config(rows_per_chunk=1)
    made = plan(config, pairs(*SIX, *SIX[2:4]))
    assert made.num_chunks == 8  # the power of two above 6 rows, with one row a chunk
    found = {
        chunk: read_table(pairs_location(made.output, made.identity.run, chunk), PAIRS).to_pylist()
        for chunk in made.chunks
    }
    assert {chunk: len(rows) for chunk, rows in found.items()} == {
        chunk: planned.rows for chunk, planned in made.chunks.items()
    }
    assert all(
        chunk_of(row["user_id"], 8) == chunk % 8 for chunk, rows in found.items() for row in rows
    )
    assert all(pairs_of(rows) == sorted(pairs_of(rows)) for rows in found.values())
    assert sorted(pair for rows in found.values() for pair in pairs_of(rows)) == sorted(SIX)
    assert made.num_rows == 6


def test_plan_is_the_same_for_another_order_and_other_files(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    rows = ["u2 i1", "u0 i1", "u2 i0", "u5 i3", "u7 i1"]
    pq.write_table(pairs(*rows), tmp_path / "one.parquet")
    (tmp_path / "many").mkdir()
    for number, row in enumerate([*reversed(rows), rows[2]]):
        pq.write_table(pairs(row), tmp_path / "many" / f"{number}.parquet")
    values = {
        name: {
            "pairs": {"kind": "table", "uri": str(tmp_path / name)},
            "explanations": str(tmp_path / f"{name}-out"),
        }
        for name in ("one.parquet", "many")
    }
    one, many = (plan(make_config(rows_per_chunk=2, **value)) for value in values.values())
    assert one.identity == many.identity
    assert one.chunks == many.chunks
    assert (one.output / "plan.json").read_bytes() == (many.output / "plan.json").read_bytes()


def test_plan_a_user_with_many_pairs_is_cut_into_equal_pieces_that_keep_the_hash(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    made = plan(
        make_config(rows_per_chunk=4), pairs(*(f"u0 i{item:02d}" for item in range(19)), "u1 i0")
    )
    assert made.num_chunks == 8
    pieces = [chunk for chunk in sorted(made.chunks) if chunk % 8 == chunk_of("u0", 8)]
    assert pieces == [chunk_of("u0", 8) + 8 * piece for piece in range(5)]
    assert [made.chunks[chunk].rows for chunk in pieces] == [4, 4, 4, 4, 3]
    tables = [
        read_chunk_pairs(made.output, made.identity.run, chunk, made.chunks[chunk].pairs)
        for chunk in pieces
    ]
    assert pa.concat_tables(tables)["item_id"].to_pylist() == [f"i{item:02d}" for item in range(19)]


def test_plan_pairs_that_were_changed_afterwards_are_refused(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    made = plan(make_config(), pairs(*SIX))
    chunk = min(made.chunks)
    location = pairs_location(made.output, made.identity.run, chunk)
    location.write_bytes(parquet_bytes(pairs("u0 other"), PAIRS))
    with pytest.raises(
        DataError, match=rf"{chunk:05d}\.parquet: the pairs are not those of plan\.json"
    ):
        read_chunk_pairs(made.output, made.identity.run, chunk, made.chunks[chunk].pairs)


def test_plan_without_pairs_is_an_error(make_config: MakeConfig, pairs: MakePairs) -> None:
    with pytest.raises(DataError, match=r"no pairs to explain; check pairs \(split\)"):
        draft_plan(make_config(), [pairs()])


def test_plan_new_run_is_beside_the_other_and_resumed_there(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    first = plan(make_config(), pairs(*SIX))
    values = {"decoding": {"max_new_tokens": 5}, "new_run": True}
    second = plan(make_config(**values), pairs(*SIX))
    assert second.output.uri == f"{first.output.uri}-{second.identity.run[:8]}"
    assert plan(make_config(**values), pairs(*SIX)) == second
    assert plan(make_config(), pairs(*SIX)) == first


def test_plan_again_takes_up_what_is_there_and_writes_nothing(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    config = make_config()
    first = plan(config, pairs(*SIX))
    output = output_of(config)
    before = {name: output.fs.info((output / name).path)["mtime"] for name in output.files()}
    assert plan(config, pairs(*SIX)) == first
    assert {
        name: output.fs.info((output / name).path)["mtime"] for name in output.files()
    } == before


TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (
            {"decoding": {"max_new_tokens": 5, "text": TEXT}},
            "decoding.max_new_tokens: 4 there, 5 here",
        ),
        (
            {"decoding": {"max_new_tokens": 4, "temperature": 0.5, "text": TEXT}},
            "decoding.temperature: 0.0 there, 0.5 here",
        ),
        ({"rows_per_chunk": 5}, "rows_per_chunk: 3 there, 5 here"),
        ({"engine": {"linear_layers": "int8"}}, "dtype: 'auto' there, 'auto, int8' here"),
    ],
)
def test_plan_of_another_run_is_refused_naming_the_field(
    make_config: MakeConfig, pairs: MakePairs, values: dict[str, Any], field: str
) -> None:
    config = make_config()
    plan(config, pairs(*SIX))
    before = (output_of(config) / "plan.json").read_bytes()
    with pytest.raises(
        ArtifactMismatchError, match="another run, begun and not finished"
    ) as raised:
        plan(make_config(**values), pairs(*SIX))
    lines = str(raised.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [field]
    assert "another output URI" in lines[-1]
    assert (output_of(config) / "plan.json").read_bytes() == before


def test_plan_of_other_pairs_is_refused_naming_them(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    plan(make_config(), pairs(*SIX))
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.pairs: '\w+' there, '\w+' here"):
        plan(make_config(), pairs(*SIX[:5]))


def test_plan_settings_that_the_text_does_not_depend_on_resume_the_same_run(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    first = plan(make_config(), pairs(*SIX))
    other = make_config(
        actors={"num_actors": 1, "device": "cpu"},
        engine={"max_rows": 2, "kind": "vllm", "tensor_parallel_size": 2},
        max_failed_share=0.1,
    )
    assert plan(other, pairs(*SIX)).identity.run == first.identity.run


def test_plan_a_second_driver_with_another_run_loses_the_race(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    """Both read before either wrote: the first to create plan.json wins, and keeps its pairs."""
    loser, winner = (draft_plan(make_config(rows_per_chunk=rows), [pairs(*SIX)]) for rows in (3, 2))
    made = winner.write()
    with pytest.raises(ArtifactMismatchError, match="rows_per_chunk: 2 there, 3 here"):
        loser.write()
    for chunk, planned in made.chunks.items():
        assert (
            read_chunk_pairs(made.output, made.identity.run, chunk, planned.pairs).num_rows
            == planned.rows
        )


def test_plan_without_an_adapter_names_where_it_is_missing_and_writes_nothing(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Any
) -> None:
    config = make_config(adapter=str(tmp_path / "no-adapter"))
    with pytest.raises(ArtifactNotFoundError, match=r"no-adapter: no adapter artifact"):
        plan(config, pairs(*SIX))
    assert list(tmp_path.iterdir()) == []


def test_plan_with_other_newcomers_is_another_run(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Any
) -> None:
    """The same rows in another file and order are the same run; other rows are another run."""
    for name, users in (("one", ["n", "m"]), ("same", ["m", "n"]), ("other", ["m", "k"])):
        pq.write_table(
            pa.table({"user_id": users, "item_id": ["i0", "i0"]}), tmp_path / f"{name}.parquet"
        )
    first = plan(
        make_config(cold_start={"interactions": str(tmp_path / "one.parquet")}), pairs(*SIX)
    )
    assert (
        plan(
            make_config(cold_start={"interactions": str(tmp_path / "same.parquet")}), pairs(*SIX)
        ).identity.run
        == first.identity.run
    )
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, '\w+' here"):
        plan(make_config(cold_start={"interactions": str(tmp_path / "other.parquet")}), pairs(*SIX))
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, None here"):
        plan(make_config(), pairs(*SIX))


def test_sources_of_relative_cold_start_tables_can_be_opened_from_anywhere(
    make_config: MakeConfig, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    cold_start = sources_of(
        make_config(
            cold_start={"interactions": "new.parquet", "users": "s3://bucket/users.parquet"}
        )
    ).cold_start
    assert cold_start is not None
    assert cold_start.interactions == str(tmp_path / "new.parquet")
    assert cold_start.users == "s3://bucket/users.parquet"
    assert cold_start.items is None
