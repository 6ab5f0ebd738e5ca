"""What a run is known by: its output is opened again by the same run, and refused to others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.backfill.runs import output_of, plan
from xrec.backfill.identity import identify, sources_of
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import run_fingerprint

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
SIX = ("u0 i0", "u0 i1", "u1 i0", "u2 i3", "u3 i0", "u4 i1")
TEXT = {"max_words": None, "max_phrase_repeats": None}  # the same as in conftest


def test_identity_is_the_manifests_run(make_config: MakeConfig) -> None:
    identity = identify(make_config())
    assert identity.run == run_fingerprint("explanations", identity.config, identity.inputs)


def test_identity_new_run_is_beside_the_other_and_resumed_there(
    make_config: MakeConfig, pairs: MakePairs
) -> None:
    first = plan(make_config(), pairs(*SIX))
    values = {"decoding": {"max_new_tokens": 5}, "new_run": True}
    second = plan(make_config(**values), pairs(*SIX))
    assert second.plan.output.uri == f"{first.plan.output.uri}-{second.plan.run[:8]}"
    assert plan(make_config(**values), pairs(*SIX)).plan.record == second.plan.record
    assert plan(make_config(), pairs(*SIX)).plan.record == first.plan.record


@pytest.mark.parametrize(
    ("values", "field"),
    [
        (
            {"decoding": {"max_new_tokens": 5, "text": TEXT}},
            "config.decoding.max_new_tokens: 4 there, 5 here",
        ),
        (
            {"decoding": {"max_new_tokens": 4, "temperature": 0.5, "text": TEXT}},
            "config.decoding.temperature: 0.0 there, 0.5 here",
        ),
        ({"rows_per_chunk": 5}, "config.rows_per_chunk: 3 there, 5 here"),
        ({"engine": {"linear_layers": "int8"}}, "config.dtype: 'auto' there, 'auto, int8' here"),
        ({"pairs": {"kind": "top_k", "k": 3}}, "config.pairs.k: 2 there, 3 here"),
    ],
)
def test_identity_of_another_run_is_refused_naming_the_field(
    make_config: MakeConfig, values: dict[str, Any], field: str
) -> None:
    top_2 = {"pairs": {"kind": "top_k", "k": 2}}
    config = make_config(**top_2)
    before = plan(config).plan.record
    with pytest.raises(ArtifactMismatchError, match="holds another run") as raised:
        plan(make_config(**{**top_2, **values}))
    lines = str(raised.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [field]
    assert "another output URI" in lines[-1]
    assert plan(config).plan.record == before


def test_identity_settings_that_the_text_does_not_depend_on_resume_the_same_run(
    make_config: MakeConfig,
) -> None:
    other = make_config(
        actors={"num_actors": 1, "device": "cpu"},
        engine={"max_rows": 2, "kind": "vllm", "tensor_parallel_size": 2},
        max_failed_share=0.1,
        retry_failed="all",
        take_over=True,
        upkeep={"compact": True},
    )
    assert identify(other) == identify(make_config())


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
    """The same rows in another file and order are the same run; other rows are another run."""
    for name, users in (("one", ["n", "m"]), ("same", ["m", "n"]), ("other", ["m", "k"])):
        pq.write_table(
            pa.table({"user_id": users, "item_id": ["i0", "i0"]}), tmp_path / f"{name}.parquet"
        )

    def with_newcomers(name: str) -> Any:
        return make_config(cold_start={"interactions": str(tmp_path / f"{name}.parquet")})

    plan(with_newcomers("one"))
    plan(with_newcomers("same"))
    with pytest.raises(ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, '\w+' here"):
        plan(with_newcomers("other"))
    with pytest.raises(
        ArtifactMismatchError, match=r"inputs\.cold_start: '\w+' there, nothing here"
    ):
        plan(make_config())
    assert (output_of(make_config()) / "_xrec" / "plan.json").is_file()


def test_identity_of_relative_uris_does_not_depend_on_the_working_directory(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config(pairs={"kind": "table", "uri": "pairs.parquet"})
    assert identify(config).config["pairs"]["uri"] == str(tmp_path / "pairs.parquet")
    monkeypatch.chdir(tmp_path.parent)
    there = f"{tmp_path.name}/pairs.parquet"
    assert identify(make_config(pairs={"kind": "table", "uri": there})) == identify(
        make_config(pairs={"kind": "table", "uri": str(tmp_path / "pairs.parquet")})
    )


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
