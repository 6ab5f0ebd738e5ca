"""People leave a project: every byte of it is looked at, after each way to be interrupted."""

import gzip
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import jobs.forget
import jobs.project_run
from jobs.catalogue import chosen_configs
from tests.command_line import said, xrec
from tests.project_file import write_yaml
from tests.toy import EMBEDDING_DIM, save_toy_model
from tests.xrec.annotate.review_files import review, write_json_lines
from tests.xrec.annotate.toy_annotator import map_here
from tests.xrec.bulk.toy_run import pool_here
from tests.xrec.generate.town import make_adapter
from xrec.backfill import read_explanations
from xrec.config.project import read_project
from xrec.data import read_dataset
from xrec.llm.source import model_fingerprint
from xrec.storage import manifest_there, node_folder, open_location, read_manifest

PERSON = "Zoë Quillfeather/77"
WORDS = ("zorgulent", "flimbatic", "wuxberry")
TRACES = [each.encode() for each in (PERSON, "Quillfeather", *WORDS)]
TRACES += [json.dumps(PERSON)[1:-1].encode()]


def rows_of_reviews() -> list[dict[str, Any]]:
    """Twelve users; the person's reviews say what no other does, of items that others praise."""
    rows = [
        review(
            f"u{user}",
            f"i{(user + number) % 6}",
            f"The tone is {('warm', 'bright', 'soft')[(user + number) % 3]}. It has a solid bridge.",
            time=number,
        )
        for user in range(12)
        for number in range(5)
    ]
    said = "The zorgulent tone is lovely. It has a flimbatic bridge, and a wuxberry neck. Great tone."
    rows += [review(PERSON, f"i{item}", said, time=item, helpful=9) for item in range(6)]
    rows += [{**review(PERSON, "i1", said, time=1), "rating": "wuxberry"}]
    return rows


class Shop:
    """A project of reviews, whose jobs are run in this process as far as they can be."""

    def __init__(self, folder: Path):
        self.folder, self.workspace = folder, folder / "workspace"
        self.raw = write_json_lines(folder / "reviews.jsonl", rows_of_reviews())
        one = {"num_workers": 1, "device": "cpu"}
        training = {"num_epochs": 2, "steps_per_epoch": 2, "learning_rate": 0.02}
        values = {
            "workspace": str(self.workspace),
            "llm": {"model": str(save_toy_model(folder / "llm"))},
            "decoding": {"max_new_tokens": 8, "text": {"refuses_repetition": False}},
            "annotate": {
                "source": {"kind": "reviews", "uri": str(self.raw)},
                "annotator": {"kind": "phrases", "max_share": 1, "min_reviews": 2},
                "vocabulary": {"add": ["tone", "bridge"], "encoder": None},
                "max_rejected_share": 0.5,
            },
            "prepare": {"source": {"kind": "annotations"}},
            "pretrain-graph": {
                "model": {"embedding_dim": EMBEDDING_DIM, "initialization": "random"},
                "training": training,
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
    """Each file below a folder as it is, and decoded: Parquet by all columns, what is gzipped."""
    for path in (each for each in folder.rglob("*") if each.is_file()):
        data = path.read_bytes()
        yield path, data
        if data[:4] == b"PAR1":
            yield path, str(pq.read_table(pa.BufferReader(data)).to_pylist()).encode()
        if data[:2] == b"\x1f\x8b":
            yield path, gzip.decompress(data)


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
    monkeypatch.setattr("xrec.recommend.RayPool", lambda **settings: pool_here())
    monkeypatch.setattr("xrec.annotate.driver.RayPool", pool_here)
    monkeypatch.setattr("xrec.bulk.work.pool.map_in_processes", map_here)
    monkeypatch.setattr("jobs.annotate.ensure_ray", lambda ray: nullcontext())
    monkeypatch.setattr("jobs.annotate.check_cluster", lambda *arguments, **more: None)
    shop = Shop(tmp_path)
    shop.begin()
    return shop


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "actors_here")
def test_forgotten_person_is_found_in_no_byte(shop):
    print(sorted(traces(shop.workspace, node_folder() / "mapped")))
    for row in read_explanations(str(shop.workspace / "explanations")).to_pylist()[:12]:
        print(row["user_id"], row["item_id"], row["explanation"], row["aspects"])
    report = json.loads(said("forget", shop.path, "--user", PERSON, "--retention", 0, "--json"))
    print(json.dumps(report, indent=1))
    assert traces(shop.workspace, node_folder() / "mapped") == set()
