"""Six jobs on s3:// alone: what each makes, reports about an unfinished run, and refuses."""

import json
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
from tests.world.program import refused, said
from xrec.backfill import read_explanations, read_failed
from xrec.bulk import read_published, read_status
from xrec.config import (
    CONFIG_TYPES,
    BackfillConfig,
)
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ModelError,
    StorageAccessError,
    StorageNotFoundError,
    TableError,
)
from xrec.evaluate.scores import SCORED_PAIRS
from xrec.jobs import ARTIFACT_OF, run_job
from xrec.jobs.output import TABLES
from xrec.storage import parquet_bytes, read_manifest, read_table


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
    """Credentials come with the configs; no artifact and no log of a run may contain them."""
    keys = (pipeline.storage.secret_access_key, pipeline.storage.access_key_id)
    words = [key.get_secret_value().encode() for key in keys]
    for file in pipeline.location("").files():
        assert "checkpoint" not in file
        data = pipeline.location(file).read_bytes()
        assert not [word for word in words if word in data], file


@pytest.mark.usefixtures("actors_here")
def test_backfill_dry_run_and_whole_run_report_what_a_canary_did(pipeline, config_file):
    uri = f"{pipeline.workspace}/begun-small"
    path = config_file(pipeline.config(BackfillConfig, explanations=uri))
    made = pipeline.manifests["explanations"]
    num_pairs = made.row_counts["explanations"] + made.row_counts["failed"]

    backfill = partial(said, "backfill", path)
    out = backfill("--dry-run")
    assert out.startswith(f"# {num_pairs} pairs in {made.metrics['num_chunks']} chunks\n")
    assert "\n# costs are unknown" in out
    assert yaml.safe_load(out)["limit"] is None
    assert not pipeline.location("begun-small").exists()

    out = backfill("limit=9")
    assert out.startswith("reached limit=9; ")
    status = read_status(uri, pipeline.storage)
    assert status.num_done == 9 < num_pairs
    assert f"left: {status.num_left}\n" in out

    before = pipeline.state("begun-small")
    assert "# to come: about " in backfill("--dry-run")
    assert pipeline.state("begun-small") == before
    assert backfill("limit=9").startswith("reached limit=9; ")
    assert read_status(uri, pipeline.storage).num_done == status.num_done

    assert backfill().startswith(f"explanations: {uri}\n  rows: ")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_actors_on_ray_have_the_credentials_of_the_config_and_write_the_same_texts(pipeline):
    uri = f"{pipeline.workspace}/on-ray"
    xrec.jobs.backfill.run(pipeline.config(BackfillConfig, explanations=uri))
    of_ray, here = (
        sorted(read_explanations(each, pipeline.storage)["explanation"].to_pylist())
        for each in (uri, f"{pipeline.workspace}/explanations")
    )
    assert of_ray == here != []


@pytest.mark.usefixtures("without_work")
def test_backfill_dry_run_uses_an_earlier_rate_or_reports_what_is_missing(pipeline, config_file):
    pairs = {"kind": "split", "split": "validation"}
    path = config_file(pipeline.config(BackfillConfig, pairs=pairs))
    out = said("backfill", path, "--dry-run")
    assert f" pairs done at {pipeline.workspace}/explanations; less if any are carried" in out
    assert yaml.safe_load(out)["pairs"]["split"] == "validation"
    out = said("backfill", path, "--dry-run", f"artifacts.adapter={pipeline.workspace}/none")
    missing = f"# cannot tell yet what the run would do: {pipeline.workspace}/none: "
    assert out.startswith(missing)


@pytest.mark.usefixtures("actors_here")
def test_backfill_of_a_rewritten_file_of_pairs_is_compared_by_its_rows(pipeline):
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


def test_backfill_and_evaluate_have_each_held_out_pair_once_beside_its_reference(pipeline):
    location, uri = pipeline.location("evaluation"), pipeline.location("explanations").uri
    dataset = read_dataset(pipeline.location("dataset"))
    users, items = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    references = {
        (users[row["user_index"]], items[row["item_index"]]): row["explanation"]
        for row in dataset.explained_pairs("test").to_pylist()
    }
    explained = read_explanations(uri, pipeline.storage).to_pylist()
    failed = read_failed(uri, storage=pipeline.storage).to_table().to_pylist()
    texts = [(row["user_id"], row["item_id"], row.get("explanation", "")) for row in explained]
    assert all(text for *_, text in texts)
    texts += [(row["user_id"], row["item_id"], "") for row in failed]
    pairs = read_table(location / "pairs.parquet", SCORED_PAIRS).to_pylist()
    assert sorted((row["user_id"], row["item_id"], row["explanation"]) for row in pairs) == sorted(
        texts
    )
    assert {(row["user_id"], row["item_id"]): row["reference"] for row in pairs} == references
    assert len(pairs) == len(references)
    counts = {"explanations": len(explained), "failed": len(failed), "rejected": 0}
    assert pipeline.manifests["explanations"].row_counts == counts
    assert pipeline.manifests["evaluation"].row_counts["explained"] == len(explained)

    metrics = json.loads((location / "metrics.json").read_text())
    assert metrics["coverage"] == pytest.approx(len(explained) / len(pairs))
    assert all(row["shuffled_explanation"] is not None for row in pairs)
    gain = sum(row["nll_shuffled"] - row["nll_own"] for row in pairs) / len(pairs)
    assert metrics["personalization_gain"] == pytest.approx(gain, abs=1e-6)
    names = {"names_item", "names_another_item", "aspects_supported", "aspect_accuracy"}
    assert names <= set(metrics)


def test_explain_prints_the_backfills_text_with_its_inputs_or_the_unknown_id(pipeline, config_file):
    row = read_explanations(pipeline.location("explanations").uri, pipeline.storage).to_pylist()[0]
    dataset = read_dataset(pipeline.location("dataset"))
    user, item = dataset.user_index(row["user_id"]), dataset.item_index(row["item_id"])
    path = config_file(pipeline.config(BackfillConfig))
    out = said("explain", path, "--user", row["user_id"], "--item", row["item_id"])
    assert f"explanation   {row['explanation']}\n" in out
    assert all(shown in out for shown in (row["model_fingerprint"], f"User: <user {user}> "))
    assert f": {dataset.items['title'][item].as_py()}. " in out
    for name, code in (("--item", "unknown_item"), ("--user", "unknown_user")):
        ids = {"--user": row["user_id"], "--item": row["item_id"], name: "nowhere"}
        error = refused("explain", path, *chain(*ids.items()))
        assert (error.exit_code, error.code, "'nowhere'" in str(error)) == (1, code, True)


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
    ("backfill", lambda of: {"storage": of.wrong_storage}, StorageAccessError),
    ("train-adapter", lambda of: {"storage": of.wrong_storage}, StorageAccessError),
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
    "command", ["backfill", "evaluate", "lab compare", "serve", "explain --user u --item i"]
)
def test_job_whose_checks_name_a_missing_list_stops_at_once(tmp_path, command):
    name, *options = command.split()
    job = [name, options.pop(0)] if name == "lab" else [name]
    given = [f"workspace={tmp_path}", f"decoding.text.checks.unsafe_words={tmp_path}/words.txt"]
    assert "words.txt" in str(refused(*job, SAMPLE, *given, *options))
    assert not list(tmp_path.iterdir())
