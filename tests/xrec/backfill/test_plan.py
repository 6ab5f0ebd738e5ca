"""Which pairs are in which chunk; a plan is written once, and another run's plan is refused."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xrec.backfill import plan_backfill
from xrec.backfill.plan import chunk_of, plan_location, sources_of
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.schemas import PAIRS
from xrec.storage import Location, open_location, read_table

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
SIX = ("u0 i0", "u0 i1", "u1 i0", "u2 i3", "u3 i0", "u4 i1")


def _output(config: Any) -> Location:
    return open_location(config.artifact("explanations"), config.storage)


@pytest.mark.parametrize(("user_id", "num_chunks", "chunk"), [("u0", 16, 2), ("u17", 16, 0), ("Zoë", 1000, 922), ("anyone", 1, 0)])
def test_chunk_of_known_values_stay_for_ever(user_id: str, num_chunks: int, chunk: int) -> None:
    assert chunk_of(user_id, num_chunks) == chunk


def test_chunk_of_spreads_users_evenly() -> None:
    counts = [0] * 8
    for user in range(8000):
        counts[chunk_of(f"user-{user}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


def test_plan_each_pair_is_in_the_chunk_of_its_user_and_counted(make_config: MakeConfig, pairs: MakePairs) -> None:
    config = make_config()
    plan = plan_backfill(config, pairs(*SIX))
    found = {chunk: read_table(plan_location(_output(config), chunk), PAIRS).to_pylist() for chunk in plan.chunk_rows}
    assert {chunk: len(rows) for chunk, rows in found.items()} == plan.chunk_rows
    assert all(chunk_of(row["user_id"], 4) == chunk for chunk, rows in found.items() for row in rows)
    rows = [f"{row['user_id']} {row['item_id']}" for chunk in found.values() for row in chunk]
    assert sorted(rows) == sorted(SIX)
    assert plan.done is None


def test_plan_again_takes_up_what_is_there_and_writes_nothing(make_config: MakeConfig, pairs: MakePairs) -> None:
    config = make_config()
    first = plan_backfill(config, pairs(*SIX))
    output = _output(config)
    before = {name: output.fs.info((output / name).path)["mtime"] for name in output.files()}
    assert plan_backfill(config, pairs(*SIX)) == first
    assert {name: output.fs.info((output / name).path)["mtime"] for name in output.files()} == before


TEXT = {"max_words": None, "max_phrase_repeats": None}  # as in conftest


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"decoding": {"max_new_tokens": 5, "text": TEXT}}, "decoding.max_new_tokens: 4 there, 5 here"),
        ({"decoding": {"max_new_tokens": 4, "temperature": 0.5, "text": TEXT}}, "decoding.temperature: 0.0 there, 0.5 here"),
        ({"num_chunks": 5}, "num_chunks: 4 there, 5 here"),
    ],
)
def test_plan_of_another_run_is_refused_naming_the_field(make_config: MakeConfig, pairs: MakePairs, values: dict[str, Any], field: str) -> None:
    config = make_config()
    plan_backfill(config, pairs(*SIX))
    before = (_output(config) / "plan.json").read_bytes()
    with pytest.raises(ArtifactMismatchError, match="another run, begun and not finished") as raised:
        plan_backfill(make_config(**values), pairs(*SIX))
    lines = str(raised.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [field]
    assert "another output URI" in lines[-1]
    assert (_output(config) / "plan.json").read_bytes() == before


def test_plan_of_other_pairs_is_refused_naming_them(make_config: MakeConfig, pairs: MakePairs) -> None:
    plan_backfill(make_config(), pairs(*SIX))
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.pairs: '\w+' there, '\w+' here"):
        plan_backfill(make_config(), pairs(*SIX[:5]))


def test_plan_settings_that_the_text_does_not_depend_on_resume_the_same_run(make_config: MakeConfig, pairs: MakePairs) -> None:
    first = plan_backfill(make_config(), pairs(*SIX))
    other = make_config(
        actors={"num_actors": 1, "device": "cpu"}, engine={"max_rows": 2, "kind": "vllm", "tensor_parallel_size": 2}, max_failed_share=0.1
    )
    assert plan_backfill(other, pairs(*SIX)).run == first.run


def test_plan_a_second_driver_with_another_run_loses_the_race(make_config: MakeConfig, pairs: MakePairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its write another driver writes its own plan: create-only tells."""
    from xrec.backfill import plan as module

    config = make_config()
    create = module._create

    def other_driver_first(output: Location, plan: module.BackfillPlan) -> None:
        other = {"run": "0" * 16, "config": {**plan.config, "num_chunks": 9}, "inputs": plan.inputs, "chunk_rows": {}, "fingerprint": ""}
        (output / "plan.json").write_bytes(json.dumps(other).encode())
        create(output, plan)

    monkeypatch.setattr(module, "_create", other_driver_first)
    with pytest.raises(ArtifactMismatchError, match="num_chunks: 9 there, 4 here"):
        plan_backfill(config, pairs(*SIX))


def test_plan_without_an_adapter_names_where_it_is_missing_and_writes_nothing(make_config: MakeConfig, pairs: MakePairs, tmp_path: Any) -> None:
    config = make_config(adapter=str(tmp_path / "no-adapter"))
    with pytest.raises(ArtifactNotFoundError, match=r"no-adapter: no adapter artifact"):
        plan_backfill(config, pairs(*SIX))
    assert list(tmp_path.iterdir()) == []


def test_plan_with_other_newcomers_is_another_run(make_config: MakeConfig, pairs: MakePairs, tmp_path: Any) -> None:
    """By content: the same rows in another file and order resume the run."""
    for name, users in (("one", ["n", "m"]), ("same", ["m", "n"]), ("other", ["m", "k"])):
        pq.write_table(pa.table({"user_id": users, "item_id": ["i0", "i0"]}), tmp_path / f"{name}.parquet")
    first = plan_backfill(make_config(cold_start={"interactions": str(tmp_path / "one.parquet")}), pairs(*SIX))
    assert plan_backfill(make_config(cold_start={"interactions": str(tmp_path / "same.parquet")}), pairs(*SIX)).run == first.run
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, '\w+' here"):
        plan_backfill(make_config(cold_start={"interactions": str(tmp_path / "other.parquet")}), pairs(*SIX))
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, None here"):
        plan_backfill(make_config(), pairs(*SIX))


def test_sources_of_relative_cold_start_tables_can_be_opened_from_anywhere(make_config: MakeConfig, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    cold_start = sources_of(make_config(cold_start={"interactions": "new.parquet", "users": "s3://bucket/users.parquet"})).cold_start
    assert cold_start is not None
    assert cold_start.interactions == str(tmp_path / "new.parquet")
    assert cold_start.users == "s3://bucket/users.parquet"
    assert cold_start.items is None
