"""People leave a project: every byte of it is looked at, after each way to be interrupted."""

import json
import pkgutil
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.project_run
from jobs.catalogue import chosen_configs
from tests.world.here import map_here, pool_here
from tests.world.models import EMBEDDING_DIM, save_toy_model
from tests.world.program import said, xrec
from tests.world.shop import SAMPLE, review, write_json_lines, write_yaml
from tests.world.workspace import make_adapter
from xrec.backfill import read_explanations
from xrec.bulk import check_output, take_down
from xrec.config.project import read_project
from xrec.data.dataset import open_dataset
from xrec.graph.artifact import read_graph
from xrec.llm.source import model_fingerprint
from xrec.storage import node_folder, open_location, read_manifest, write_manifest

PERSON = "Zoë Quillfeather/77"
WORDS = ("zorgulent", "luscious", "heavenly")
TRACES = [each.encode() for each in (PERSON, "Quillfeather", *WORDS)]
TRACES += [json.dumps(PERSON)[1:-1].encode()]


def rows_of_reviews() -> list[dict[str, Any]]:
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
    said = "The tone is luscious. It has a heavenly bridge, and a zorgulent neck. Luscious tone."
    rows += [review(PERSON, f"i{item}", said, time=item, helpful=9) for item in range(6)]
    rows += [{**review(PERSON, "i1", said, time=1), "rating": "zorgulent"}]
    return rows


class Shop:
    """A project of reviews, whose jobs are run in this process as far as they can be."""

    def __init__(self, folder: Path):
        self.folder, self.workspace = folder, folder / "workspace"
        self.raw = write_json_lines(folder / "reviews.jsonl", rows_of_reviews())
        one = {"num_workers": 1, "device": "cpu"}
        values = {
            "workspace": str(self.workspace),
            "llm": {"model": str(save_toy_model(folder / "llm"))},
            "decoding": {"max_new_tokens": 8, "text": {"refuses_repetition": False}},
            "annotate": {
                "source": {"kind": "reviews", "uri": str(self.raw)},
                "annotator": {"kind": "phrases", "min_reviews": 2},
                "vocabulary": {"add": ["tone", "bridge"]},
                "max_rejected_share": 0.5,
            },
            "prepare": {"source": {"kind": "annotations"}},
            "pretrain-graph": {
                "model": {"embedding_dim": EMBEDDING_DIM, "initialization": "random"},
                "training": {"num_epochs": 2, "steps_per_epoch": 2},
                "scaling": one,
            },
            "train-aspects": {"min_item_reviews": 1},
            "train-adapter": {"scaling": one, "prompt": {"aspects": 2}},
            "recommend": {"k": 2},
            "backfill": {
                "pairs": {"kind": "recommendations"},
                "max_failed_share": 1,
                "gate": None,
                "actors": {"num_actors": 1, "device": "cpu"},
            },
        }
        self.path = write_yaml(folder / "shop.yaml", values)

    def begin(self) -> None:
        """All jobs, with an adapter that was not trained; then what is made of their texts."""
        configs = chosen_configs(read_project(self.path, ["pretrain-graph.folds=0"]))
        adapter = configs.pop("train-adapter")
        names = ["annotate", "prepare", "pretrain-graph", "train-aspects"]
        jobs.project_run.run({name: configs[name] for name in names}, tell=print)
        graph = read_manifest(open_location(str(self.workspace / "graph")), "graph")
        folder, model = Path(adapter.artifact("adapter")), model_fingerprint(self.folder / "llm")
        make_adapter(folder, graph.fingerprint, model, aspects=2)
        jobs.project_run.run({n: configs[n] for n in ("recommend", "backfill")}, tell=print)


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


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setattr("xrec.recommend._pool", pool_here)
    monkeypatch.setattr("xrec.annotate.driver.RayPool", pool_here)
    monkeypatch.setattr("xrec.bulk.work.pool.map_in_processes", map_here)
    monkeypatch.setattr("cluster.connect.ensure_ray", lambda ray: nullcontext())
    monkeypatch.setattr("cluster.preflight.check_cluster", lambda *arguments, **more: None)
    shop = Shop(tmp_path)
    shop.begin()
    return shop


def forget(path: Path, *arguments: object) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(said("forget", path, *arguments))
    return report


def users_of(shop: Shop, folder: str) -> list[str]:
    users: list[str] = open_dataset(str(shop.workspace / folder)).users["user_id"].to_pylist()
    return users


class Killed(BaseException):
    """Ends a command as a signal does."""


STEPS = (
    ("xrec.bulk.upkeep.forget_on_list", "before"),
    ("xrec.bulk.upkeep.open_whole", "before"),
    ("jobs.forget.delete_artifact", "halfway"),
    ("jobs.prepare.run", "before"),
    ("jobs.backfill.run", "after"),
    ("jobs.forget.delete_artifact", "halfway"),
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


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "actors_here")
def test_forgotten_person_is_in_no_byte_and_stays_away_wherever_the_command_is_killed(
    shop, monkeypatch
):
    mapped, tables = node_folder() / "mapped", ("explanations", "recommendations")
    uri = str(shop.workspace / "explanations")
    take_down(uri, rows=[{"user_id": PERSON, "item_id": "i1"}], reason=f"{PERSON} asks for it")
    for kind in ("evaluation", "comparison"):
        folder = open_location(str(shop.workspace / kind))
        (folder / "seed-0" / "report.html").write_bytes(PERSON.encode())
        write_manifest(folder, kind, config={}, inputs={})
    # What a night left that was killed.
    said("annotate", shop.path, "annotations=workspace:nights/1/annotations", "limit=5")
    (shop.workspace / "explanations" / ".part-1.parquet.x").write_bytes(PERSON.encode())
    before = traces(shop.workspace, mapped)
    places = {path.removeprefix(f"{shop.workspace}/").split("/")[0] for path in before}
    assert places > {"annotations", "dataset", "nights", "evaluation", "comparison", *tables}
    assert any(path.startswith(str(mapped)) for path in before)
    rows = read_explanations(uri).to_pylist()
    assert any("heavenly" in str(row) for row in rows if row["user_id"] != PERSON)
    users = users_of(shop, "dataset")

    for step, when in STEPS:
        with monkeypatch.context() as patch:
            kill_at(patch, step, when)
            with pytest.raises(Killed):
                forget(shop.path, "--user", PERSON, "--retention", 0)
    report = forget(shop.path, "--user", PERSON, "--retention", 0)
    assert traces(shop.workspace, mapped) == set()
    assert report["given"] == report["on_list"] == 1
    assert f"{shop.workspace}/adapter" in report["models"]
    now = users_of(shop, "nights/1/dataset")
    assert now == ["" if each == PERSON else each for each in users]
    graph = read_graph(open_location(str(shop.workspace / "nights/1/graph")))
    assert not graph.users[users.index(PERSON)].any()
    assert {row["user_id"] for row in read_explanations(uri).to_pylist()} > {"u1", "u2", "u3"}
    for table in tables:
        assert check_output(str(shop.workspace / table)) == []

    # Twice is once, and who is not known is only put on the list.
    again = forget(shop.path, "--user", PERSON)
    assert (again["found"], again["deleted"], again["tables"][uri]["files_deleted"]) == (0, [], 0)
    (shop.folder / "leaving.txt").write_text("nobody-1\r\n\nnobody-2\n", "utf-8-sig")
    other = forget(shop.path, "--users", shop.folder / "leaving.txt")
    assert (other["given"], other["on_list"], other["found"], other["deleted"]) == (2, 3, 0, [])

    # The next night reads the same files with a review more.
    write_json_lines(shop.raw, [*rows_of_reviews(), review("u1", "i0", "A warm tone.", time=9)])
    said("refresh", shop.path)
    assert traces(shop.workspace, mapped) == set()
    assert len(users_of(shop, "nights/2/dataset")) == len(users)
    night = open_location(str(shop.workspace / "nights/2/annotations"))
    assert read_manifest(night, "annotations").metrics["dropped"]["forgotten"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nobody is on the list of the workspace"),
        (("--users", "none.txt"), "expected a text file in UTF-8"),
        (("--users", "blank.txt"), "blank.txt: line 3: blanks beside the id; take them out"),
        (("--user", " "), "nobody is on the list of the workspace"),
        (("--user", "u1", "--retention", "-1"), "greater than or equal to 0"),
        (("--user", "u1", "--retention", "inf"), "less than or equal to"),
    ],
)
def test_forget_of_bad_input_is_refused_and_writes_nothing(
    tmp_path, monkeypatch, arguments, message
):
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": {"kind": "sample"}}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    (tmp_path / "blank.txt").write_text("u1\n\nu2 \n")
    monkeypatch.chdir(tmp_path)
    code, _, err = xrec("forget", path, *arguments)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "workspace").exists()


def test_forget_without_published_texts_deletes_what_has_the_person(tmp_path):
    values = {"workspace": str(tmp_path / "w"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "shop.yaml", values)
    said("prepare", path)
    assert forget(path, "--user", "resident-3", "--later")["tables"] == {}
    assert forget(path, "--user", "resident-99")["deleted"] == [f"{tmp_path}/w/dataset"]
    said("prepare", path)
    manifest = read_manifest(open_location(f"{tmp_path}/w/dataset"), "dataset")
    left_out = manifest.metrics["num_rejected"]
    assert (left_out["users: forgotten"], left_out["interactions: forgotten"]) == (1, 6)
    report = forget(path)
    assert (report["on_list"], report["found"], report["deleted"]) == (2, 0, [])
    (tmp_path / "w/forgotten/key").unlink()
    code, _, err = xrec("prepare", path, "dataset=workspace:other")
    assert (code, "forgotten/key is gone" in err) == (1, True), err
