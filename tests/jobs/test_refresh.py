"""Nights on a small town: what is taken over, what is written again and why; kills; bad input."""

import json
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

import jobs.backfill
import jobs.project_run
from jobs.catalogue import chosen_configs, job_named
from tests.jobs.conftest import DECODING
from tests.world.here import pool_here
from tests.world.models import EMBEDDING_DIM, save_toy_model
from tests.world.program import xrec
from tests.world.shop import write_yaml
from tests.world.workspace import make_adapter
from xrec.backfill import read_explanations, read_failed
from xrec.backfill.identity import PARTS
from xrec.config.data import SampleSource
from xrec.config.project import read_project
from xrec.config.shared import JobConfig
from xrec.data import read_dataset
from xrec.errors import (
    ArtifactNotFoundError,
    BudgetError,
    ConfigError,
    GateError,
    TrainingError,
)
from xrec.graph.artifact import read_graph
from xrec.llm.source import model_fingerprint
from xrec.sample import generate_town, town_tables
from xrec.storage import Manifest, open_location, present, read_manifest

pytestmark = [pytest.mark.usefixtures("ray_cluster", "actors_here"), pytest.mark.slow]

NUM_USERS, NUM_ITEMS, FIRST = 80, 30, 76
SOURCE = SampleSource(
    kind="sample",
    num_users=NUM_USERS,
    num_items=NUM_ITEMS,
    interactions_per_user=10,
    explanations_per_user=4,
)
TRAINING = {
    "loss": {"kind": "bpr"},
    "num_epochs": 6,
    "steps_per_epoch": 8,
    "micro_batch_size": 128,
    "learning_rate": 0.02,
    "patience": 2,
}


def write_day(folder: Path, gone: tuple[str, ...], num_users: int, num_visits: int) -> None:
    """The first users' visits; those from user 60 on have made only `num_visits` of their ten."""
    tables = town_tables(generate_town(SOURCE))
    users = [f"resident-{n}" for n in range(1, num_users + 1)]
    here = pa.array([each for each in users if each not in gone])
    late = pa.array(users[60:])
    place = pa.array([number % 10 for number in range(tables["interactions"].num_rows)])
    visits = tables["interactions"].append_column("place", place)
    made = pc.or_(pc.less(place, num_visits), pc.invert(pc.is_in(visits["user_id"], late)))
    tables["interactions"] = visits.filter(made).drop_columns("place")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("users", "items", "interactions", "explanations"):
        rows = tables[name]
        if "user_id" in rows.column_names:
            rows = rows.filter(pc.is_in(rows["user_id"], here))
        if name == "items" and gone:
            profiles = [
                f"{text} Now with a cellar." if row == 3 else text
                for row, text in enumerate(rows["profile"].to_pylist())
            ]
            rows = rows.set_column(rows.schema.get_field_index("profile"), "profile", [profiles])
        pq.write_table(rows, folder / f"{name}.parquet")


class Town:
    """A project in a folder, and what its commands say."""

    def __init__(self, folder: Path):
        self.folder, self.workspace = folder, folder / "workspace"
        values = {
            "workspace": str(self.workspace),
            "llm": {"model": str(save_toy_model(folder / "llm"))},
            "decoding": DECODING,
            "prepare": {"source": {"kind": "tables", "uri": str(folder / "raw")}},
            "pretrain-graph": {
                "model": {"embedding_dim": EMBEDDING_DIM, "initialization": "random"},
                "training": TRAINING,
                "scaling": {"num_workers": 1, "device": "cpu"},
            },
            "train-adapter": {
                "model": {"num_experts": 2},
                "training": {"max_steps": 2, "global_batch_size": 8},
                "scaling": {"num_workers": 1, "device": "cpu"},
            },
            "recommend": {"k": 3},
            "backfill": {
                "pairs": {"kind": "recommendations"},
                "max_failed_share": 0.5,
                "actors": {"num_actors": 1, "device": "cpu"},
            },
        }
        self.path = write_yaml(folder / "town.yaml", values)

    def configs(self, *overrides: str) -> dict[str, JobConfig]:
        return chosen_configs(read_project(self.path, overrides))

    def begin(self) -> None:
        """All jobs, with an adapter that was not trained."""
        configs = self.configs("pretrain-graph.folds=0")
        adapter = configs.pop("train-adapter")
        first = {name: configs[name] for name in ("prepare", "pretrain-graph")}
        graph = jobs.project_run.run(first, tell=print)
        model = model_fingerprint(self.folder / "llm")
        make_adapter(Path(adapter.artifact("adapter")), graph.fingerprint, model)
        jobs.project_run.run({n: configs[n] for n in ("recommend", "backfill")}, tell=print)

    def refresh(self, *overrides: str, train: bool = False) -> tuple[Manifest, list[str]]:
        lines: list[str] = []
        configs = self.configs(*overrides)
        manifest = jobs.project_run.refresh(configs, train=train, tell=lines.append)
        return manifest, [line for line in lines if "done in" not in line]

    def costs(self, night: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """What each job of a night cost, and all of them."""
        of = json.loads((self.workspace / f"nights/{night}/costs.json").read_text())
        return of, {n: sum(job.get(n, 0) for job in of.values()) for n in {*chain(*of.values())}}

    def texts(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = read_explanations(str(self.workspace / "explanations")).to_pylist()
        return {(row["user_id"], row["item_id"]): row for row in rows}

    def vectors(self, night: str) -> torch.Tensor:
        """Of all users by index."""
        return read_graph(open_location(str(self.workspace / night / "graph"))).users.clone()


@pytest.fixture
def town(tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.recommend._pool", pool_here)
    town = Town(tmp_path)
    write_day(tmp_path / "raw", (), FIRST, 6)
    town.begin()
    return town


def _check_night(town: Town, before: dict[Any, Any], now: dict[Any, Any], made: Manifest) -> None:
    """What nothing changed for is the same row; all others are counted by what changed."""
    keys = {pair: row["content_key"] for pair, row in before.items()}
    same = {pair for pair, row in now.items() if keys.get(pair) == row["content_key"]}
    assert all(now[pair] == before[pair] for pair in same)
    again, num_carried = made.metrics["written_again"], made.metrics["num_carried"]
    assert num_carried == len(same)
    uri = str(town.workspace / "explanations")
    failed_before, failed = (
        {(row["user_id"], row["item_id"]) for row in table.to_table().to_pylist()}
        for table in (read_failed(uri, version=made.version - 1), read_failed(uri))
    )
    planned = {*now, *failed}
    assert again.get("new", 0) == len(planned - set(before) - failed_before)
    assert again.get("failed", 0) == len(planned & failed_before)
    assert num_carried + sum(again.values()) == len(planned)
    assert {part for reason in again for part in reason.split(" + ")} <= {"new", "failed", *PARTS}


def _killed(config: JobConfig) -> Manifest:
    raise TrainingError("killed")


def test_two_nights_with_a_user_removed_keep_what_did_not_change(town, monkeypatch):
    first, raw = town.texts(), town.folder / "raw"
    vectors = [town.vectors("")]
    write_day(raw, ("resident-7",), 78, 7)

    # Killed in the last job: readers have what they had, and the next call goes on.
    with monkeypatch.context() as patch:
        patch.setattr(jobs.backfill, "run", _killed)
        with pytest.raises(TrainingError, match="killed"):
            town.refresh()
    assert town.texts() == first
    base = town.configs()["backfill"]
    assert present(base).artifact("graph") == str(town.workspace / "graph")
    manifest, lines = town.refresh()
    skipped = [line.split()[2].rstrip(":") for line in lines if "skipped" in line]
    assert skipped == ["prepare", "pretrain-graph", "recommend"]
    second = town.texts()
    _check_night(town, first, second, manifest)
    assert len({pair for pair in second if second[pair] == first.get(pair)}) > len(first) / 2
    assert manifest.metrics["written_again"].keys() & {"new", "item_texts"}

    # The same files again: nothing is done.
    version = manifest.version
    manifest, lines = town.refresh()
    assert lines[0] == "the raw files are those of the present dataset"
    assert manifest.version == version
    assert all("skipped" in line for line in lines[1:])
    assert present(base).artifact("graph") == str(town.workspace / "nights/1/graph")
    assert job_named("backfill").output(present(base), exact=False).found().state == "up to date"

    write_day(raw, ("resident-7", "resident-70"), 80, 8)
    manifest, _ = town.refresh()
    third = town.texts()
    _check_night(town, second, third, manifest)
    assert manifest.metrics["made_from"]["dataset"] == "workspace:nights/2/dataset"

    # Both who are gone are holes, and all others have the index and, unless they moved, the vector.
    dataset = read_dataset(open_location(str(town.workspace / "nights/2/dataset")))
    users = dataset.users["user_id"].to_pylist()
    original = read_dataset(open_location(str(town.workspace / "dataset"))).users["user_id"]
    assert [
        "" if name in ("resident-7", "resident-70") else name for name in original.to_pylist()
    ] == users[:FIRST]
    assert not {user for user, _ in third} & {"resident-7", "resident-70", ""}
    vectors += [town.vectors("nights/1"), town.vectors("nights/2")]
    for night, (earlier, later) in enumerate(pairwise(vectors), start=1):
        location = open_location(str(town.workspace / f"nights/{night}/graph"))
        metrics, rows = read_manifest(location, "graph").metrics, later[: len(earlier)]
        moved = (rows != earlier).any(dim=1)
        assert int(moved.sum()) <= metrics["num_moved"] < metrics["num_known"] / 2
        far = (rows - earlier).norm(dim=1) > 0.1 * earlier.norm(dim=1)
        assert torch.equal(moved, far)


def test_night_with_training_writes_all_again_and_its_candidate_can_be_looked_at(town):
    first, words = town.texts(), ("pretrain-graph.folds=2", "backfill.gate.coverage=1")
    write_day(town.folder / "raw", (), 78, 7)
    a_second = "backfill.prices={cpu_hour: 3600}"
    for over in ("seconds=0.02", "money=0.001"):  # the second time by what the first one did
        with pytest.raises(BudgetError, match=r"is used up .* before xrec pretrain-graph") as ended:
            town.refresh(a_second, f"backfill.budget.{over}")
    assert ended.value.metrics["night"] == town.costs(1)[0]["prepare"]
    with pytest.raises(GateError, match="NO coverage") as stopped:
        town.refresh(*words, train=True)
    assert town.texts() == first
    (by_job, costs), told = town.costs(1), stopped.value.metrics
    assert [*by_job] == ["prepare", "pretrain-graph", "train-adapter", "recommend", "backfill"]
    assert told["night"] == pytest.approx(costs)
    assert (told["gate"]["passed"], by_job["backfill"]["tokens"] > 0) == (False, True)
    page = (town.workspace / "nights/1/report.html").read_text()
    shown = ["GateError, exit code 3", "gate.figures.coverage"]
    assert [each for each in (*by_job, *costs, *shown) if each not in page] == []

    # Once more: seconds are added, and what the run cost counts once, in the night's budget too.
    words += (f"backfill.budget.tokens={costs['tokens']:.0f}",)
    code, out, err = xrec("refresh", town.path, *words, "--train", "--json")
    told, again = json.loads(out), town.costs(1)[0]
    assert (code, told["exit_code"], "all jobs" in err) == (3, 3, True), err
    assert told["metrics"]["night.tokens"] == by_job["backfill"]["tokens"]
    assert again["backfill"]["seconds"] > by_job["backfill"]["seconds"]
    assert again["train-adapter"] == by_job["train-adapter"]
    code, out, err = xrec("publish", town.path, "--look")
    assert (code, "pairs differ" in out) == (0, True), err
    code, out, err = xrec("publish", town.path, "--force", "it is a toy", "--json")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["made_from.adapter"] == "workspace:nights/1/adapter"
    again = {name: n for name, n in metrics.items() if name.startswith("written_again.")}
    assert metrics["num_carried"] == 0
    others = {"written_again.new", "written_again.failed"}
    assert all(name in others or "settings" in name for name in again)
    graph = read_manifest(open_location(str(town.workspace / "nights/1/graph")), "graph")
    assert graph.metrics["num_moved"] > 0

    # The next night has the trained adapter, and carries its texts over.
    write_day(town.folder / "raw", (), 79, 8)
    manifest, _ = town.refresh(a_second)
    assert manifest.metrics["made_from"]["adapter"] == "workspace:nights/1/adapter"
    assert manifest.metrics["num_carried"] > 0
    night, (by_job, costs) = manifest.metrics["night"], town.costs(2)
    assert [*by_job] == ["prepare", "pretrain-graph", "recommend", "backfill"]
    assert night == pytest.approx(costs)
    assert night["money"] == pytest.approx(3600 * night["cpu_hours"])
    assert min(each["bytes_written"] for each in by_job.values()) > 0
    assert by_job["backfill"]["tokens"] > 0
    page = (town.workspace / "nights/2/report.html").read_text()
    assert f"published as version {manifest.version}" in page


def test_a_night_that_cannot_be_is_refused(tmp_path):
    town = Town(tmp_path)
    write_day(tmp_path / "raw", (), FIRST, 6)
    with pytest.raises(ArtifactNotFoundError, match="workspace/dataset: no dataset artifact"):
        town.refresh()
    with pytest.raises(ConfigError, match="dataset: the project names a URI of it, and a night"):
        town.refresh("dataset=elsewhere")
    configs = town.configs()
    del configs["backfill"]
    with pytest.raises(ConfigError, match="pretrain-graph, backfill, saw none of backfill"):
        jobs.project_run.refresh(configs, tell=print)
    assert not town.workspace.exists()
