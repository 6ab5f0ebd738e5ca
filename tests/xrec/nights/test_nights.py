"""The life of a project: setup, nights, people who are forgotten, and the endpoint."""

import json
import os
import pkgutil
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import chain
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
from tests.world.here import Killed
from tests.world.models import EMBEDDING_DIM, save_toy_model
from tests.world.program import driver, python, refused, said, wait_until, xrec
from tests.world.shop import SAMPLE, review, write_json_lines, write_project, write_shop, write_yaml
from tests.world.workspace import make_town
from tests.xrec.jobs.conftest import DECODING, train_in_process, work_here
from tests.xrec.serve.local_endpoint import ITEMS, USERS, held_port, serve_config, sse
from xrec.backfill import read_explanations, read_failed
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
)
from xrec.graph.artifact import read_graph
from xrec.jobs import pipeline as pipeline_job
from xrec.jobs import serve as serve_job
from xrec.jobs.pipeline import chosen_configs
from xrec.nights.metrics import HELP
from xrec.sample import generate_town, town_tables
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


@pytest.fixture
def trains_here(monkeypatch):
    train_in_process(monkeypatch)


ONE_WORKER = {"num_processes": 1, "device": "cpu"}
VECTORS = {"embedding_dim": EMBEDDING_DIM, "initialization": "random"}
ADAPTER = {"training": {"max_steps": 2, "global_batch_size": 8}, "workers": ONE_WORKER}


class ProjectHere:
    """A project of these sections in a folder, with a toy language model."""

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
        with pytest.MonkeyPatch.context() as patch:
            train_in_process(patch)
            pipeline_job.run(self.configs("pretrain-graph.folds=0"), tell=print)

    def refresh(self, *overrides: str, train: bool = False) -> Manifest:
        return pipeline_job.refresh(self.configs(*overrides), train=train, tell=print)

    def costs(self, night: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Return what each job of a night cost, and their total."""
        jobs = json.loads((self.workspace / f"nights/{night}/costs.json").read_text())
        names = {*chain(*jobs.values())}
        return jobs, {name: sum(job.get(name, 0) for job in jobs.values()) for name in names}

    def texts(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = read_explanations(str(self.workspace / "explanations")).to_pylist()
        return {(row["user_id"], row["item_id"]): row for row in rows}

    def users(self, dataset: str) -> list[str]:
        users: list[str] = open_dataset(str(self.workspace / dataset)).users["user_id"].to_pylist()
        return users

    def vectors(self, night: str) -> torch.Tensor:
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
    """Write the first users and their visits, without those in `gone`.

    Users from the 61st on have made only `num_visits` of their ten visits. Once someone is gone,
    one item has a new profile.
    """
    tables = town_tables(generate_town(SOURCE))
    users = [f"resident-{n}" for n in range(1, num_users + 1)]
    visits = tables["interactions"]
    is_early = pa.array([row % 10 < num_visits for row in range(visits.num_rows)])
    is_late_user = pc.is_in(visits["user_id"], pa.array(users[60:]))
    tables["interactions"] = visits.filter(pc.or_(is_early, pc.invert(is_late_user)))
    if gone:
        items = tables["items"].to_pylist()
        items[3]["profile"] += " Now with a cellar."
        tables["items"] = pa.Table.from_pylist(items, tables["items"].schema)
    here = pa.array([user for user in users if user not in gone])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("users", "items", "interactions", "explanations"):
        rows = tables[name]
        if name != "items":
            rows = rows.filter(pc.is_in(rows["user_id"], here))
        pq.write_table(rows, folder / f"{name}.parquet")


def town_in(folder: Path) -> ProjectHere:
    write_day(folder / "raw", (), FIRST, 6)
    return ProjectHere(
        folder,
        prepare={"source": {"kind": "tables", "uri": str(folder / "raw")}},
        pretrain_graph={"model": VECTORS, "training": TRAINING, "workers": ONE_WORKER},
        train_adapter={"model": {"num_experts": 2}, **ADAPTER},
        recommend={"k": 3},
        backfill={"actors": ONE_WORKER, "max_failed_share": 0.5},
    )


@pytest.fixture
def town(tmp_path):
    town = town_in(tmp_path)
    town.begin()
    return town


def _check_night(
    town: ProjectHere, before: dict[Any, Any], now: dict[Any, Any], made: Manifest
) -> None:
    """Check that unchanged pairs keep their rows, and that all others are counted by a reason."""
    keys = {pair: row["content_key"] for pair, row in before.items()}
    same = {pair for pair, row in now.items() if keys.get(pair) == row["content_key"]}
    columns = {*next(iter(now.values()))} - {*RANKS.names}
    assert all(now[pair][name] == before[pair][name] for pair in same for name in columns)
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


@pytest.mark.slow
@pytest.mark.usefixtures("trains_here")
def test_night_keeps_what_did_not_change(town):
    before, earlier = town.texts(), town.vectors("")
    write_day(town.folder / "raw", ("resident-7",), 78, 7)
    manifest = town.refresh()
    now, later = town.texts(), town.vectors("nights/1")
    _check_night(town, before, now, manifest)
    assert manifest.metrics["num_carried"] > len(before) / 2
    assert manifest.metrics["written_again"].keys() & {"new", "item_texts"}

    # Who is gone leaves a hole. Others keep their index and, unless it moved, their vector.
    users = ["" if user == "resident-7" else user for user in town.users("dataset")]
    assert town.users("nights/1/dataset")[:FIRST] == users
    assert not {user for user, _ in now} & {"resident-7", ""}
    metrics = read_manifest(open_location(f"{town.workspace}/nights/1/graph"), "graph").metrics
    moved = (later[:FIRST] != earlier).any(dim=1)
    assert int(moved.sum()) <= metrics["num_moved"] < metrics["num_known"] / 2
    far = (later[:FIRST] - earlier).norm(dim=1) > 0.1 * earlier.norm(dim=1)
    assert torch.equal(moved, far)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_night_with_training_rewrites_all_texts_and_its_candidate_can_be_inspected(town):
    first, words = town.texts(), ("pretrain-graph.folds=2", "backfill.gate.coverage=1")
    write_day(town.folder / "raw", (), 78, 7)
    a_second = "backfill.prices={cpu_hour: 3600}"
    for over in ("seconds=0.02", "money=0.001"):  # the second one by what the first try used
        with raises(BudgetError, "budget_used_up", saw="pretrain-graph") as ended:
            town.refresh(a_second, f"backfill.budget.{over}")
    assert ended.value.metrics["night"] == town.costs(1)[0]["prepare"]
    with pytest.raises(GateError) as stopped:
        town.refresh(*words, train=True)
    assert town.texts() == first
    (jobs, costs), metrics = town.costs(2), stopped.value.metrics
    assert [*jobs] == ["prepare", "pretrain-graph", "train-adapter", "recommend", "backfill"]
    assert metrics["night"] == pytest.approx(costs)
    assert (metrics["gate"]["passed"], jobs["backfill"]["tokens"] > 0) == (False, True)
    page = (town.workspace / "nights/2/report.html").read_text()
    assert all(f"<figcaption>{title} " in page for title in ("Cost by job", "Gate"))

    # Repeated, without --train too: seconds add up, but the run's tokens count once, also in the
    # night's budget.
    words += (f"backfill.budget.tokens={costs['tokens']:.0f}",)
    # The gate's exit code stands although the metrics can't be written.
    nowhere = f"{town.path}/in-a-file"
    code, out, err = xrec("refresh", town.path, *words, "--json", "--metrics", nowhere)
    report, again = json.loads(out), town.costs(2)[0]
    assert (code, report["exit_code"], "all jobs" in err) == (3, 3, True), err
    assert "and besides: " in err
    assert report["metrics"]["night.tokens"] == jobs["backfill"]["tokens"]
    assert again["backfill"]["seconds"] > jobs["backfill"]["seconds"]
    assert again["train-adapter"] == jobs["train-adapter"]
    assert "pairs differ" in said("publish", town.path, "--look")
    published = json.loads(said("publish", town.path, "--force", "it is a toy", "--json"))
    metrics = published["metrics"]
    assert metrics["made_from.adapter"] == "workspace:nights/2/adapter"
    assert metrics["num_carried"] == 0
    graph = read_manifest(open_location(str(town.workspace / "nights/2/graph")), "graph")
    assert graph.metrics["num_moved"] > 0

    # The next night has the trained adapter, and carries its texts over.
    write_day(town.folder / "raw", (), 79, 8)
    manifest = town.refresh(a_second)
    assert manifest.metrics["made_from"]["adapter"] == "workspace:nights/2/adapter"
    assert manifest.metrics["num_carried"] > 0
    night, (jobs, costs) = manifest.metrics["night"], town.costs(3)
    assert [*jobs] == ["prepare", "pretrain-graph", "recommend", "backfill"]
    assert night == pytest.approx(costs)
    assert night["money"] == pytest.approx(3600 * night["cpu_hours"])
    assert min(job["bytes_written"] for job in jobs.values()) > 0
    assert jobs["backfill"]["tokens"] > 0


def test_refresh_of_an_incomplete_or_unfinished_project_is_refused(tmp_path):
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
    assert _night_states(nights) == {"published", "kept"}
    nights.age()
    said("nights", "prune", nights.folder / "xrec.yaml", "--retention", 1)
    assert _night_states(nights) == {"published"}
    assert len(open_location(f"{nights.workspace}/nights").folders()) == 1
    nights.check(10)


def _night_states(nights: Nights) -> set[str]:
    lines = said("nights", "list", nights.folder / "xrec.yaml").splitlines()
    return {line.split()[1] for line in lines[1:]}


PERSON = "Zoë Quillfeather/77"
WORDS = ("zorgulent", "luscious", "heavenly")
TRACES = [each.encode() for each in (PERSON, "Quillfeather", *WORDS)]
MADE_OF_PEOPLE = {"annotations", "dataset", "recommendations", "explanations"}
TRACES += [json.dumps(PERSON)[1:-1].encode()]


def write_reviews(folder: Path, *more: dict[str, Any]) -> Path:
    """Write reviews of twelve users, and of PERSON, who alone uses some of WORDS."""
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
        backfill={"actors": ONE_WORKER, "max_failed_share": 1, "gate": None},
    )
    shop.begin()
    return shop


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the bytes of each file, and the decoded rows of Parquet files; nothing is zipped."""
    for path in (each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        yield path, data
        if data[:4] == b"PAR1":
            yield path, str(pq.read_table(pa.BufferReader(data)).to_pylist()).encode()
        assert data[:2] != b"\x1f\x8b"


def traces(*folders: Path) -> set[str]:
    """Return the files with the person's ID or words in their content or name."""
    return {
        str(path)
        for folder in folders
        for path, data in contents(folder)
        if any(trace in data or trace.decode() in str(path) for trace in TRACES)
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop; each of the tests below continues with it."""
    return shop_in(tmp_path_factory.mktemp("shop"))


def forget(path: Path, *arguments: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(said("forget", path, *arguments))
    return report


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
"""The steps at which the command is killed, one call after the other."""


def kill_at(patch: pytest.MonkeyPatch, step: str, when: str) -> None:
    """Make the process die before a step, after it, or halfway through deleting files."""
    do = pkgutil.resolve_name(step)

    def die(*arguments: Any, **options: Any) -> Any:
        raise Killed

    def killed(*arguments: Any, **options: Any) -> Any:
        do(*arguments, **options)
        raise Killed

    halfway = "xrec.storage.location.Location.delete_all_but"
    patch.setattr(halfway if when == "halfway" else step, killed if when == "after" else die)


@pytest.mark.usefixtures("trains_here")
def test_night_publishes_texts_of_new_users_once(shop):
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
    assert float(values["xrec_night_success_timestamp_seconds"]) > 1.7e9
    assert values.keys() == {f"xrec_night_{name}" for name in HELP.keys() - {"money", "gate"}}
    assert said("nights", "list", shop.path).splitlines()[1].split()[:2] == ["1", "published"]
    assert told["metrics"]["made_from.graph"] == "workspace:nights/1/graph"
    now = shop.texts()
    assert "late" in {user for user, _ in now} - {user for user, _ in before}
    assert check_output(str(shop.workspace / "explanations")) == []
    # The same files again; the night is good although its metrics can't be written.
    code, _, err = xrec("refresh", shop.path, "--metrics", metrics / "in-a-file")
    assert (code, err.count("skipped"), err.count("published, but: ")) == (0, 2, 1)


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


@pytest.fixture
def interrupts():
    """Ignore Ctrl-C as in a shell's background, and restore the signals' handlers at the end."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("interrupts")
def test_command_serves_what_the_project_published_until_ctrl_c(
    ray_cluster, shop, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    (user, item), row = next(each for each in shop.texts().items() if each[0][0] != PERSON)

    run, is_told = serve_job.run, threading.Event()

    def run_and_tell(config: Any, reload: Any, ready: Callable[[str], None]) -> None:
        run(config, reload, lambda url: (ready(url), is_told.set()))

    def ask_and_interrupt(url: str) -> tuple[list[dict[str, Any]], list[tuple[str, Any]]]:
        """Return the stored text and the one of an unknown user, and the events of a live one."""
        fresh = {"pairs": [{"user_id": user, "item_id": item, "fresh": True}]}
        route = f"{url}/v1/explanations"
        try:
            assert is_told.wait(120)
            wait_until(lambda: requests.get(f"{url}/readyz", timeout=60).ok)
            got = [requests.get(f"{route}/{n}/{item}", timeout=60).json() for n in (user, "nobody")]
            return got, sse(requests.post(f"{route}/stream", json=fresh, timeout=120))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(serve_job, "run", run_and_tell)
    with held_port() as port, ThreadPoolExecutor() as threads:
        serving = {
            "http": {"port": port},
            "engine": {"max_rows": 8, "kv_cache_gib": 0.05},
            "models": {"device": "cpu"},
        }
        values = {**yaml.safe_load(shop.path.read_text()), "serve": serving}
        url = f"http://127.0.0.1:{port}"
        asked = threads.submit(ask_and_interrupt, url)
        code, out, err = xrec("serve", write_yaml(tmp_path / "serve.yaml", values))
        assert (code, f"serving at {url} " in out + err) == (130, True), err
        (answer, unknown), events = asked.result()
    serve.shutdown()
    assert (answer["source"], answer["explanation"]) == ("backfill", row["explanation"])
    assert unknown["type"] == "/problems/unknown_user"
    *_, (name, live), done = events
    assert (name, live["answer"]["item_id"], done) == ("explanation", item, ("done", {}))


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
    ],
)
def test_forget_refuses_bad_input_and_writes_nothing(tmp_path, monkeypatch, arguments, code, saw):
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": {"kind": "sample"}}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    (tmp_path / "blank.txt").write_text("u1\n\nu2 \n")
    monkeypatch.chdir(tmp_path)
    error = refused("forget", path, *arguments)
    assert (error.exit_code, error.code, error.saw) == (2, code, saw)
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


def test_check_finds_people_in_earlier_versions_of_a_buckets_files(s3, tmp_path):
    bucket = s3.new_bucket()
    values = {"workspace": f"{bucket}/w", "storage": s3.keys, "prepare": {"source": SAMPLE}}
    path, fs = write_yaml(tmp_path / "shop.yaml", values), open_location(bucket, s3.storage).fs

    def version(status: str) -> None:
        setting = {"Bucket": bucket[5:], "VersioningConfiguration": {"Status": status}}
        fs.call_s3("put_bucket_versioning", **setting)

    def check() -> tuple[int, str, set[str], set[str]]:
        """Return the exit code, what the bucket keeps, and which of it has people until when."""
        code, out, _ = xrec("forget", path, "--check")
        report = json.loads(out)
        left = report["remains"]
        assert {each["people"] for each in left} <= {1}
        files = {each["file"].partition("?versionId=")[0] for each in left}
        return code, report["deleted_objects"], files, {each["until"] for each in left}

    said("prepare", path)
    forget(path, "--user", "resident-3")  # which nobody can bring back
    nothing = "nothing, because the bucket has no versioning"
    assert check() == (0, nothing, set(), set())
    version("Enabled")
    said("prepare", path)
    forget(path, "--user", "resident-4")
    users = {f"{bucket}/w/dataset/users.parquet"}
    assert check()[::2] == (1, users)
    version("Suspended")  # keeps what there is
    assert check()[2:] == (users, {"for ever"})
    after = {"NoncurrentDays": 7}
    until = {f"{datetime.now(UTC).date() + timedelta(8)}T00:00+00:00"}
    for expected, *rules in (
        ({"for ever"}, ("w/", "Disabled", after), ("other/", "Enabled", after)),
        ({"for ever"}, ("", "Enabled", {**after, "NewerNoncurrentVersions": 2})),
        (until, ("w/", "Enabled", after), ("", "Enabled", {"NoncurrentDays": 9})),
    ):
        each = [
            {"Filter": {"Prefix": prefix}, "Status": status, "NoncurrentVersionExpiration": ends}
            for prefix, status, ends in rules
        ]
        setting = {"Bucket": bucket[5:], "LifecycleConfiguration": {"Rules": each}}
        fs.call_s3("put_bucket_lifecycle_configuration", **setting)
        assert check()[2:] == (users, expected)


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


@pytest.mark.usefixtures("trains_here")
@pytest.mark.parametrize(
    "command",
    [said, pytest.param(_xrec, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
    ids=["here", "processes"],
)
def test_init_and_run_turn_csv_files_of_other_names_into_explanations(command, tmp_path):
    """The model is a toy, given on the command line; no file is edited."""
    write_shop(tmp_path / "export")
    save_toy_model(tmp_path / "llm")
    project = tmp_path / "project" / "xrec.yaml"
    found = command("init", tmp_path / "project", "--from", tmp_path / "export")
    assert "60 users, 24 items, 480 interactions, 240 explanations" in found
    assert f"next: xrec run {project}" in found
    model = (f"llm.model={tmp_path / 'llm'}", *_TEXTS)
    command("run", project, *model, *_TRAINING)
    workspace = open_location(str(tmp_path / "project" / "workspace"))
    uri = (workspace / "explanations").uri
    explained = read_explanations(uri)
    users = [*explained["user_id"].to_pylist(), *read_failed(uri).to_table()["user_id"].to_pylist()]
    assert sorted(users) == sorted(f"resident-{n}" for n in range(1, 61))
    assert explained.num_rows > 30
    assert set(explained["rank"].to_pylist()) == {1}
    assert read_manifest(workspace / "evaluation", "evaluation").metrics


@pytest.mark.slow
def test_command_serves_swaps_on_sighup_and_ends_on_ctrl_c(tmp_path):
    town, path, log = make_town(tmp_path), tmp_path / "serve.yaml", tmp_path / "log"
    config = serve_config(town)
    with held_port() as port:
        write_project(path, config, http={"port": port})
        with driver("serve", path, log) as process:
            wait_until(lambda: f"serving at http://127.0.0.1:{port} " in log.read_text())
            pair = f"http://127.0.0.1:{port}/v1/explanations/{USERS[0]}/{ITEMS[0]}"

            def model() -> str:
                answer = requests.get(pair, timeout=60, headers={"X-Request-ID": "mine"})
                return str(answer.json()["model_fingerprint"])

            first = model()
            wait_until(lambda: '"request_id": "mine"' in log.read_text())
            path.write_text("serve: {htpp: {}}")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the earlier one stays" in log.read_text())
            assert model() == first
            write_project(path, config, http={"port": port}, adapter=str(town / "adapter-2"))
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: model() != first)
            process.send_signal(signal.SIGINT)
            assert process.wait(180) == 130
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(pair, timeout=5)
    requested = [line for line in log.read_text().splitlines() if line.startswith("{")]
    assert {json.loads(line)["status"] for line in requested} == {200}
    assert USERS[0] not in log.read_text()
