"""All jobs of a project: which ones run, are skipped, refused or redone, and their status."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from tests.errors import raises
from tests.world.program import python, refused, said, xrec
from tests.world.shop import SAMPLE, write_shop, write_yaml
from tests.xrec.jobs.conftest import DECODING, PIPELINE_JOBS
from xrec.backfill import read_explanations
from xrec.backfill.driver import BackfillMetrics
from xrec.bulk import Progress, read_published
from xrec.config import (
    CONFIG_TYPES,
    BackfillConfig,
    JobConfig,
    Project,
    SampleSource,
    read_project,
)
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    ConfigError,
    GateError,
    LeaseError,
)
from xrec.jobs import ARTIFACT_OF, job_named
from xrec.jobs import pipeline as pipeline_job
from xrec.jobs import prepare as prepare_job
from xrec.jobs.output import Output
from xrec.jobs.pipeline import chosen_configs
from xrec.jobs.status import project_status
from xrec.sample import generate_town, town_tables
from xrec.storage import (
    Location,
    only_driver,
    open_location,
    read_manifest,
    write_manifest,
)


def run(configs: dict[str, JobConfig], *, redo: bool = False) -> list[str]:
    """Run the jobs and return the lines of progress without those of times."""
    lines: list[str] = []
    pipeline_job.run(configs, redo=redo, source="town.yaml", tell=lines.append)
    return [line for line in lines if "done in" not in line]


@pytest.fixture
def town(tmp_path):
    """A function that returns the configs of a project with the job `prepare`, with overrides."""
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "town.yaml", values)
    return lambda *overrides: chosen_configs(read_project(path, overrides))


def project_of(pipeline: Any, **changes: dict[str, Any]) -> Project:
    """Return the pipeline's configs as a project; `changes` replace values of its sections."""
    sections = {}
    for job in PIPELINE_JOBS:
        values = pipeline.config(CONFIG_TYPES[job]).model_dump(mode="json")
        sections[job] = {**values, "storage": pipeline.storage.model_dump()}
    for job, change in changes.items():
        for key, value in change.items():
            before = sections[job][key]
            sections[job][key] = {**before, **value} if isinstance(value, dict) else value
    return Project("town.yaml", sections)


def test_run_makes_what_is_missing_skips_what_exists_and_redoes_what_differs(town, tmp_path):
    skipped = ["[1/1] xrec prepare: skipped, it exists with the same settings and inputs"]
    assert run(town()) == ["[1/1] xrec prepare town.yaml"]
    assert run(town()) == skipped
    before = (tmp_path / "workspace/dataset/manifest.json").read_bytes()
    changed = town("prepare.splits.test=0.3")
    saw = {"prepare": ("splits.test: 0.2 there, 0.3 here",)}
    with raises(ArtifactMismatchError, "other_settings", "prepare", saw):
        run(changed)
    assert (tmp_path / "workspace/dataset/manifest.json").read_bytes() == before
    assert run(changed, redo=True) == ["[1/1] xrec prepare town.yaml"]
    manifest = read_manifest(open_location(changed["prepare"].artifact("dataset")), "dataset")
    assert manifest.config["splits"]["test"] == 0.3
    assert run(changed, redo=True) == skipped
    code, out, err = xrec("run", tmp_path / "town.yaml", "prepare.splits.test=0.3")
    assert (code, skipped[0] in err) == (0, True)
    assert out.startswith(f"dataset: {tmp_path}/workspace/dataset\n  rows: ")


def _output(folder: Path) -> Output:
    return Output(open_location(str(folder)), "graph", {}, {}, records=("checkpoints/run.json",))


def test_delete_refuses_all_but_an_artifact_of_its_kind_or_an_unfinished_run(tmp_path):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("years of work")
    with raises(ArtifactMismatchError, "not_an_artifact"):
        _output(strange).delete()
    write_manifest(open_location(str(strange)), "dataset", config={}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError):
        _output(strange).delete()
    assert (strange / "thesis.txt").exists()

    around = tmp_path / "around"
    for folder in (around, around / "dataset"):
        write_manifest(open_location(str(folder)), "graph", config={}, inputs={}, files={})
    with raises(ArtifactMismatchError, "holds_other_artifacts", saw="dataset/manifest.json"):
        _output(around).delete()
    assert (around / "manifest.json").exists()

    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "checkpoints" / "run.json").write_text("{}")
    _output(begun).delete()
    assert not begun.exists()
    _output(begun).delete()  # nothing is there


def test_interrupted_deletion_leaves_no_artifact(tmp_path, monkeypatch):
    folder = tmp_path / "graph"
    write_manifest(open_location(str(folder)), "graph", config={}, inputs={}, files={})
    (folder / "users.npy").write_text("{}")
    made = _output(folder)
    assert made.found().state == "up to date"
    with monkeypatch.context() as patch:
        patch.setattr(Location, "delete_all_but", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            made.delete()
    found = made.found()
    assert (found.state, found.differences) == ("stale", ("its deletion was interrupted",))
    made.delete()
    assert made.found().state == "missing"
    assert not folder.exists()


def test_run_redo_does_not_delete_what_another_driver_trains(town, tmp_path, monkeypatch):
    made = _output(tmp_path / "graph")
    (made.location / "checkpoints/run.json").write_bytes(b'{"config": {"seed": 1}, "inputs": {}}')
    job = SimpleNamespace(output=lambda config, exact: made, run=None)
    monkeypatch.setattr(pipeline_job, "job_named", lambda name: job)
    with (
        only_driver(made.location / "checkpoints", holder="the other driver"),
        pytest.raises(LeaseError),
    ):
        run(town(), redo=True)
    assert (made.location / "checkpoints/run.json").is_file()


@pytest.mark.usefixtures("actors_here")
def test_run_redo_keeps_a_table_readable_until_it_is_replaced(pipeline, monkeypatch):
    output = pipeline.copy_of("explanations", "redone")
    decoding = {**DECODING, "max_new_tokens": 9}
    config = pipeline.config(BackfillConfig, explanations=output.uri, decoding=decoding)
    before = read_explanations(output.uri, pipeline.storage)
    saw = {"backfill": ("decoding.max_new_tokens: 8 there, 9 here",)}
    with raises(ArtifactMismatchError, "other_settings", "backfill", saw):
        run({"backfill": config})
    seen: list[bool] = []

    def look(metrics: BackfillMetrics, progress: Progress) -> None:
        seen.append(read_explanations(output.uri, pipeline.storage).equals(before))

    monkeypatch.setattr(BackfillMetrics, "record", look)
    run({"backfill": config}, redo=True)
    assert seen == [True] * len(seen) != []
    manifest = read_published(output, "explanations")
    assert (manifest.version, manifest.config["decoding"]["max_new_tokens"]) == (1, 9)
    assert run({"backfill": config})[0].endswith("with the same settings and inputs")


def test_unfinished_run_is_compared_too(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    record = '{"run": "r", "config": {"seed": 1}, "inputs": {"dataset": "d"}}'
    (tmp_path / "checkpoints" / "run.json").write_text(record)
    same = replace(_output(tmp_path), config={"seed": 1}, inputs={"dataset": "d"})
    assert same.found().state == "begun"
    assert replace(same, inputs={"dataset": ""}, unchecked=("dataset",)).found().state == "begun"
    found = replace(same, config={"seed": 2}).found()
    assert (found.state, found.differences) == ("stale", ("seed: 1 there, 2 here",))


def test_jobs_that_cannot_run_together_are_refused():
    shared = {"workspace": "w", "llm": {"model": "m"}}
    limited = {**shared, "backfill": {"pairs": {"kind": "split"}, "limit": 5}}
    for values, code, saw in (
        ({**shared, "serve": {}}, "no_job", None),
        (limited, "limit_in_run", 5),
    ):
        with raises(ConfigError, code, saw=saw):
            chosen_configs(Project("town.yaml", values))
    two = {**shared, "pretrain-graph": {}, "train-adapter": {}}
    chosen = chosen_configs(Project("town.yaml", two), first="train-adapter")
    assert list(chosen) == ["train-adapter"]


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize("job", PIPELINE_JOBS)
def test_finished_job_returns_its_manifest_and_writes_nothing(pipeline, job):
    kind = ARTIFACT_OF[job]
    before = pipeline.state(kind)
    assert job_named(job).run(pipeline.config(CONFIG_TYPES[job])) == pipeline.manifests[kind]
    assert pipeline.state(kind) == before


@pytest.fixture(scope="module")
def tables():
    """The tables of a town of 60 users and 60 items."""
    sizes = {"num_users": 60, "num_items": 60, "interactions_per_user": 12}
    return town_tables(generate_town(SampleSource(**{**SAMPLE, **sizes})))


@pytest.mark.parametrize(
    ("lost", "seen"),
    [
        ({"users": ("resident-1",)}, None),  # some always leave
        ({"items": "half", "interactions": "half", "explanations": "half"}, "items"),
        ({"explanations": "all"}, "explanations"),
        ({"users": "the file"}, "users"),  # all profiles would be empty
    ],
)
def test_night_with_files_that_lost_many_rows_stops_before_it_publishes(
    tmp_path, tables, lost, seen
):
    """A table loses one of its users, every other user or item, all rows, or its file."""
    raw, key = tmp_path / "raw", "item_id" if "items" in lost else "user_id"
    ids = tables[f"{key[:4]}s"][key].to_pylist()
    gone = {"half": ids[::2], "all": ids, "the file": ids}
    values = {
        "workspace": str(tmp_path / "workspace"),
        "llm": {"model": "none"},
        "prepare": {"source": {"kind": "tables", "uri": str(raw)}, "max_rejected_share": 1},
        "pretrain-graph": {},
        "train-adapter": {},
        "backfill": {"pairs": {"kind": "split"}},
    }
    path = write_yaml(tmp_path / "town.yaml", values)
    raw.mkdir()
    for name in ("users", "items", "interactions", "explanations"):
        pq.write_table(tables[name], raw / f"{name}.parquet")
    said("prepare", path)
    for name, rows in lost.items():
        those = pc.is_in(tables[name][key], pa.array(gone.get(rows, rows)))
        pq.write_table(tables[name].filter(pc.invert(those)), raw / f"{name}.parquet")
        if rows == "the file":
            (raw / f"{name}.parquet").unlink()
    for _ in range(2 if seen == "items" else 1):  # a second call stops too
        error = refused("refresh", path)
        assert type(error) is (GateError if seen else ArtifactNotFoundError)
        assert not seen or (error.code == "rows_lost" and error.saw[seen] <= 0.5)
    assert not (tmp_path / "workspace/nights/1/graph").exists()
    if seen == "explanations":
        assert type(refused("refresh", path, "backfill.gate.kept=null")) is ArtifactNotFoundError


@pytest.mark.usefixtures("without_work")
def test_finished_project_on_s3_is_skipped_and_its_status_is_up_to_date(pipeline):
    project = project_of(pipeline)
    lines = run(chosen_configs(project))
    assert ["skipped" in line for line in lines] == [True] * 6
    found = {each.kind: each for each in project_status(project)}
    assert {each.state for each in found.values()} == {"up to date"}
    assert all(each.num_bytes > 0 for each in found.values())


def test_run_names_every_job_that_differs_before_any_work(pipeline):
    other_graph = {"pretrain-graph": {"model": {"embedding_dim": 16}}}
    project = project_of(pipeline, **other_graph, evaluate={"max_pairs": 5})
    with raises(ArtifactMismatchError, "other_settings") as raised:
        run(chosen_configs(project))
    assert raised.value.saw["pretrain-graph"] == ("model.embedding_dim: 8 there, 16 here",)
    assert raised.value.saw["evaluate"] == ("max_pairs: 200 there, 5 here",)


def test_status_reports_what_differs_what_depends_on_it_and_what_is_unusable(pipeline):
    other_adapter = {"train-adapter": {"training": {"seed": 7}}}
    elsewhere = {"artifacts": {"evaluation": f"{pipeline.workspace}/graph"}}
    found = project_status(project_of(pipeline, **other_adapter, evaluate=elsewhere))
    states = {each.kind: (each.state, each.notes) for each in found}
    state, (difference, fits) = states["adapter"]
    assert (state, difference) == ("stale", "training.seed: 0 there, 7 here")
    assert fits.startswith("fit to the reference, training (held-out): user profile ")
    assert states["graph"][0] == "up to date"
    assert states["explanations"] == ("stale", ("made from adapter, which is stale",))
    state, (note, *_) = states["evaluation"]
    assert (state, "expected artifact kind evaluation, found graph" in note) == ("unusable", True)


_LOADED = """import sys; from xrec.cli.main import app
for arguments in sys.argv[1:]:
    app(arguments.split(), standalone_mode=False)
print(*({"ray", "torch", "transformers"} & set(sys.modules)), file=sys.stderr)"""


def test_status_and_commands_on_tables_load_neither_torch_nor_ray(config_file, pipeline):
    config = pipeline.config(BackfillConfig)
    uri, path = config.artifact("explanations"), config_file(config)
    storage = yaml.safe_load(path.read_text())["backfill"]["storage"]
    sections = project_of(pipeline).values | {"recommend": {}}
    sections["annotate"] = {"source": {"uri": pipeline.workspace}}
    sections["compare"] = {"entries": ["peter"]}
    sections = {name: {**each, "storage": storage} for name, each in sections.items()}
    write_yaml(path, {"workspace": pipeline.workspace, **sections})
    keys = " ".join(f"storage.{name}={value}" for name, value in storage.items())
    tables = [f"table {each} {uri} {keys}" for each in ("status", "history", "check")]
    ran = python("-c", _LOADED, f"status {path}", f"table diff {uri} 0 0 {keys}", *tables)
    assert (ran.returncode, ran.stderr.split("\n")[-2]) == (0, ""), ran.stderr
    assert ran.stdout.count(" up to date ") == len(pipeline.manifests)


def test_status_of_a_dataset_needs_no_raw_file(tmp_path):
    raw = tmp_path / "raw"
    write_shop(raw)
    columns = {"user_id": "cust_no", "item_id": "sku"}
    source = {"kind": "tables", "uri": str(raw), "files": {"interactions": "orders.csv"}}
    prepare = {"source": {**source, "columns": columns}}
    values = {"workspace": str(tmp_path / "workspace"), "prepare": prepare}
    project = Project("shop.yaml", values)
    prepare_job.run(project.configs(["prepare"])["prepare"])
    (raw / "orders.csv").unlink()
    (dataset,) = project_status(project)
    assert dataset.state == "up to date"
    assert dataset.notes == ("not compared: orders.csv",)
    changed = {**values, "prepare": {**prepare, "splits": {"test": 0.3}}}
    (dataset,) = project_status(Project("shop.yaml", changed))
    assert dataset.state == "stale"
    assert dataset.notes[0] == "splits.test: 0.2 there, 0.3 here"
