"""The job `backfill` on s3://: second and interrupted runs, and what is refused early."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import jobs.backfill
from tests.command_line import xrec
from tests.jobs.conftest import DECODING
from xrec.backfill import read_explanations, read_failed
from xrec.backfill.driver import BackfillMetrics
from xrec.bulk import Progress, read_status
from xrec.config.backfill import BackfillConfig
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    StorageAccessError,
    StorageNotFoundError,
    TableError,
)
from xrec.storage import Location, parquet_bytes, read_manifest


def _state(location: Location) -> dict[str, tuple[Any, Any]]:
    infos = {name: location.fs.info((location / name).path) for name in location.files()}
    return {name: (info["LastModified"], info["ETag"]) for name, info in infos.items()}


def test_backfill_explains_each_held_out_pair_once(pipeline):
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
    rows = [*explained.to_pylist(), *failed.to_pylist()]
    assert sorted((row["user_id"], row["item_id"]) for row in rows) == expected
    counts = {"explanations": explained.num_rows, "failed": failed.num_rows, "rejected": 0}
    assert manifest.row_counts == counts
    assert explained.num_rows > len(expected) / 2
    assert all(explained["explanation"].to_pylist())
    assert set(explained["finish_reason"].to_pylist()) <= {"stop", "length"}
    assert max(explained["num_generated_tokens"].to_pylist()) <= 8
    assert len(set(explained["model_fingerprint"].to_pylist())) == 1


@pytest.mark.usefixtures("without_work")
def test_backfill_second_run_does_no_work_and_changes_no_file(pipeline):
    before = _state(pipeline.location("explanations"))
    again = jobs.backfill.run(pipeline.config(BackfillConfig))
    assert again == pipeline.manifests["explanations"]
    assert _state(pipeline.location("explanations")) == before


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"decoding": {**DECODING, "max_new_tokens": 9}}, "decoding.max_new_tokens: 8 there, 9"),
        ({"pairs": {"kind": "split", "split": "validation"}}, "pairs.split: 'test' there"),
        ({"rows_per_chunk": 4, "carry_from": None, "alongside": True}, ""),
    ],
)
def test_backfill_output_says_in_what_the_published_run_differs(pipeline, values, field):
    for exact in (False, True):
        found = jobs.backfill.output(pipeline.config(BackfillConfig, **values), exact=exact).found()
        assert found.state == ("stale" if field else "up to date")
        assert [each[: len(field)] for each in found.differences] == [field] * bool(field)


def _other_llm(pipeline: Any, cache_dir: Path) -> dict[str, Any]:
    other = pipeline.copy_of("llm", "other-llm")
    config = (other / "config.json").read_bytes()
    (other / "config.json").write_bytes(config.replace(b'"rms_norm_eps"', b'"rms_norm_eps" '))
    return {"llm": {"model": other.uri, "cache_dir": str(cache_dir)}}


def _other_graph(pipeline: Any, _: Path) -> dict[str, Any]:
    other = pipeline.copy_of("graph", "other-graph")
    changed = read_manifest(other, "graph").model_copy(update={"fingerprint": "0" * 16})
    (other / "manifest.json").write_bytes(changed.model_dump_json().encode())
    return {"graph": other.uri}


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (_other_llm, ArtifactMismatchError, r"other-llm' has .*the adapter was trained for 'llm'"),
        (_other_graph, ArtifactMismatchError, "0{16}, but the adapter was trained on graph"),
        (
            lambda pipeline, _: {"adapter": f"{pipeline.workspace}/nowhere"},
            ArtifactNotFoundError,
            "nowhere: no adapter artifact .* run xrec train-adapter",
        ),
        (
            lambda *_: {"explanations": "s3://no-such-bucket/out"},
            StorageNotFoundError,
            "s3://no-such-bucket/out: not found",
        ),
        (
            lambda pipeline, _: {"storage": pipeline.wrong_storage},
            StorageAccessError,
            "access refused .*AWS_SECRET_ACCESS_KEY",
        ),
        (
            lambda pipeline, _: {"explanations": f"{pipeline.workspace}/graph"},
            TableError,
            "graph: holds other files, such as ",
        ),
    ],
)
def test_backfill_that_cannot_work_is_refused_before_any_ray_starts(
    pipeline, tmp_path, values, error, words
):
    out = {"explanations": f"{pipeline.workspace}/other-run"}
    before = _state(pipeline.location("graph"))
    config = pipeline.config(BackfillConfig, **{**out, **values(pipeline, tmp_path)})
    with pytest.raises(error, match=words):
        jobs.backfill.run(config)
    assert pipeline.location("other-run").files() == []
    assert _state(pipeline.location("graph")) == before


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
        (["retry_failed=[emtpy_text]"], 2, "'empty_text'"),
    ],
)
def test_backfill_bad_input_on_the_command_line_is_told_and_nothing_written(
    pipeline, config_file, arguments, code, message
):
    wrong = pa.table({"user": ["u0"], "item": ["p0"]})
    (pipeline.location("wrong-column.parquet")).write_bytes(parquet_bytes(wrong, wrong.schema))
    path = config_file(
        pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/other-run")
    )
    given = [argument.replace("{uri}", pipeline.workspace) for argument in arguments]
    exit_code, _, err = xrec("backfill", path, *given)
    assert (exit_code, message in err) == (code, True), err
    assert pipeline.location("other-run").files() == []


@pytest.mark.usefixtures("actors_here")
def test_backfill_second_driver_is_refused_on_the_command_line_unless_both_are_to_work(
    pipeline, config_file, monkeypatch
):
    config = pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/held")

    def die(metrics: BackfillMetrics, progress: Progress) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("xrec.bulk.driver._SECONDS_BETWEEN_LOOKS", 0.0)
        patched.setattr(BackfillMetrics, "record", die)
        patched.setattr("xrec.bulk.driver._Driver.leave", lambda driver: None)  # as if killed
        with pytest.raises(SystemExit):
            jobs.backfill.run(config)
    path = config_file(config)
    code, _, err = xrec("backfill", path)
    assert (code, "works on this run, and is taken for alive until" in err) == (1, True)
    code, out, err = xrec("backfill", path, "alongside=true")
    assert code == 0, err
    assert out.startswith(f"explanations: {pipeline.workspace}/held\n  rows: ")


@pytest.mark.usefixtures("actors_here")
def test_backfill_dry_run_canary_and_whole_run_tell_of_each_other(pipeline, config_file):
    """A dry run before, a canary, a dry run by its rate, and the rest."""
    uri = f"{pipeline.workspace}/begun-small"
    path = config_file(pipeline.config(BackfillConfig, explanations=uri))
    made = pipeline.manifests["explanations"]
    num_pairs = made.row_counts["explanations"] + made.row_counts["failed"]

    def said(*arguments: str) -> str:
        code, out, err = xrec("backfill", path, *arguments)
        assert code == 0, err
        return out

    out = said("--dry-run")
    assert f"\n# {num_pairs} pairs in {made.metrics['num_chunks']} chunks\n" in out
    assert "\n# what they cost is not known" in out
    assert yaml.safe_load(out)["limit"] is None
    assert not pipeline.location("begun-small").exists()

    out = said("limit=9")
    assert out.startswith("the limit of 9 rows is reached, in whole chunks")
    status = read_status(uri, pipeline.storage)
    assert 9 <= status.num_done < num_pairs
    assert f"left: {status.num_left}\n" in out
    assert status.manifest is None

    before = _state(pipeline.location("begun-small"))
    out = said("--dry-run")
    assert "\n# to come: about " in out
    assert " generated tokens" in out
    assert _state(pipeline.location("begun-small")) == before
    assert said("limit=9").startswith("the limit of 9 rows is reached")
    assert read_status(uri, pipeline.storage).num_done == status.num_done

    assert said().startswith(f"explanations: {uri}\n  rows: ")


@pytest.mark.usefixtures("without_work")
def test_backfill_dry_run_takes_the_rate_of_an_earlier_run_or_says_what_is_missing(
    pipeline, config_file
):
    pairs = {"kind": "split", "split": "validation"}
    path = config_file(pipeline.config(BackfillConfig, pairs=pairs))
    code, out, err = xrec("backfill", path, "--dry-run")
    assert code == 0, err
    assert f" pairs done at {pipeline.workspace}/explanations; less if some " in out
    assert yaml.safe_load(out)["pairs"]["split"] == "validation"
    code, out, err = xrec("backfill", path, "--dry-run", f"adapter={pipeline.workspace}/none")
    assert code == 0, err
    assert "\n# what the run would do cannot be said yet: " in out
    assert f"{pipeline.workspace}/none" in out.splitlines()[-1]


@pytest.mark.usefixtures("actors_here")
def test_backfill_of_pairs_that_were_written_again_is_compared_by_their_rows(pipeline):
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
    assert found(exact=True) == found(exact=False) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.take([1, 0]), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.slice(0, 1), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("stale", ("pairs: others there than here",), ())
