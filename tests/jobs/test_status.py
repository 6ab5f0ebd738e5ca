"""The artifacts of a project: what is there, and whether it is up to date."""

from typing import Any

import yaml

import jobs.prepare
from jobs.status import project_status
from tests.jobs.test_project_run import project_of
from tests.world.program import python, said
from tests.world.shop import SAMPLE, write_shop, write_yaml
from xrec.cli.run_command import _row
from xrec.config.backfill import BackfillConfig
from xrec.config.project import Project


def statuses(project: Project) -> dict[str, Any]:
    return {each.kind: each for each in project_status(project)}


def test_status_of_an_empty_workspace_is_a_table_of_missing_artifacts(tmp_path):
    values = {
        "workspace": str(tmp_path / "workspace"),
        "llm": {"model": "m"},
        "prepare": {"source": SAMPLE},
        "pretrain-graph": {},
        "backfill": {"pairs": {"kind": "split"}},
        "serve": {},
    }
    path = write_yaml(tmp_path / "town.yaml", values)
    out = said("status", path)
    lines = [line.split()[:2] for line in out.splitlines()]
    assert lines == [
        ["artifact", "state"],
        ["dataset", "missing"],
        ["graph", "missing"],
        ["explanations", "missing"],
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_status_of_a_finished_project_on_s3_is_up_to_date_with_rows_size_and_figures(pipeline):
    found = statuses(project_of(pipeline))
    assert {each.state for each in found.values()} == {"up to date"}
    assert all(each.num_bytes > 0 for each in found.values())
    rows = {kind: " ".join(_row(each)) for kind, each in found.items()}
    recall = pipeline.manifests["graph"].metrics["test"]["recall@20"]
    assert f"recall@20 {recall:.4g}" in rows["graph"]
    loss = pipeline.manifests["adapter"].metrics["validation_loss"]
    assert rows["adapter"].endswith(f"validation_loss {loss:.4g}")
    assert "personalization_gain " in rows["evaluation"]
    assert " explanations" in rows["explanations"]


_LOADED = """import sys; from xrec.cli.main import app
for arguments in sys.argv[1:]:
    app(arguments.split(), standalone_mode=False)
print(*({"ray", "torch", "transformers"} & set(sys.modules)), file=sys.stderr)"""


def test_status_and_commands_on_tables_load_neither_torch_nor_ray(config_file, pipeline):
    config = pipeline.config(BackfillConfig)
    uri, path = config.artifact("explanations"), config_file(config)
    storage = yaml.safe_load(path.read_text())["backfill"]["storage"]
    sections = project_of(pipeline).values | {name: {} for name in ("train-aspects", "recommend")}
    sections["annotate"] = {"source": {"kind": "reviews", "uri": pipeline.workspace}}
    sections["compare"] = {"entries": ["peter"]}
    sections = {name: {**each, "storage": storage} for name, each in sections.items()}
    write_yaml(path, {"workspace": pipeline.workspace, **sections})
    keys = " ".join(f"storage.{name}={value}" for name, value in storage.items())
    tables = [f"table {each} {uri} {keys}" for each in ("status", "history", "check")]
    ran = python("-c", _LOADED, f"status {path}", f"table diff {uri} 0 0 {keys}", *tables)
    assert (ran.returncode, ran.stderr.split("\n")[-2]) == (0, ""), ran.stderr
    assert ran.stdout.count(" up to date ") == len(pipeline.manifests)


def test_status_says_what_differs_and_what_follows_from_it(pipeline):
    project = project_of(pipeline)
    adapter = project.values["train-adapter"]
    changed = {**adapter, "training": {**adapter["training"], "seed": 7}}
    found = statuses(Project("town.yaml", {**project.values, "train-adapter": changed}))
    assert found["adapter"].state == "stale"
    difference, fits = found["adapter"].notes
    assert difference == "training.seed: 0 there, 7 here"
    assert fits.startswith("fit to the reference, training (held-out): user profile ")
    assert found["graph"].state == "up to date"
    assert found["explanations"].state == "stale"
    assert found["explanations"].notes == ("made from adapter, which is stale",)


def test_status_of_another_kind_of_artifact_is_unusable(pipeline):
    project = project_of(pipeline)
    values = dict(project.values)
    values["evaluate"] = {**values["evaluate"], "evaluation": f"{pipeline.workspace}/graph"}
    found = statuses(Project("town.yaml", values))
    assert found["evaluation"].state == "unusable"
    assert "holds a graph artifact, expected a evaluation artifact" in found["evaluation"].notes[0]


def test_status_of_a_dataset_reads_no_raw_file_and_needs_none(tmp_path):
    raw = tmp_path / "raw"
    write_shop(raw)
    columns = {"user_id": "cust_no", "item_id": "sku"}
    source = {"kind": "tables", "uri": str(raw), "files": {"interactions": "orders.csv"}}
    prepare = {"source": {**source, "columns": columns}}
    values = {"workspace": str(tmp_path / "workspace"), "prepare": prepare}
    project = Project("shop.yaml", values)
    jobs.prepare.run(project.configs(["prepare"])["prepare"])
    (raw / "orders.csv").unlink()
    (dataset,) = project_status(project)
    assert dataset.state == "up to date"
    assert dataset.notes == ("not compared: orders.csv",)
    changed = {**values, "prepare": {**prepare, "splits": {"test": 0.3}}}
    (dataset,) = project_status(Project("shop.yaml", changed))
    assert dataset.state == "stale"
    assert dataset.notes[0] == "splits.test: 0.2 there, 0.3 here"
