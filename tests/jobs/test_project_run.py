"""All jobs of a project: which are run, which are skipped, and what is refused or made again."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

import jobs.prepare
import jobs.project_run
import jobs.recommend
from jobs.catalogue import chosen_configs, job_named
from jobs.output import Output
from tests.jobs.conftest import DECODING, PIPELINE_JOBS
from tests.world.program import said, xrec
from tests.world.shop import SAMPLE, write_yaml
from xrec.backfill import read_explanations
from xrec.backfill.driver import BackfillMetrics
from xrec.bulk import Progress
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.data import TABLE_COLUMNS, SampleSource
from xrec.config.jobs import CONFIG_TYPES
from xrec.config.project import Project, read_project
from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ConfigError, LeaseError
from xrec.recommend import plan_recommendations, read_tables
from xrec.sample import generate_town, town_tables
from xrec.storage import open_location, read_manifest, write_manifest
from xrec.train.lease import only_driver


def run(configs: dict[str, JobConfig], *, redo: bool = False) -> list[str]:
    """Run the jobs; returns the lines of progress, without times."""
    lines: list[str] = []
    jobs.project_run.run(configs, redo=redo, source="town.yaml", tell=lines.append)
    return [line for line in lines if "done in" not in line]


@pytest.fixture
def town(tmp_path):
    """The configs of a project of `prepare` alone, with overrides."""
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "town.yaml", values)
    return lambda *overrides: chosen_configs(read_project(path, overrides))


def project_of(pipeline: Any) -> Project:
    """The pipeline's configs as a project: each job's own values in its section."""
    sections = {}
    for job in PIPELINE_JOBS:
        values = pipeline.config(CONFIG_TYPES[job]).model_dump(mode="json")
        sections[job] = {**values, "storage": pipeline.storage.model_dump()}
    return Project("town.yaml", sections)


def test_run_makes_what_is_missing_skips_what_is_there_and_redoes_what_differs(town, tmp_path):
    skipped = ["[1/1] xrec prepare: skipped, it is there with the same settings and inputs"]
    assert run(town()) == ["[1/1] xrec prepare town.yaml"]
    assert run(town()) == skipped
    before = (tmp_path / "workspace/dataset/manifest.json").read_bytes()
    changed = town("prepare.splits.test=0.3")
    with pytest.raises(ArtifactMismatchError) as raised:
        run(changed)
    assert str(raised.value).splitlines()[1:] == [
        "  splits.test: 0.2 there, 0.3 here",
        "  (xrec prepare)",
        "give --redo to delete and make it again, with all that depends on it",
    ]
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


def test_delete_only_what_is_an_artifact_of_that_kind_or_a_begun_run(tmp_path):
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactMismatchError, match="not deleted, since it is no graph of xrec"):
        _output(strange).delete()
    write_manifest(open_location(str(strange)), "dataset", config={}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError, match="holds a dataset artifact, expected a graph"):
        _output(strange).delete()
    assert (strange / "thesis.txt").exists()

    around = tmp_path / "around"
    for folder in (around, around / "dataset"):
        write_manifest(open_location(str(folder)), "graph", config={}, inputs={}, files={})
    with pytest.raises(ArtifactMismatchError, match="holds other artifacts"):
        _output(around).delete()
    assert (around / "manifest.json").exists()

    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    (begun / "checkpoints" / "run.json").write_text("{}")
    _output(begun).delete()
    assert not begun.exists()
    _output(begun).delete()  # nothing is there


@pytest.mark.parametrize("num_deleted", [0, 1, 2, 3, 4])
def test_interrupted_deletion_leaves_no_artifact(tmp_path, monkeypatch, num_deleted):
    folder = tmp_path / "graph"
    write_manifest(open_location(str(folder)), "graph", config={}, inputs={}, files={})
    (folder / "checkpoints").mkdir()
    for name in ("users.npy", "items.npy", "checkpoints/run.json"):
        (folder / name).write_text("{}")
    removed: list[str] = []

    def remove(_: LocalFileSystem, paths: str | list[str], recursive: bool = False) -> None:
        for path in [paths] if isinstance(paths, str) else paths:
            if len(removed) == num_deleted:
                raise KeyboardInterrupt
            removed.append(path)
            Path(path).unlink()

    made = _output(folder)
    assert made.found().state == "up to date"
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "rm", remove)
        with pytest.raises(KeyboardInterrupt):
            made.delete()
    found = made.found()
    assert (found.state, found.differences) == (
        ("stale", ("its deletion was interrupted",)) if num_deleted else ("up to date", ())
    )
    made.delete()
    assert made.found().state == "missing"
    assert not folder.exists()


def test_run_redo_does_not_delete_what_another_driver_trains(town, tmp_path, monkeypatch):
    made = _output(tmp_path / "graph")
    (made.location / "checkpoints/run.json").write_bytes(b'{"config": {"seed": 1}, "inputs": {}}')
    job = SimpleNamespace(output=lambda config, exact: made, run=None)
    monkeypatch.setattr(jobs.project_run, "job_named", lambda name: job)
    with (
        only_driver(made.location / "checkpoints", holder="the other driver"),
        pytest.raises(LeaseError, match="the other driver trains this very run"),
    ):
        run(town(), redo=True)
    assert (made.location / "checkpoints/run.json").is_file()


@pytest.mark.usefixtures("actors_here")
def test_run_redo_of_a_table_lets_its_readers_have_it_until_it_is_replaced(pipeline, monkeypatch):
    output = pipeline.copy_of("explanations", "redone")
    decoding = {**DECODING, "max_new_tokens": 9}
    config = pipeline.config(BackfillConfig, explanations=output.uri, decoding=decoding)
    before = read_explanations(output.uri, pipeline.storage)
    with pytest.raises(ArtifactMismatchError) as raised:
        run({"backfill": config})
    lines = str(raised.value).splitlines()
    assert lines[1] == "  decoding.max_new_tokens: 8 there, 9 here"
    assert lines[-1].startswith("give --redo to replace it, once the new one is done")
    seen: list[bool] = []

    def look(metrics: BackfillMetrics, progress: Progress) -> None:
        seen.append(read_explanations(output.uri, pipeline.storage).equals(before))

    monkeypatch.setattr(BackfillMetrics, "record", look)
    run({"backfill": config}, redo=True)
    assert seen == [True] * len(seen) != []
    manifest = read_manifest(output, "explanations")
    assert (manifest.version, manifest.config["decoding"]["max_new_tokens"]) == (1, 9)
    assert run({"backfill": config})[0].endswith("with the same settings and inputs")


@pytest.mark.parametrize(
    ("config", "inputs", "unchecked", "expected"),
    [
        ({"seed": 1}, {"dataset": "d"}, (), ("begun", ())),
        ({"seed": 2}, {"dataset": "d"}, (), ("stale", ("seed: 1 there, 2 here",))),
        ({"seed": 1}, {"dataset": ""}, ("dataset",), ("begun", ())),
    ],
)
def test_begun_run_is_compared_too(tmp_path, config, inputs, unchecked, expected):
    (tmp_path / "checkpoints").mkdir()
    record = '{"run": "r", "config": {"seed": 1}, "inputs": {"dataset": "d"}}'
    (tmp_path / "checkpoints" / "run.json").write_text(record)
    made = replace(_output(tmp_path), config=config, inputs=inputs, unchecked=unchecked)
    assert (made.found().state, made.found().differences) == expected


@pytest.mark.usefixtures("without_work")
def test_begun_recommendations_are_those_of_the_same_settings(pipeline):
    config = pipeline.config(RecommendConfig, k=3, recommendations=f"{pipeline.workspace}/begun")
    assert jobs.recommend.output(config).found().state == "missing"
    plan_recommendations(config, read_tables(config)[0])
    assert jobs.recommend.output(config).found().state == "begun"
    other = jobs.recommend.output(config.model_copy(update={"k": 2}))
    assert other.found().state == "missing"


def test_run_that_cannot_be_chosen_is_refused():
    shared = {"workspace": "w", "llm": {"model": "m"}}
    limited = {**shared, "backfill": {"pairs": {"kind": "split"}, "limit": 5}}
    for values, words in (
        ({**shared, "serve": {}}, "no job to run; add sections"),
        (limited, r"backfill\.limit = 5: .* give it to xrec backfill"),
    ):
        with pytest.raises(ConfigError, match=words):
            chosen_configs(Project("town.yaml", values))
    two = {**shared, "pretrain-graph": {}, "train-adapter": {}}
    chosen = chosen_configs(Project("town.yaml", two), first="train-adapter")
    assert list(chosen) == ["train-adapter"]


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize("job", PIPELINE_JOBS)
def test_job_that_is_done_gives_its_manifest_and_writes_nothing(pipeline, job):
    kind = job_named(job).artifact
    before = pipeline.state(kind)
    assert job_named(job).run(pipeline.config(CONFIG_TYPES[job])) == pipeline.manifests[kind]
    assert pipeline.state(kind) == before


@pytest.mark.usefixtures("without_work")
def test_run_of_a_finished_project_skips_every_job_and_starts_no_cluster(pipeline):
    lines = run(chosen_configs(project_of(pipeline)))
    assert len(lines) == 6
    assert all("skipped" in line for line in lines)


def test_run_names_every_job_that_differs_before_any_work(pipeline):
    project = project_of(pipeline)
    values = dict(project.values)
    values["pretrain-graph"] = {**values["pretrain-graph"], "model": {"embedding_dim": 16}}
    values["evaluate"] = {**values["evaluate"], "max_pairs": 5}
    with pytest.raises(ArtifactMismatchError) as raised:
        run(chosen_configs(Project("town.yaml", values)))
    assert "  model.embedding_dim: 8 there, 16 here" in str(raised.value)
    assert "  max_pairs: 200 there, 5 here" in str(raised.value)
    assert "(xrec pretrain-graph)" in str(raised.value)


@pytest.mark.parametrize(
    ("lost", "seen"),
    [
        ({"users": ("resident-1",)}, None),  # some always go
        ({"users": "half", "interactions": "half", "explanations": "half"}, "50% of the users"),
        ({"items": "half", "interactions": "half", "explanations": "half"}, "50% of the items"),
        ({"interactions": "half"}, "50% of the interactions"),
        ({"explanations": "all"}, "0% of the explanations"),
        ({"users": "the file"}, "0% of the users"),  # whose profiles would all be empty
    ],
)
def test_night_whose_files_lack_much_of_what_was_there_stops_before_it_publishes(
    tmp_path, lost, seen
):
    """A table loses one of its users, every other user or item, all rows, or its file."""
    source = {**SAMPLE, "num_users": 60, "num_items": 60, "interactions_per_user": 12}
    tables, raw = town_tables(generate_town(SampleSource(**source))), tmp_path / "raw"
    key = "item_id" if "items" in lost else "user_id"
    ids = tables[f"{key[:4]}s"][key].to_pylist()
    gone = {"half": ids[::2], "all": ids, "the file": ids}
    sections = {name: {} for name in ("pretrain-graph", "train-adapter")}
    prepare = {"source": {"kind": "tables", "uri": str(raw)}, "max_rejected_share": 1}
    sections |= {"prepare": prepare, "backfill": {"pairs": {"kind": "split"}}}
    values = {"workspace": str(tmp_path / "workspace"), "llm": {"model": "none"}}
    path = write_yaml(tmp_path / "town.yaml", {**values, **sections})
    raw.mkdir()
    for name in TABLE_COLUMNS:
        pq.write_table(tables[name], raw / f"{name}.parquet")
    said("prepare", path)
    for name, what in lost.items():
        those = pa.array(gone.get(what, what))
        pq.write_table(
            tables[name].filter(pc.invert(pc.is_in(tables[name][key], those))),
            raw / f"{name}.parquet",
        )
        if what == "the file":
            (raw / f"{name}.parquet").unlink()
    for _ in range(2):  # a second call does not pass over it
        code, _, err = xrec("refresh", path)
        assert (code, (seen or "no graph artifact") in err) == (3 if seen else 1, True), err
        assert not (tmp_path / "workspace/nights/1/graph").exists()
    code, _, err = xrec("refresh", path, "backfill.gate.kept=null")
    assert (code, "no graph artifact" in err) == (1, True), err
