"""The job `backfill` on s3://: second and interrupted runs, and what is refused early."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

import jobs.backfill
from xrec.backfill import read_explanations, read_failed
from xrec.backfill.progress import ProgressLine
from xrec.bulk import RunState, key_hash, read_plan, read_status
from xrec.cli.main import app
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    StorageAccessError,
    StorageNotFoundError,
    TableError,
)
from xrec.storage import Location, parquet_bytes, read_manifest
from xrec.table import Table


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not be asked for, and no actor, so no model, may be started."""

    def work(*arguments: object) -> None:
        raise AssertionError("the job started to work")

    monkeypatch.setattr(jobs.backfill, "ensure_ray", work)
    monkeypatch.setattr(jobs.backfill, "run_backfill", work)


def _state(location: Location) -> dict[str, tuple[Any, Any]]:
    infos = {name: location.fs.info((location / name).path) for name in location.files()}
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
    explained = read_explanations(location.uri, pipeline.storage)
    failed = read_failed(location.uri, storage=pipeline.storage).to_table()
    rows = [
        (row["user_id"], row["item_id"])
        for table in (explained, failed)
        for row in table.to_pylist()
    ]
    assert sorted(rows) == expected
    assert manifest.row_counts == {
        "explanations": explained.num_rows,
        "failed": failed.num_rows,
        "rejected": 0,
    }
    assert explained.num_rows > len(expected) / 2
    assert all(explained["explanation"].to_pylist())
    assert set(explained["finish_reason"].to_pylist()) <= {"stop", "length"}
    assert max(explained["num_generated_tokens"].to_pylist()) <= 8
    assert len(set(explained["model_fingerprint"].to_pylist())) == 1


def test_backfill_a_users_pairs_share_the_file_of_their_bucket(pipeline: Any) -> None:
    location = pipeline.location("explanations")
    num_buckets = read_plan(location).record.num_buckets
    snapshot = Table.open(location.uri, storage=pipeline.storage).snapshot()
    paths = snapshot.files([("status", "=", "ok")])["path"].to_pylist()
    assert len(paths) > 1
    seen: set[int] = set()
    for path in paths:
        rows = snapshot.dataset(paths=[path]).to_table().to_pylist()
        (bucket,) = {key_hash(row["user_id"]) % num_buckets for row in rows}
        assert {row["bucket"] for row in rows} == {bucket}
        assert bucket not in seen
        seen.add(bucket)


@pytest.mark.usefixtures("without_work")
def test_backfill_second_run_does_no_work_and_changes_no_file(pipeline: Any) -> None:
    before = _state(pipeline.location("explanations"))
    again = jobs.backfill.run(pipeline.config(BackfillConfig))
    assert again == pipeline.manifests["explanations"]
    assert _state(pipeline.location("explanations")) == before


@pytest.mark.usefixtures("actors_here")
def test_backfill_after_an_interruption_does_only_the_chunks_that_are_not_committed(
    pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/interrupted")
    output = pipeline.location("interrupted")

    def interrupt(line: ProgressLine, state: RunState) -> None:
        if state.num_rows:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("xrec.bulk.ledger.COMMIT_SECONDS", 0.0)
        patched.setattr(ProgressLine, "show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            jobs.backfill.run(config)
    table = Table.open(output.uri, storage=pipeline.storage)
    committed = table.snapshot().files().to_pylist()
    assert committed
    assert not (output / "manifest.json").is_file()

    manifest = jobs.backfill.run(config)
    whole = table.snapshot(manifest.version)
    assert [file for file in committed if file in whole.files().to_pylist()] == committed
    assert manifest.row_counts == pipeline.manifests["explanations"].row_counts
    assert _by_pair(read_explanations(output.uri, pipeline.storage)) == _by_pair(
        read_explanations(pipeline.location("explanations").uri, pipeline.storage)
    )


def _by_pair(table: pa.Table) -> list[dict[str, Any]]:
    return table.sort_by([(name, "ascending") for name in ("user_id", "item_id")]).to_pylist()


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
            "config.decoding.max_new_tokens: 8 there, 9 here",
        ),
        ({"rows_per_chunk": 4}, "config.rows_per_chunk: 8 there, 4 here"),
        ({"pairs": {"kind": "split", "split": "validation"}}, "config.pairs.split: 'test' there"),
    ],
)
def test_backfill_into_another_runs_output_is_refused_naming_the_field(
    pipeline: Any, values: dict[str, Any], field: str
) -> None:
    before = _state(pipeline.location("explanations"))
    with pytest.raises(ArtifactMismatchError, match="holds another run") as raised:
        jobs.backfill.run(pipeline.config(BackfillConfig, **values))
    lines = [line.strip() for line in str(raised.value).splitlines()[1:-1]]
    assert len(lines) == 1
    assert lines[0].startswith(field)
    assert _state(pipeline.location("explanations")) == before


@pytest.mark.usefixtures("without_work")
def test_backfill_into_another_kind_of_artifact_is_refused(pipeline: Any) -> None:
    before = _state(pipeline.location("graph"))
    with pytest.raises(TableError, match="graph: holds no table but 4 other files"):
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
    assert pipeline.location("other-run").files() == []


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
    assert pipeline.location("other-run").files() == []


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
    assert pipeline.location("other-run").files() == []


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
    assert pipeline.location("other-run").files() == []


@pytest.mark.usefixtures("actors_here")
def test_backfill_second_driver_is_refused_on_the_command_line_unless_it_takes_over(
    pipeline: Any, config_file: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/held")

    def die(line: ProgressLine, state: RunState) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(ProgressLine, "show", die)
        patched.setattr("xrec.bulk.driver._Driver.leave", lambda driver: None)  # as if killed
        with pytest.raises(SystemExit):
            jobs.backfill.run(config)
    path = str(config_file(config))
    refused = CliRunner().invoke(app, ["backfill", path])
    assert refused.exit_code == 1
    assert "runs this job, and is taken for alive until" in refused.stderr
    assert not (pipeline.location("held") / "manifest.json").exists()
    done = CliRunner().invoke(app, ["backfill", path, "--take-over"])
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"explanations: {pipeline.workspace}/held\n  rows: ")


@pytest.mark.usefixtures("actors_here")
def test_backfill_dry_run_canary_and_whole_run_tell_of_each_other(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    """A dry run before, a canary, a dry run by its rate, and the rest."""
    uri = f"{pipeline.workspace}/begun-small"
    path = str(config_file(pipeline.config(BackfillConfig, explanations=uri)))
    made = pipeline.manifests["explanations"]
    num_pairs = made.row_counts["explanations"] + made.row_counts["failed"]

    def xrec(*switches: str) -> str:
        result = CliRunner().invoke(app, ["backfill", path, *switches])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    out = xrec("--dry-run")
    assert f"\n# {num_pairs} pairs in {made.metrics['num_chunks']} chunks; counted by read" in out
    assert "\n# what they cost is not known" in out
    assert yaml.safe_load(out)["limit"] is None
    assert not pipeline.location("begun-small").exists()

    out = xrec("--limit", "9", "price_per_actor_hour=2")
    assert out.startswith("the limit of 9 pairs is reached, in whole chunks")
    state = read_status(uri, pipeline.storage).state
    assert state is not None
    assert 9 <= state.num_rows < num_pairs
    assert f"left: {num_pairs - state.num_rows}\n" in out
    assert "at the price of an actor's hour" in out
    assert not (pipeline.location("begun-small") / "manifest.json").exists()

    before = _state(pipeline.location("begun-small"))
    out = xrec("--dry-run")
    assert "\n# to come: about " in out
    assert " generated tokens" in out
    assert "they are planned, so no pairs were read" in out
    assert xrec("--limit", "9").startswith("the limit of 9 pairs is reached")
    assert _state(pipeline.location("begun-small")) == before

    assert xrec().startswith(f"explanations: {uri}\n  rows: ")


@pytest.mark.usefixtures("without_work")
def test_backfill_dry_run_takes_the_rate_of_an_earlier_run(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    path = str(config_file(pipeline.config(BackfillConfig, rows_per_chunk=5)))
    result = CliRunner().invoke(app, ["backfill", path, "--new-run", "--dry-run"])
    assert result.exit_code == 0, result.stderr
    assert f" pairs of {pipeline.workspace}/explanations, if none is carried over" in result.stdout
    refused = CliRunner().invoke(app, ["backfill", path, "--dry-run"])
    assert refused.exit_code == 1
    assert "rows_per_chunk: 8 there, 5 here" in refused.stderr
    assert yaml.safe_load(refused.stdout)["rows_per_chunk"] == 5


def test_backfill_dry_run_without_inputs_says_what_is_missing(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    path = str(config_file(pipeline.config(BackfillConfig, adapter=f"{pipeline.workspace}/none")))
    result = CliRunner().invoke(app, ["backfill", path, "--dry-run"])
    assert result.exit_code == 0, result.stderr
    assert "\n# what the run would do cannot be said yet: " in result.stdout
    assert f"{pipeline.workspace}/none" in result.stdout.splitlines()[-1]


def test_backfill_compact_and_vacuum_of_a_finished_run_start_no_cluster(
    pipeline: Any, config_file: Callable[[Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = pipeline.copy_of("explanations", "kept-up")
    before = _by_pair(read_explanations(output.uri, pipeline.storage))
    monkeypatch.setattr(jobs.backfill, "ensure_ray", None)
    path = str(config_file(pipeline.config(BackfillConfig, explanations=output.uri)))
    done = CliRunner().invoke(app, ["backfill", path, "--compact", "--vacuum"])
    assert done.exit_code == 0, done.stderr
    version = read_manifest(output, "explanations").version
    assert version is not None
    assert version > pipeline.manifests["explanations"].version
    files = Table.open(output.uri, storage=pipeline.storage).snapshot(version).files()
    statuses = files["partition.status"].to_pylist()
    assert len(statuses) == len(set(statuses))
    assert _by_pair(read_explanations(output.uri, pipeline.storage)) == before


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("switches", "lines"),
    [
        ([], ["new_run: false", "retry_failed: null"]),
        (["--new-run"], ["new_run: true"]),
        (["--retry-failed"], ["- all"]),
        (["--retry-failed=empty_text,prompt_echo"], ["- empty_text", "- prompt_echo"]),
        (["--take-over"], ["take_over: true"]),
        (["--limit", "7"], ["limit: 7"]),
        (["--compact"], ["  compact: true", "  vacuum: false"]),
        (["--vacuum"], ["  compact: false", "  vacuum: true"]),
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


@pytest.mark.usefixtures("without_work")
def test_backfill_retry_of_a_reason_that_is_none_names_the_reasons(
    pipeline: Any, config_file: Callable[[Any], Path]
) -> None:
    path = str(config_file(pipeline.config(BackfillConfig)))
    result = CliRunner().invoke(app, ["backfill", path, "--retry-failed=emtpy_text"])
    assert result.exit_code == 2
    assert "retry_failed" in result.stderr
    assert "'empty_text'" in result.stderr


def test_backfill_place_of_a_new_run_is_known_without_the_model(pipeline: Any) -> None:
    pairs = {"kind": "top_k", "k": 1}
    config = pipeline.config(BackfillConfig, pairs=pairs, new_run=True)
    exact, cheap = (jobs.backfill.output(config, exact=exact) for exact in (True, False))
    assert cheap.location.uri == exact.location.uri
    assert cheap.location.uri.startswith(config.artifact("explanations") + "-")


@pytest.mark.usefixtures("actors_here")
def test_backfill_of_pairs_that_were_written_again_is_compared_by_their_rows(pipeline: Any) -> None:
    file = pipeline.location("again.parquet")
    pairs = pa.table({"user_id": ["u0", "u1"], "item_id": ["p0", "p1"]})
    config = pipeline.config(
        BackfillConfig,
        pairs={"kind": "table", "uri": file.uri},
        explanations=f"{pipeline.workspace}/of-a-table",
        max_failed_share=1.0,
    )

    def found(exact: bool) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        made = jobs.backfill.output(config, exact=exact)
        return made.found().state, made.found().differences, made.unchecked

    file.write_bytes(parquet_bytes(pairs, pairs.schema))
    jobs.backfill.run(config)
    assert found(exact=True) == found(exact=False) == ("same", (), ())
    file.write_bytes(parquet_bytes(pairs.take([1, 0]), pairs.schema))
    assert found(exact=False) == ("same", (), ("pairs",))
    assert found(exact=True) == ("same", (), ())
    file.write_bytes(parquet_bytes(pairs.slice(0, 1), pairs.schema))
    assert found(exact=False) == ("same", (), ("pairs",))
    assert found(exact=True) == (
        "differs",
        ("pairs: 2 there, 1 here, and not the same ones",),
        (),
    )
