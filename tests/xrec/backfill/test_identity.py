"""What a run is known by: the settings, inputs and rows that its texts depend on, and no URI."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.backfill.runs import output_of, plan
from xrec.backfill.identity import identify, identify_unchecked, sources_of
from xrec.errors import ArtifactNotFoundError
from xrec.storage import run_fingerprint

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
SIX = ("u0 i0", "u0 i1", "u1 i0", "u2 i3", "u3 i0", "u4 i1")
TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest
DECODING = {"max_new_tokens": 4, "text": TEXT}
TOP_2 = {"kind": "top_k", "k": 2}


def test_identity_is_the_manifests_run(make_config: MakeConfig) -> None:
    identity = identify(make_config())
    assert identity.run == run_fingerprint("explanations", identity.config, identity.inputs)
    assert identify_unchecked(make_config()) == identity


def test_identity_with_another_dtype_is_another_run(make_config: MakeConfig) -> None:
    one = make_config()
    other = one.model_copy(update={"llm": one.llm.model_copy(update={"dtype": "bfloat16"})})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {"dtype"}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"decoding": {**DECODING, "max_new_tokens": 5}}, "decoding"),
        ({"decoding": {**DECODING, "temperature": 0.5}}, "decoding"),
        ({"pairs": {"kind": "top_k", "k": 3}}, "pairs"),
    ],
)
def test_identity_with_another_setting_is_another_run_in_a_folder_of_its_own(
    make_config: MakeConfig, values: dict[str, Any], key: str
) -> None:
    one, other = make_config(pairs=TOP_2), make_config(**{"pairs": TOP_2, **values})
    settings, others = identify(one).config, identify(other).config
    assert {name for name in settings if settings[name] != others[name]} == {key}
    first, second = plan(one), plan(other)
    assert first.folder.uri != second.folder.uri
    assert plan(one).record == first.record
    assert plan(other).record == second.record


def test_identity_does_not_depend_on_places_and_on_how_the_work_is_done(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    other = make_config(
        explanations=str(tmp_path / "elsewhere"),
        rows_per_chunk=5,
        carry_from=None,
        republish=True,
        actors={"num_actors": 1, "device": "cpu"},
        engine={"max_rows": 2, "kind": "vllm", "tensor_parallel_size": 2},
        max_failed_share=0.1,
        retry_failed="all",
        alongside=True,
        upkeep={"vacuum": True},
        export=str(tmp_path / "files"),
    )
    assert identify(other) == identify(make_config())
    tables = [make_config(pairs={"kind": "table", "uri": uri}) for uri in ("one", "another")]
    assert identify(tables[0]) == identify(tables[1])


def test_run_of_the_same_rows_from_another_file_is_the_same_and_of_other_rows_another(
    make_config: MakeConfig, pairs: MakePairs, tmp_path: Path
) -> None:
    def planned(name: str, *rows: str, **values: Any) -> Any:
        pq.write_table(pairs(*rows), tmp_path / name)
        source = {"kind": "table", "uri": str(tmp_path / name)}
        return plan(make_config(pairs=source, **values)).record

    first = planned("one.parquet", *SIX)
    assert planned("two.parquet", *reversed(SIX), SIX[2], rows_per_chunk=5) == first
    other = planned("one.parquet", *SIX[1:])
    assert other.run != first.run
    assert other.identity == first.identity


def test_identity_names_where_an_adapter_is_missing_and_nothing_is_written(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(adapter=str(tmp_path / "no-adapter"))
    with pytest.raises(ArtifactNotFoundError, match=r"no-adapter: no adapter artifact"):
        plan(config)
    assert list(tmp_path.iterdir()) == []


def test_identity_with_other_newcomers_is_another_run(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The same rows in another file and order are the same newcomers."""
    for name, users in (("one", ["n", "m"]), ("same", ["m", "n"]), ("other", ["m", "k"])):
        pq.write_table(
            pa.table({"user_id": users, "item_id": ["i0", "i0"]}), tmp_path / f"{name}.parquet"
        )

    def with_newcomers(name: str) -> Any:
        return make_config(cold_start={"interactions": str(tmp_path / f"{name}.parquet")})

    one, same, other = (plan(with_newcomers(name)) for name in ("one", "same", "other"))
    assert one.record == same.record
    runs = {one.record.run, other.record.run, plan(make_config()).record.run}
    assert len(runs) == 3
    assert sorted((output_of(make_config()) / "_xrec/runs").folders()) == sorted(runs)


def test_sources_of_relative_cold_start_tables_can_be_opened_from_anywhere(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
