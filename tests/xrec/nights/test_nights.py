"""A project's life: set up, a night, people who leave, and the endpoint as a process."""

import csv
import json
import os
import pkgutil
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
import requests
import torch
import yaml
from ray import serve

from benchmarks.sixty_nights import BAD, Nights
from tests.errors import raises
from tests.world.models import EMBEDDING_DIM, save_toy_model
from tests.world.program import python, refused, said, xrec
from tests.world.shop import SAMPLE, review, write_json_lines, write_project, write_shop, write_yaml
from tests.world.workspace import make_town
from tests.xrec.jobs.conftest import DECODING, work_here
from tests.xrec.serve.local_endpoint import ITEMS, USERS, held_port, serve_config
from tests.xrec.train.worker import fit_here
from xrec.backfill import present, read_explanations, read_failed
from xrec.backfill.identity import PARTS
from xrec.bulk import check_output, take_down
from xrec.config import JobConfig, SampleSource, read_project
from xrec.data import open_dataset
from xrec.errors import (
    ArtifactNotFoundError,
    BudgetError,
    ConfigError,
    GateError,
    LeaseError,
    TrainingError,
)
from xrec.graph.artifact import read_graph
from xrec.jobs import backfill as backfill_job
from xrec.jobs import job_named
from xrec.jobs import pipeline as pipeline_job
from xrec.jobs.pipeline import chosen_configs
from xrec.nights.metrics import HELP
from xrec.sample import generate_town, town_tables
from xrec.sample.language_model import build_model, train_tokenizer
from xrec.schemas import RANKS
from xrec.storage import (
    Manifest,
    node_folder,
    only_driver,
    open_location,
    read_manifest,
    write_manifest,
    write_table,
)


@pytest.fixture(scope="module", autouse=True)
def no_pools():
    with pytest.MonkeyPatch.context() as patch:
        work_here(patch)
        yield


@contextmanager
def training_here() -> Iterator[None]:
    """Train in this process too; without it, Ray trains."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("graph", "adapter"):
            patch.setattr(f"xrec.train.{module}.fit", fit_here)
        yield


@pytest.fixture
def trains_here():
    with training_here():
        yield


ONE_WORKER = {"num_processes": 1, "device": "cpu"}
VECTORS = {"embedding_dim": EMBEDDING_DIM, "initialization": "random"}
ADAPTER = {"training": {"max_steps": 2, "global_batch_size": 8}, "workers": ONE_WORKER}
BACKFILL = {
    "actors": {"num_processes": 1, "device": "cpu"},
}


class ProjectHere:
    """A project of these sections in a folder, and what its commands say."""

    def __init__(self, folder: Path, **sections: dict[str, Any]):
        self.folder, self.workspace = folder, folder / "workspace"
        model = {"model": str(save_toy_model(folder / "llm"))}
        values = {"workspace": str(self.workspace), "llm": model, "decoding": DECODING}
        named = {name.replace("_", "-"): section for name, section in sections.items()}
        self.path = write_yaml(folder / "project.yaml", {**values, **named})

    def configs(self, *overrides: str) -> dict[str, JobConfig]:
        return chosen_configs(read_project(self.path, overrides))

    def begin(self) -> None:
        """Run all jobs in this process."""
        with training_here():
            pipeline_job.run(self.configs("pretrain-graph.folds=0"), tell=print)

    def refresh(self, *overrides: str, train: bool = False) -> tuple[Manifest, list[str]]:
        lines: list[str] = []
        configs = self.configs(*overrides)
        manifest = pipeline_job.refresh(configs, train=train, tell=lines.append)
        return manifest, [line for line in lines if "done in" not in line]

    def costs(self, night: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """What each job of a night cost, and all of them."""
        of = json.loads((self.workspace / f"nights/{night}/costs.json").read_text())
        return of, {n: sum(job.get(n, 0) for job in of.values()) for n in {*chain(*of.values())}}

    def texts(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = read_explanations(str(self.workspace / "explanations")).to_pylist()
        return {(row["user_id"], row["item_id"]): row for row in rows}

    def users(self, dataset: str) -> list[str]:
        users: list[str] = open_dataset(str(self.workspace / dataset)).users["user_id"].to_pylist()
        return users

    def vectors(self, night: str) -> torch.Tensor:
        """Of all users by index."""
        return read_graph(open_location(str(self.workspace / night / "graph"))).users.clone()


# Nights

FIRST = 76
SOURCE = SampleSource(
    kind="sample",
    num_users=80,
    num_items=30,
    interactions_per_user=10,
    explanations_per_user=4,
)
TRAINING = {
    "loss": "bpr",
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


def town_in(folder: Path) -> ProjectHere:
    write_day(folder / "raw", (), FIRST, 6)
    return ProjectHere(
        folder,
        prepare={"source": {"kind": "tables", "uri": str(folder / "raw")}},
        pretrain_graph={"model": VECTORS, "training": TRAINING, "workers": ONE_WORKER},
        train_adapter={"model": {"num_experts": 2}, **ADAPTER},
        recommend={"k": 3},
        backfill={**BACKFILL, "max_failed_share": 0.5},
    )


@pytest.fixture
def town(tmp_path):
    town = town_in(tmp_path)
    town.begin()
    return town


def _same_text(row: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows differ in rank and score at most."""
    return all(row[name] == other[name] for name in row if name not in RANKS.names)


def _check_night(
    town: ProjectHere, before: dict[Any, Any], now: dict[Any, Any], made: Manifest
) -> None:
    """What nothing changed for is the same row; all others are counted by what changed."""
    keys = {pair: row["content_key"] for pair, row in before.items()}
    same = {pair for pair, row in now.items() if keys.get(pair) == row["content_key"]}
    assert all(_same_text(now[pair], before[pair]) for pair in same)
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


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_two_nights_with_a_user_removed_keep_what_did_not_change(town, monkeypatch):
    first, raw = town.texts(), town.folder / "raw"
    vectors = [town.vectors("")]
    write_day(raw, ("resident-7",), 78, 7)

    # Killed in the last job: readers have what they had, and the next call goes on.
    with monkeypatch.context() as patch:
        patch.setattr(backfill_job, "run", _killed)
        with pytest.raises(TrainingError):
            town.refresh()
    assert town.texts() == first
    base = town.configs()["backfill"]
    assert present(base).artifact("graph") == str(town.workspace / "graph")
    manifest, lines = town.refresh()
    skipped = [line.split()[2].rstrip(":") for line in lines if "skipped" in line]
    assert skipped == ["prepare", "pretrain-graph", "recommend"]
    second = town.texts()
    _check_night(town, first, second, manifest)
    keys = {pair: row["content_key"] for pair, row in first.items()}
    assert (
        sum(row["content_key"] == keys.get(pair) for pair, row in second.items()) > len(first) / 2
    )
    assert manifest.metrics["written_again"].keys() & {"new", "item_texts"}

    # The same files again: nothing is done.
    version = manifest.version
    manifest, lines = town.refresh()
    assert lines[0] == "the raw files did not change"
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
    gone = ("resident-7", "resident-70")
    left = ["" if user in gone else user for user in town.users("dataset")]
    assert town.users("nights/2/dataset")[:FIRST] == left
    assert not {user for user, _ in third} & {*gone, ""}
    vectors += [town.vectors("nights/1"), town.vectors("nights/2")]
    for night, (earlier, later) in enumerate(pairwise(vectors), start=1):
        location = open_location(str(town.workspace / f"nights/{night}/graph"))
        metrics, rows = read_manifest(location, "graph").metrics, later[: len(earlier)]
        moved = (rows != earlier).any(dim=1)
        assert int(moved.sum()) <= metrics["num_moved"] < metrics["num_known"] / 2
        far = (rows - earlier).norm(dim=1) > 0.1 * earlier.norm(dim=1)
        assert torch.equal(moved, far)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_night_with_training_writes_all_again_and_its_candidate_can_be_looked_at(town):
    first, words = town.texts(), ("pretrain-graph.folds=2", "backfill.gate.coverage=1")
    write_day(town.folder / "raw", (), 78, 7)
    a_second = "backfill.prices={cpu_hour: 3600}"
    for over in ("seconds=0.02", "money=0.001"):  # the second time by what the first one did
        with raises(BudgetError, "budget_used_up", saw="pretrain-graph") as ended:
            town.refresh(a_second, f"backfill.budget.{over}")
    assert ended.value.metrics["night"] == town.costs(1)[0]["prepare"]
    with pytest.raises(GateError) as stopped:
        town.refresh(*words, train=True)
    assert town.texts() == first
    (by_job, costs), told = town.costs(2), stopped.value.metrics
    assert [*by_job] == ["prepare", "pretrain-graph", "train-adapter", "recommend", "backfill"]
    assert told["night"] == pytest.approx(costs)
    assert (told["gate"]["passed"], by_job["backfill"]["tokens"] > 0) == (False, True)
    assert (town.workspace / "nights/2/report.html").is_file()

    # Once more, also without --train: seconds are added, and what the run cost counts once, in the
    # night's budget too.
    words += (f"backfill.budget.tokens={costs['tokens']:.0f}",)
    code, out, err = xrec("refresh", town.path, *words, "--json")
    told, again = json.loads(out), town.costs(2)[0]
    assert (code, told["exit_code"], "all jobs" in err) == (3, 3, True), err
    assert told["metrics"]["night.tokens"] == by_job["backfill"]["tokens"]
    assert again["backfill"]["seconds"] > by_job["backfill"]["seconds"]
    assert again["train-adapter"] == by_job["train-adapter"]
    code, out, err = xrec("publish", town.path, "--look")
    assert (code, "pairs differ" in out) == (0, True), err
    code, out, err = xrec("publish", town.path, "--force", "it is a toy", "--json")
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["made_from.adapter"] == "workspace:nights/2/adapter"
    again = {name: n for name, n in metrics.items() if name.startswith("written_again.")}
    assert metrics["num_carried"] == 0
    others = {"written_again.new", "written_again.failed"}
    assert all(name in others or "settings" in name for name in again)
    graph = read_manifest(open_location(str(town.workspace / "nights/2/graph")), "graph")
    assert graph.metrics["num_moved"] > 0

    # The next night has the trained adapter, and carries its texts over.
    write_day(town.folder / "raw", (), 79, 8)
    manifest, _ = town.refresh(a_second)
    assert manifest.metrics["made_from"]["adapter"] == "workspace:nights/2/adapter"
    assert manifest.metrics["num_carried"] > 0
    night, (by_job, costs) = manifest.metrics["night"], town.costs(3)
    assert [*by_job] == ["prepare", "pretrain-graph", "recommend", "backfill"]
    assert night == pytest.approx(costs)
    assert night["money"] == pytest.approx(3600 * night["cpu_hours"])
    assert min(each["bytes_written"] for each in by_job.values()) > 0
    assert by_job["backfill"]["tokens"] > 0


def test_a_night_that_cannot_be_is_refused(tmp_path):
    town = town_in(tmp_path)
    with pytest.raises(ArtifactNotFoundError):
        town.refresh()
    with raises(ConfigError, "uri_in_night", "dataset"):
        town.refresh("artifacts.dataset=elsewhere")
    configs = town.configs()
    del configs["backfill"]
    with raises(ConfigError, "missing", "backfill"):
        pipeline_job.refresh(configs, tell=print)
    assert not town.workspace.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_ten_nights_with_churn_kills_forgets_and_bad_files(tmp_path):
    nights = Nights(tmp_path, num_users=200, num_items=40, seed=0)
    for number in range(1, 11):
        nights.night(number)
    assert nights.stopped.keys() == BAD.keys()
    assert f"{nights.published().version}" in said(
        "table", "history", f"{tmp_path}/workspace/explanations"
    )
    states = {
        line.split()[1]
        for line in said("nights", "list", nights.folder / "xrec.yaml").splitlines()[1:]
    }
    assert states == {"published", "kept"}


PERSON = "Zoë Quillfeather/77"
WORDS = ("zorgulent", "luscious", "heavenly")
TRACES = [each.encode() for each in (PERSON, "Quillfeather", *WORDS)]
MADE_OF_PEOPLE = {"annotations", "dataset", "recommendations", "explanations"}
TRACES += [json.dumps(PERSON)[1:-1].encode()]


def write_reviews(folder: Path, *more: dict[str, Any]) -> Path:
    """Twelve users; the person's reviews say what no other does, of items that others praise."""
    rows = [
        review(
            f"u{user}",
            f"i{(user + number) % 6}",
            f"The tone is {'warm' if user % 2 else 'bright'}. It has a solid bridge.",
            time=number,
        )
        for user in range(12)
        for number in range(5)
    ]
    text = "The tone is luscious. It has a heavenly bridge, and a zorgulent neck. Luscious tone."
    rows += [review(PERSON, f"i{item}", text, time=item, helpful=9) for item in range(4)]
    rows += [{**review(PERSON, "i1", text, time=1), "rating": "zorgulent"}, *more]
    return write_json_lines(folder / "reviews.jsonl", rows)


def shop_in(folder: Path) -> ProjectHere:
    """A shop after its first run."""
    training = {"num_epochs": 2, "steps_per_epoch": 2}
    shop = ProjectHere(
        folder,
        annotate={
            "source": {"uri": str(write_reviews(folder))},
            "annotator": {"kind": "phrases"},
            "vocabulary": {"min_reviews": 2, "add": ["tone", "bridge"]},
            "max_rejected_share": 0.5,
        },
        prepare={"source": {"kind": "annotations"}},
        pretrain_graph={"model": VECTORS, "training": training, "workers": ONE_WORKER},
        train_adapter={**ADAPTER, "prompt": {"aspects": 2}},
        recommend={"k": 2},
        backfill={**BACKFILL, "max_failed_share": 1, "gate": None},
    )
    shop.begin()
    return shop


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Each file below a folder as it is, and Parquet decoded, by all columns; nothing is zipped."""
    for path in (each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        yield path, data
        if data[:4] == b"PAR1":
            yield path, str(pq.read_table(pa.BufferReader(data)).to_pylist()).encode()
        assert data[:2] != b"\x1f\x8b"


def traces(*folders: Path) -> set[str]:
    """The files that have the person's id or words, in their content or their names."""
    return {
        str(path)
        for folder in folders
        for path, data in contents(folder)
        if any(trace in data or trace.decode() in str(path) for trace in TRACES)
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop, for the tests below, each of which goes on with it."""
    return shop_in(tmp_path_factory.mktemp("shop"))


def forget(path: Path, *arguments: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(said("forget", path, *arguments))
    return report


class Killed(BaseException):
    """Ends a command as a signal does."""


STEPS = (
    ("xrec.bulk.upkeep.forget_on_list", "before"),
    ("xrec.bulk.upkeep.open_whole", "before"),
    ("xrec.storage.delete_artifact", "halfway"),
    ("xrec.jobs.prepare.run", "before"),
    ("xrec.jobs.backfill.run", "after"),
    ("xrec.storage.delete_artifact", "halfway"),
    ("xrec.bulk.delete_runs", "after"),
    ("xrec.bulk.vacuum", "after"),
)
"""Where the command is killed, one call after the other."""


def kill_at(patch: pytest.MonkeyPatch, step: str, when: str) -> None:
    """Let the process die before a step, after it, or as it deletes most of some files."""
    do = pkgutil.resolve_name(step)

    def die(*arguments: Any, **options: Any) -> Any:
        raise Killed

    def killed(*arguments: Any, **options: Any) -> Any:
        do(*arguments, **options)
        raise Killed

    halfway = "xrec.storage.location.Location.delete_all_but"
    patch.setattr(halfway if when == "halfway" else step, killed if when == "after" else die)


@pytest.mark.usefixtures("trains_here")
def test_night_publishes_texts_of_who_is_new_once(shop):
    before = shop.texts()
    new = [review("late", f"i{item}", "The tone is warm.", time=9) for item in range(2)]
    write_reviews(shop.folder, *new)
    ahead = said("refresh", shop.path, "--dry-run")
    assert f"night: {shop.workspace}/nights/1\n" in ahead
    assert f"explanations: about {len(before):,}, of which" in ahead
    assert not (shop.workspace / "nights").exists()
    metrics = shop.folder / "night.prom"
    told = json.loads(said("refresh", shop.path, "--json", "--metrics", metrics))
    assert told["version"] == 1
    values = dict(
        line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if line[0] != "#"
    )
    assert values["xrec_night_exit_code"] == "0"
    assert float(values["xrec_night_success_timestamp_seconds"]) > time.time() - 3600
    assert values.keys() == {f"xrec_night_{name}" for name in HELP.keys() - {"money", "gate"}}
    assert said("nights", "list", shop.path).splitlines()[1].split()[:2] == ["1", "published"]
    assert told["metrics"]["made_from.graph"] == "workspace:nights/1/graph"
    now = shop.texts()
    assert "late" in {user for user, _ in now} - {user for user, _ in before}
    assert check_output(str(shop.workspace / "explanations")) == []
    assert xrec("refresh", shop.path)[2].count("skipped") == 2  # the same files again


@pytest.mark.usefixtures("trains_here")
def test_forgotten_person_is_in_no_byte_of_a_project(shop):
    mapped = node_folder() / "mapped"
    places = {path.removeprefix(f"{shop.workspace}/") for path in traces(shop.workspace, mapped)}
    assert {place.split("/")[0] for place in places} > MADE_OF_PEOPLE
    rejected = str(shop.workspace / "annotations" / "reviews" / "rejected.parquet")
    assert rejected in traces(shop.workspace)
    forget(
        shop.path, "--user", "nobody", "--allow-unknown"
    )  # no hash finds them among rows that were rejected
    assert rejected not in traces(shop.workspace)
    training = open_location(str(shop.workspace / "graph")) / "checkpoints"
    with pytest.raises(LeaseError), only_driver(training, holder="a driver"):
        raise refused("forget", shop.path, "--user", PERSON, "--retention", 0)
    assert PERSON not in {user for user, _ in shop.texts()}
    report = forget(shop.path, "--user", PERSON, "--retention", 0)
    assert traces(shop.workspace, mapped) == set()
    assert report["on_list"] == 2
    table = str(shop.workspace / "explanations")
    assert refused("table", "rollback", table, "--version", 0).code == "inputs_gone"
    assert {user for user, _ in shop.texts()} > {"u1", "u2", "u3"}
    assert check_output(str(shop.workspace / "explanations")) == []


def test_command_serves_what_the_project_published_until_ctrl_c(ray_cluster, shop, tmp_path):
    (user, item), row = next(each for each in shop.texts().items() if each[0][0] != PERSON)
    with held_port() as port:
        serving = {
            "http": {"port": port},
            "engine": {"max_rows": 8, "kv_cache_gib": 0.05},
            "models": {"device": "cpu"},
        }
        values = {**yaml.safe_load(shop.path.read_text()), "serve": serving}
        path = write_yaml(tmp_path / "serve.yaml", values)
        with Server(path, RAY_ADDRESS=ray.get_runtime_context().gcs_address) as server:
            server.wait_for(f"serving at http://127.0.0.1:{port} ")
            url = f"http://127.0.0.1:{port}/v1/explanations"
            answer = requests.get(f"{url}/{user}/{item}", timeout=60).json()
            assert (answer["source"], answer["explanation"]) == ("backfill", row["explanation"])
            unknown = requests.get(f"{url}/nobody/{item}", timeout=60).json()
            assert unknown["type"] == "/problems/unknown_user"
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(180) == 130
    serve.shutdown()
    assert answer["explanation"] not in server.output.read_text() + server.errors.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_forgotten_person_is_in_no_byte_and_stays_away_wherever_the_command_is_killed(
    tmp_path, monkeypatch
):
    shop = shop_in(tmp_path)
    mapped = node_folder() / "mapped"
    uri = str(shop.workspace / "explanations")
    take_down(uri, rows=[{"user_id": PERSON, "item_id": "i1"}], reason=f"{PERSON} asks for it")
    for kind in ("evaluation", "comparison"):
        folder = open_location(str(shop.workspace / kind))
        (folder / "seed-0" / "report.html").write_bytes(PERSON.encode())
        write_manifest(folder, kind, config={}, inputs={})
    # What a night left that was killed.
    said("annotate", shop.path, "artifacts.annotations=workspace:nights/1/annotations", "limit=5")
    (shop.workspace / "explanations" / ".part-1.parquet.x").write_bytes(PERSON.encode())
    before = traces(shop.workspace, mapped)
    places = {path.removeprefix(f"{shop.workspace}/").split("/")[0] for path in before}
    assert places > MADE_OF_PEOPLE | {"nights", "evaluation", "comparison"}
    assert any(path.startswith(str(mapped)) for path in before)
    rows = read_explanations(uri).to_pylist()
    assert any("heavenly" in str(row) for row in rows if row["user_id"] != PERSON)
    users = shop.users("dataset")

    for step, when in STEPS:
        with monkeypatch.context() as patch:
            kill_at(patch, step, when)
            with pytest.raises(Killed):
                forget(shop.path, "--user", PERSON, "--retention", 0)
    report = forget(shop.path, "--user", PERSON, "--retention", 0)
    assert traces(shop.workspace, mapped) == set()
    assert report["given"] == report["on_list"] == 1
    assert f"{shop.workspace}/adapter" in report["models"]
    now = shop.users("nights/1/dataset")
    assert now == ["" if each == PERSON else each for each in users]
    graph = read_graph(open_location(str(shop.workspace / "nights/1/graph")))
    assert not graph.users[users.index(PERSON)].any()
    assert {row["user_id"] for row in read_explanations(uri).to_pylist()} > {"u1", "u2", "u3"}
    assert check_output(str(shop.workspace / "explanations")) == []

    # Twice is once, and who is not known is only put on the list.
    again = forget(shop.path, "--user", PERSON)
    assert (again["found"], again["deleted"], again["tables"][uri]["files_deleted"]) == (0, [], 0)
    (shop.folder / "leaving.txt").write_text("nobody-1\r\n\nnobody-2\n", "utf-8-sig")
    other = forget(shop.path, "--users", shop.folder / "leaving.txt", "--allow-unknown")
    assert (other["given"], other["on_list"], other["found"], other["deleted"]) == (2, 3, 0, [])

    # The next night reads the same files with a review more.
    write_reviews(shop.folder, review("u1", "i0", "A warm tone.", time=9))
    said("refresh", shop.path)
    assert traces(shop.workspace, mapped) == set()
    assert len(shop.users("nights/2/dataset")) == len(users)
    night = open_location(str(shop.workspace / "nights/2/annotations"))
    assert read_manifest(night, "annotations").metrics["dropped"]["forgotten"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "saw"),
    [
        ((), "nobody_to_forget", None),
        (("--users", "none.txt"), "unreadable_file", "none.txt"),
        (("--users", "blank.txt"), "blanks_beside_id", 3),
        (("--user", " "), "nobody_to_forget", None),
        (("--user", "u1", "--retention", "-1"), "", None),
        (("--user", "u1", "--retention", "inf"), "", None),
    ],
)
def test_forget_of_bad_input_is_refused_and_writes_nothing(
    tmp_path, monkeypatch, arguments, code, saw
):
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": {"kind": "sample"}}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    (tmp_path / "blank.txt").write_text("u1\n\nu2 \n")
    monkeypatch.chdir(tmp_path)
    if code:
        error = refused("forget", path, *arguments)
        assert (error.exit_code, error.code, error.saw) == (2, code, saw)
    else:
        assert xrec("forget", path, *arguments)[0] == 2
    assert not (tmp_path / "workspace").exists()


def test_forget_without_published_texts_deletes_what_has_the_person(tmp_path):
    values = {"workspace": str(tmp_path / "w"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    said("prepare", path)
    assert forget(path, "--user", "resident-3", "--later")["tables"] == {}
    assert forget(path, "--user", "resident-99", "--allow-unknown")["deleted"] == [
        f"{tmp_path}/w/dataset"
    ]
    said("prepare", path)
    manifest = read_manifest(open_location(f"{tmp_path}/w/dataset"), "dataset")
    left_out = manifest.metrics["num_rejected"]
    assert (left_out["users: forgotten"], left_out["interactions: forgotten"]) == (1, 6)
    report = forget(path)
    assert (report["on_list"], report["found"], report["deleted"]) == (2, 0, [])
    (tmp_path / "w/forgotten/key").unlink()
    assert xrec("prepare", path, "artifacts.dataset=workspace:other")[0] == 1


def test_forget_and_its_check_find_people_in_folders_of_any_name(tmp_path):
    values = {"workspace": str(tmp_path / "w"), "prepare": {"source": SAMPLE}}
    path, workspace = write_yaml(tmp_path / "shop.yaml", values), open_location(f"{tmp_path}/w")
    said("prepare", path)
    dataset = read_manifest(workspace / "dataset", "dataset")
    for copy in ("monday", "nights/3/dataset"):
        shutil.copytree(tmp_path / "w/dataset", tmp_path / "w" / copy)
    rows = pa.table({"user_id": ["resident-3", "resident-4"], "text": ["mine", "other"]})
    made = {
        "recommendations": "recommendations",
        "nights/3/graph": "graph",
        "adapter-2": "adapter",
        "evaluation-2": "evaluation",
        "tuesday/neighbors": "neighbors",
        "random": "baseline",
    }
    for folder, kind in made.items():
        write_table(
            workspace / folder / "rows.parquet", rows.select(["text"]), rows.schema.remove(0)
        )
        inputs = {} if kind == "evaluation" else {"dataset": dataset.fingerprint}
        write_manifest(workspace / folder, kind, config={}, inputs=inputs)
    for name in ("nights/3/annotations/reviews/1.parquet", "exports/of-march.parquet"):
        write_table(workspace / name, rows, rows.schema)
    sources = {"dataset", "monday", "nights/3/dataset", "nights/3/annotations"}

    def remains(code: int) -> set[str]:
        ended, out, _ = xrec("forget", path, "--check")
        report = json.loads(out)
        assert (ended, report["is_clean"], "resident" in out) == (code, code == 0, False)
        return {each["file"].removeprefix(f"{workspace}/") for each in report["remains"]}

    error = refused("forget", path, "--user", "resident-3", "--user", "resdient-4", "--later")
    assert (error.code, error.saw, error.exit_code) == ("unknown_users", 1, 2)
    assert refused("forget", path, "--check").code == "nobody_to_forget"
    forget(path, "--user", "resident-3", "--later")
    assert {name.rpartition("/")[0].removesuffix("/reviews") for name in remains(1)} == {
        *sources,
        "exports",
    }
    report = forget(path)
    assert {*report["deleted"]} == {f"{workspace}/{folder}" for folder in {*sources, *made}}
    assert report["not_understood"] == [f"{workspace}/exports"]
    assert remains(1) == {"exports/of-march.parquet"}
    (workspace / "exports").delete()
    assert remains(0) == set()
    (kept,) = (workspace / "forgotten" / "reports").sizes()
    assert json.loads((workspace / "forgotten" / "reports" / kept).read_text()) == report


_TRAINING = (
    "workers.num_processes=1",
    "pretrain-graph.training.num_epochs=1",
    "train-adapter.training.max_steps=2",
    "recommend.k=1",
    "evaluate.encoder=null",
)
# A toy model writes no sentences, so its texts are not checked.
_TEXTS = (
    "llm.dtype=float32",
    "decoding.max_new_tokens=4",
    "decoding.text={max_words: null, refuses_repetition: false}",
    "backfill.max_failed_share=1",
    "backfill.gate=null",
    "backfill.actors.num_processes=1",
)


def _xrec(*arguments: object) -> str:
    done = python("-m", "xrec.cli", *arguments, timeout=800)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _save_llm(folder: Path, feedback: Path) -> None:
    """A toy model that says words and nothing else: every other token has the score zero.

    Its tokenizer knows the words of the explanations, which then fit the budget that init chose.
    """
    texts = [row["why_bought"] for row in csv.DictReader(feedback.open(newline=""))]
    tokenizer = train_tokenizer(texts, 600)
    torch.manual_seed(0)
    model = build_model(tokenizer, hidden_size=32, num_layers=1)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    is_word = torch.tensor([re.fullmatch("\u0120[a-z]{3,}", token) is not None for token in tokens])
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn(len(tokens), 32) * is_word[:, None])
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.usefixtures("trains_here")
@pytest.mark.parametrize(
    "command", [said, pytest.param(_xrec, marks=pytest.mark.slow)], ids=["here", "processes"]
)
def test_init_and_run_turn_csv_files_of_other_names_into_explanations(command, tmp_path):
    """The model is a toy, given on the command line; no file is edited."""
    write_shop(tmp_path / "export")
    _save_llm(tmp_path / "llm", tmp_path / "export" / "feedback.csv")
    project = tmp_path / "project" / "xrec.yaml"
    found = command("init", tmp_path / "project", "--from", tmp_path / "export")
    assert "60 users, 24 items, 480 interactions, 240 explanations" in found
    assert f"next: xrec run {project}" in found
    model = (f"llm.model={tmp_path / 'llm'}", *_TEXTS)
    command("run", project, *model, *_TRAINING)
    workspace = open_location(str(tmp_path / "project" / "workspace"))
    explained = read_explanations((workspace / "explanations").uri)
    users = {f"resident-{n}" for n in range(1, 61)}
    assert set(explained["user_id"].to_pylist()) == users
    assert explained["rank"].to_pylist() == [1] * 60
    assert read_manifest(workspace / "evaluation", "evaluation").metrics


@pytest.mark.slow
def test_command_that_cannot_listen_says_so(tmp_path):
    config, path = serve_config(make_town(tmp_path)), tmp_path / "serve.yaml"
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        for http in ({"port": port}, {"tls": str(path)}):
            write_project(path, config, http=http)
            done = python("-m", "xrec.cli", "serve", str(path), RAY_ADDRESS="")
            told = [f"http.{name}={value}" for name, value in http.items()]
            assert (done.returncode, "Traceback" in done.stderr) == (1, False)
            assert all(part in done.stderr for part in (*told, "expected a free port"))


class Server:
    """`xrec serve` in a process of its own, which is killed at the end."""

    def __init__(self, path: Path, **variables: str):
        self.output, self.errors = path.with_suffix(".output"), path.with_suffix(".errors")
        command = [sys.executable, "-m", "xrec.cli", "serve", str(path)]
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=errors, env={**os.environ, **variables}
            )

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def wait_for(self, condition: str | Callable[[], bool]) -> None:
        """Wait until a text is in what the process writes, or until `condition` holds."""
        deadline = time.monotonic() + 180
        while not (
            condition in self.output.read_text() + self.errors.read_text()
            if isinstance(condition, str)
            else condition()
        ):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.1)


@pytest.mark.slow
def test_command_serves_swaps_on_sighup_and_ends_on_ctrl_c(tmp_path):
    town, path = make_town(tmp_path), tmp_path / "serve.yaml"
    config = serve_config(town)
    with held_port() as port:
        write_project(path, config, http={"port": port})
        with Server(path, RAY_ADDRESS="") as server:
            server.wait_for(f"serving at http://127.0.0.1:{port} ")
            pair = f"http://127.0.0.1:{port}/v1/explanations/{USERS[0]}/{ITEMS[0]}"

            def model() -> str:
                answer = requests.get(pair, timeout=60, headers={"X-Request-ID": "mine"})
                return str(answer.json()["model_fingerprint"])

            first = model()
            server.wait_for('"request_id": "mine"')
            path.write_text("serve: {htpp: {}}")
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("the earlier one stays")
            assert model() == first
            write_project(path, config, http={"port": port}, adapter=str(town / "adapter-2"))
            server.process.send_signal(signal.SIGHUP)
            server.wait_for(lambda: model() != first)
            server.process.send_signal(signal.SIGINT)
            assert server.process.wait(180) == 130
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(pair, timeout=5)
    _, *lines = server.output.read_text().splitlines()  # the first one tells the address
    assert {json.loads(line)["status"] for line in lines} == {200}
    assert USERS[0] not in server.output.read_text() + server.errors.read_text()
