"""The job `backfill` on s3://: second and interrupted runs, and what is refused early."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import jobs.backfill
from xrec.backfill import Lease, read_explanations
from xrec.backfill.chunk import chunk_of
from xrec.cli.main import app
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    StorageAccessError,
    StorageNotFoundError,
)
from xrec.schemas import FAILED, GENERATED
from xrec.storage import Location, parquet_bytes, read_manifest, read_table


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not be asked for, and no actor, so no model, may be started."""

    def work(*arguments: object) -> None:
        raise AssertionError("the job started to work")

    monkeypatch.setattr(jobs.backfill, "ensure_ray", work)
    monkeypatch.setattr(jobs.backfill, "run_backfill", work)


def _state(location: Location) -> dict[str, tuple[Any, Any]]:
    infos = {
        name: location.fs.info((location / name).path)
        for name in location.files()
        if not name.startswith("lease/")
    }
    return {name: (info["LastModified"], info["ETag"]) for name, info in infos.items()}


def test_backfill_explains_each_held_out_pair_once(pipeline: Any) -> None:
    location = pipeline.location("explanations")
    manifest = read_manifest(location, "explanations")
    dataset = read_dataset(pipeline.location("dataset"))
    users, items = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    expected = sorted(
        (users[row["user_index"]], items[row["item_index"]])
        for row in dataset.explained_pairs("test").to_pylist()
    )
    explained = read_explanations(location)
    failed = [
        read_table(location / name, FAILED) for name in manifest.files if name.startswith("failed/")
    ]
    rows = [
        (row["user_id"], row["item_id"])
        for table in (explained, *failed)
        for row in table.to_pylist()
    ]
    assert sorted(rows) == expected
    assert explained.num_rows > len(expected) / 2
    assert all(explained["explanation"].to_pylist())
    assert set(explained["finish_reason"].to_pylist()) <= {"stop", "length"}
    assert max(explained["num_generated_tokens"].to_pylist()) <= 8
    assert len(set(explained["model_fingerprint"].to_pylist())) == 1


def test_backfill_a_users_pairs_share_the_file_of_their_chunk(pipeline: Any) -> None:
    location = pipeline.location("explanations")
    files = [
        name for name in read_manifest(location, "explanations").files if name.startswith("part-")
    ]
    assert len(files) == len({name.split("-")[1] for name in files}) > 1
    num_chunks = json.loads((location / "plan.json").read_bytes())["num_chunks"]
    for name in files:
        table = read_table(location / name, GENERATED)
        assert {chunk_of(user_id, num_chunks) for user_id in table["user_id"].to_pylist()} == {
            int(name.split("-")[1]) % num_chunks
        }


@pytest.mark.usefixtures("without_work")
def test_backfill_second_run_does_no_work_and_changes_no_file(pipeline: Any) -> None:
    before = _state(pipeline.location("explanations"))
    again = jobs.backfill.run(pipeline.config(BackfillConfig))
    assert again == pipeline.manifests["explanations"]
    assert _state(pipeline.location("explanations")) == before


@pytest.mark.usefixtures("actors_here")
def test_backfill_after_an_interruption_redoes_only_the_chunk_without_a_record(
    pipeline: Any,
) -> None:
    output = pipeline.copy_of("explanations", "interrupted")
    whole = read_explanations(output)
    parts = [name for name in output.files() if name.startswith("part-")]
    chunk = parts[0].split("-")[1]
    (output / "manifest.json").delete()
    (output / "_SUCCESS").delete()
    (output / "commits" / f"{chunk}.json").delete()
    (output / parts[0]).delete()
    before = _state(output)

    manifest = jobs.backfill.run(pipeline.config(BackfillConfig, explanations=output.uri))
    after = _state(output)
    kept = [name for name in before if f"{chunk}-" not in name and not name.startswith("report.")]
    assert len(kept) > 2
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert set(after) - set(before) == {
        "manifest.json",
        "_SUCCESS",
        f"commits/{chunk}.json",
        parts[0],
    }
    assert read_explanations(output).equals(whole)
    assert manifest.files == pipeline.manifests["explanations"].files
    assert manifest.fingerprint == pipeline.manifests["explanations"].fingerprint


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        (
            {
                "decoding": {
                    "max_new_tokens": 9,
                    "text": {
                        "max_words": None,
                        "max_phrase_repeats": None,
                        "max_echo_tokens": None,
                    },
                }
            },
            "decoding.max_new_tokens: 8 there, 9 here",
        ),
        ({"rows_per_chunk": 4}, "rows_per_chunk: 8 there, 4 here"),
        ({"pairs": {"kind": "top_k", "k": 1}}, "inputs.pairs: "),
    ],
)
def test_backfill_into_another_runs_output_is_refused_naming_the_field(
    pipeline: Any, values: dict[str, Any], field: str
) -> None:
    before = _state(pipeline.location("explanations"))
    with pytest.raises(
        ArtifactMismatchError, match="holds the explanations of another run"
    ) as raised:
        jobs.backfill.run(pipeline.config(BackfillConfig, **values))
    lines = [line.strip() for line in str(raised.value).splitlines()[1:-1]]
    assert len(lines) == 1
    assert lines[0].startswith(field)
    assert _state(pipeline.location("explanations")) == before


@pytest.mark.usefixtures("without_work")
def test_backfill_into_another_kind_of_artifact_is_refused(pipeline: Any) -> None:
    before = _state(pipeline.location("graph"))
    with pytest.raises(
        ArtifactMismatchError, match="holds a graph artifact, expected a explanations artifact"
    ):
        jobs.backfill.run(
            pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/graph")
        )
    assert _state(pipeline.location("graph")) == before


@pytest.mark.usefixtures("without_work")
def test_backfill_of_an_adapter_for_another_language_model_is_refused(
    pipeline: Any, tmp_path: Path
) -> None:
    other = pipeline.copy_of("llm", "other-llm")
    (other / "config.json").write_bytes(
        (other / "config.json").read_bytes().replace(b'"rms_norm_eps"', b'"rms_norm_eps" ')
    )
    llm = {"model": other.uri, "cache_dir": str(tmp_path)}
    with pytest.raises(
        ArtifactMismatchError,
        match=r"other-llm' has fingerprint \w+, but the adapter was trained for 'llm'",
    ):
        jobs.backfill.run(
            pipeline.config(BackfillConfig, llm=llm, explanations=f"{pipeline.workspace}/other-run")
        )
    assert not pipeline.location("other-run").exists()


@pytest.mark.usefixtures("without_work")
def test_backfill_of_an_adapter_for_another_graph_is_refused(pipeline: Any) -> None:
    other = pipeline.copy_of("graph", "other-graph")
    manifest = read_manifest(other, "graph")
    changed = manifest.model_copy(update={"fingerprint": "0" * 16})
    (other / "manifest.json").write_bytes(changed.model_dump_json().encode())
    with pytest.raises(
        ArtifactMismatchError,
        match=rf"fingerprint {'0' * 16}, but the adapter was trained on graph "
        rf"{manifest.fingerprint}",
    ):
        jobs.backfill.run(
            pipeline.config(
                BackfillConfig, graph=other.uri, explanations=f"{pipeline.workspace}/other-run"
            )
        )
    assert not pipeline.location("other-run").exists()


@pytest.mark.usefixtures("without_work")
def test_backfill_without_an_adapter_names_the_job_to_run(pipeline: Any) -> None:
    values = {
        "adapter": f"{pipeline.workspace}/nowhere",
        "explanations": f"{pipeline.workspace}/other-run",
    }
    with pytest.raises(
        ArtifactNotFoundError, match=r"nowhere: no adapter artifact .* run xrec train-adapter"
    ):
        jobs.backfill.run(pipeline.config(BackfillConfig, **values))
    assert not pipeline.location("other-run").exists()


@pytest.mark.usefixtures("without_work")
def test_backfill_to_a_bucket_that_is_not_there_says_so(pipeline: Any) -> None:
    with pytest.raises(StorageNotFoundError, match="s3://no-such-bucket/out: not found"):
        jobs.backfill.run(pipeline.config(BackfillConfig, explanations="s3://no-such-bucket/out"))


@pytest.mark.usefixtures("without_work")
def test_backfill_with_a_wrong_secret_is_refused_before_any_ray_starts(pipeline: Any) -> None:
    storage = StorageConfig(
        endpoint_url=pipeline.storage.endpoint_url,
        access_key_id=pipeline.storage.access_key_id,
        secret_access_key="not the secret",
        max_attempts=5,
    )
    with pytest.raises(StorageAccessError, match=r"access refused .*AWS_SECRET_ACCESS_KEY"):
        jobs.backfill.run(pipeline.config(BackfillConfig, storage=storage))


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pairs={kind: table, uri: '{uri}/missing.parquet'}"], 1, "missing.parquet: not found"),
        (
            ["pairs={kind: table, uri: '{uri}/wrong-column.parquet'}"],
            1,
            "expected columns user_id and item_id, saw user, item",
        ),
        (["pairs={kind: table, uri: '{uri}/dataset/manifest.json'}"], 1, "expected Parquet files"),
        (["pairs.kidn=table"], 2, "unknown key"),
        (["pairs={kind: tabel}"], 2, "pairs"),
        (["actors.num_actor=3"], 2, "did you mean 'num_actors'"),
    ],
)
def test_backfill_bad_input_on_the_command_line_is_told_and_nothing_written(
    pipeline: Any, config_file: Callable[[Any], Path], arguments: list[str], code: int, message: str
) -> None:
    wrong = pa.table({"user": ["u0"], "item": ["p0"]})
    (pipeline.location("wrong-column.parquet")).write_bytes(parquet_bytes(wrong, wrong.schema))
    path = config_file(
        pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/other-run")
    )
    result = CliRunner().invoke(
        app,
        [
            "backfill",
            str(path),
            *(argument.replace("{uri}", pipeline.workspace) for argument in arguments),
        ],
    )
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not pipeline.location("other-run").exists()


def test_backfill_second_driver_is_refused_on_the_command_line(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    output = pipeline.copy_of("explanations", "held")
    (output / "manifest.json").delete()
    Lease.acquire(output, 600.0)
    result = CliRunner().invoke(
        app,
        ["backfill", str(config_file(pipeline.config(BackfillConfig, explanations=output.uri)))],
    )
    assert result.exit_code == 1
    assert f"{output.uri}: process " in result.stderr
    assert "holds its lease until" in result.stderr
    assert not (output / "manifest.json").exists()


def test_backfill_clean_deletes_what_no_record_names_and_nothing_else(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    output = pipeline.copy_of("explanations", "garbage")
    before = set(_state(output))
    for name in ("part-00000-deadbeef.parquet", "failed/part-00001-deadbeef.parquet", "notes.txt"):
        (output / name).write_bytes(b"x")
    path = str(config_file(pipeline.config(BackfillConfig, explanations=output.uri)))
    kept = CliRunner().invoke(app, ["backfill", path, "--clean"])
    assert (kept.exit_code, kept.stdout) == (
        0,
        "0 files deleted\n",
    )  # a day has not passed: an attempt may be about to commit them
    result = CliRunner().invoke(app, ["backfill", path, "--clean", "garbage_hours=0"])
    assert (result.exit_code, result.stdout) == (0, "2 files deleted\n")
    assert set(_state(output)) == {*before, "notes.txt"}


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("switches", "lines"),
    [
        ([], ["new_run: false", "retry_failed: null"]),
        (["--new-run"], ["new_run: true"]),
        (["--retry-failed"], ["retry_failed: all"]),
        (["--retry-failed=empty_text"], ["retry_failed: empty_text"]),
    ],
)
def test_backfill_switches_are_config_keys(
    pipeline: Any, config_file: Callable[[Any], Path], switches: list[str], lines: list[str]
) -> None:
    result = CliRunner().invoke(
        app, ["backfill", str(config_file(pipeline.config(BackfillConfig))), *switches, "--dry-run"]
    )
    assert result.exit_code == 0, result.stderr
    assert set(lines) <= set(result.stdout.splitlines())


def test_backfill_place_of_a_new_run_is_known_without_the_model(pipeline: Any) -> None:
    """The place depends on the pairs, so they are read for it even by `xrec status`."""
    pairs = {"kind": "top_k", "k": 1}
    config = pipeline.config(BackfillConfig, pairs=pairs, new_run=True)
    exact, cheap = (jobs.backfill.output(config, exact=exact) for exact in (True, False))
    assert cheap.location.uri == exact.location.uri
    assert cheap.location.uri.startswith(config.artifact("explanations") + "-")
