"""`prepare`, from files to artifact: on disk, on S3, twice, on broken input, on the real data."""

import importlib
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.errors import raises
from tests.world.shop import with_uris, write_json_lines
from tests.world.store import requests_of
from tests.xrec.data.test_tables import explained
from xrec.config import PrepareConfig, SplitShares
from xrec.data import Dataset, dataset_settings, open_dataset, read_dataset
from xrec.data.staging import Staging
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    StorageError,
    UnknownIdError,
)
from xrec.jobs.prepare import run as prepare_dataset
from xrec.storage import Manifest, open_location, put_on_list

REAL_DATA = Path(__file__).parents[3].parent / "shared" / "data"
SAMPLE = {"kind": "sample", "num_users": 20, "num_items": 30}
SAMPLE |= {"interactions_per_user": 10, "explanations_per_user": 4}


def _config(workspace: Path | str, source: Mapping[str, Any], **changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({"workspace": str(workspace), "source": source, **changes})


def _tables_config(workspace: Path, folder: Path, **changes: Any) -> PrepareConfig:
    return _config(workspace, {"kind": "tables", "uri": str(folder)}, **changes)


def _dataset(workspace: Path) -> Dataset:
    return read_dataset(open_location(str(workspace / "dataset")))


@pytest.fixture
def release(tmp_path):
    """Files of 50 users with 8 train, 1 validation and 1 test item; 4 train pairs are explained."""
    visits = [(user, (user + step) % 40, step) for user in range(50) for step in range(10)]
    steps = {"trn": range(8), "val": [8], "tst": [9]}
    files = {
        f"total_{split}.csv": "user,item\n"
        + "\n".join(f"{user},{item}" for user, item, step in visits if step in steps[split])
        for split in steps
    }
    files["data.jsonl"] = "\n".join(
        explained(user, item, user_summary=f"U{user}") for user, item, step in visits if step < 4
    )
    (tmp_path / "release").mkdir()
    for name, text in files.items():
        (tmp_path / "release" / name).write_text(text)
    return tmp_path / "release"


def _release_config(tmp_path: Path, release: Path, **changes: Any) -> PrepareConfig:
    return _config(tmp_path / "workspace", {"kind": "xrec_release", "uri": str(release)}, **changes)


def test_prepare_release_gives_a_dataset_without_leaks(tmp_path, release):
    manifest = prepare_dataset(_release_config(tmp_path, release))
    dataset = _dataset(tmp_path / "workspace")
    held_out = sum(dataset.explained_pairs(split).num_rows for split in ("validation", "test"))
    # Each explained pair of these files is a train interaction, so each held-out one is removed.
    assert manifest.metrics["num_removed_edges"] == held_out > 0
    assert dataset.interaction_edges("train").shape == (2, 400 - held_out)
    assert dataset.users["profile"].to_pylist() == sorted(f"U{user}" for user in range(50))
    assert manifest.row_counts["explanations"] == 200


OWN = """user_id,item_id,aspect,opinion,sentiment,split
ann,fox,Frühstück,warm,Positive,
ann,fox,Frühstück,sehr lecker und warm,1,
ann,fox,Lärm,,-1,
bob,fox,Frühstück,,negative,
bob,fox,Lärm,laut,,test
bob,owl,Frühstück,frisch,positive,
cat,owl,Frühstück,,positive,
cat,owl,,,positive,
ann,owl,Lärm,,so-so,
dan,owl,Lärm,,negative,
"""


def test_prepare_own_aspects_count_as_their_pairs_do_and_bad_rows_are_findings(tmp_path):
    files = {
        "aspects.csv": OWN,
        "interactions.csv": "user_id,item_id,split\nann,fox,train\nbob,fox,train\ncat,owl,test\n",
        "dislikes.csv": "user_id,item_id\nbob,owl\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    prepare_dataset(_tables_config(tmp_path / "w", tmp_path, max_rejected_share=0.5))
    dataset = _dataset(tmp_path / "w")
    assert dataset.aspects_from == "reviews"
    (breakfast, noise), (ann, bob, cat) = (0, 1), range(3)
    assert [tuple(row.values())[1:] for row in dataset.aspects.to_pylist()] == [
        ("Frühstück", 2, 1, 1),
        ("Lärm", 1, 0, 1),
    ]
    said = [tuple(row.values()) for row in dataset.explanation_aspects.to_pylist()]
    assert said == [
        (ann, 0, breakfast, "warm", "positive", "train"),
        (ann, 0, noise, "", "negative", "train"),
        (bob, 0, breakfast, "", "negative", "train"),
        (bob, 0, noise, "laut", "positive", "test"),
        (cat, 1, breakfast, "", "positive", "test"),
    ]
    (low_rated,) = dataset.low_rated_aspects.to_pylist()
    assert tuple(low_rated.values()) == (1, 0, 1, 1, 0)
    rejected = pq.read_table(tmp_path / "w" / "dataset" / "rejected.parquet")
    assert [(row["line"], row["reason"]) for row in rejected.to_pylist()] == [
        (9, "aspect must not be empty"),
        (10, "sentiment must be positive, neutral, or negative (or 1, 0, or -1)"),
        (11, "unknown user_id"),
    ]


def test_prepare_without_interactions_has_the_pairs_of_the_aspects(tmp_path):
    rows = [
        {"user_id": user, "item_id": 7, "topic": topic, "split": split}
        for user, topic, split in [(1, "a", None), (1, "b", "test"), (2, "a", "train")]
    ]
    write_json_lines(tmp_path / "topics.jsonl", rows)
    source = {"kind": "tables", "uri": str(tmp_path), "files": {"aspects": "topics.jsonl"}}
    source["columns"] = {"aspects.aspect": "topic"}
    splits = {"validation": 0, "test": 0}
    prepare_dataset(_config(tmp_path / "w", source, splits=splits))
    dataset = _dataset(tmp_path / "w")
    assert dataset.interactions["split"].to_pylist() == ["test", "train"]
    assert dataset.aspects.to_pylist() == [
        {"aspect_index": 0, "aspect": "a", "num_reviews": 1, "num_positive": 1, "num_negative": 0}
    ]
    assert dataset.explanation_aspects["split"].to_pylist() == ["test", "train"]  # 1-a, 2-a


def test_prepare_again_does_nothing_and_refuses_other_files(tmp_path, release):
    first = prepare_dataset(_release_config(tmp_path, release))
    users = tmp_path / "workspace" / "dataset" / "users.parquet"
    before = users.stat().st_mtime_ns
    moved = release.rename(tmp_path / "moved")  # the folder does not matter
    assert prepare_dataset(_release_config(tmp_path, moved)) == first
    with (moved / "total_trn.csv").open("a") as file:
        file.write("\n0,39")
    with pytest.raises(ArtifactMismatchError) as raised:
        prepare_dataset(_release_config(tmp_path, moved))
    assert "inputs.total_trn.csv" in str(raised.value)
    assert users.stat().st_mtime_ns == before


def test_prepare_matches_integer_and_string_ids_and_writes_nothing_if_users_are_unknown(tmp_path):
    pd.DataFrame({"user_id": ["1", "2"], "item_id": "i"}).to_parquet(
        tmp_path / "interactions.parquet"
    )
    splits, workspace = {"validation": 0, "test": 0.001}, tmp_path / "workspace"
    config = _tables_config(workspace, tmp_path, splits=splits)
    users = pd.DataFrame({"user_id": ["01", "02"], "profile": "p"})
    users.to_parquet(tmp_path / "users.parquet")
    with raises(DataError, "too_many_rejected", "interactions.parquet", 2):
        prepare_dataset(config)
    assert list(workspace.rglob("*")) == []
    users.assign(user_id=[1, 2]).to_parquet(tmp_path / "users.parquet")
    prepare_dataset(config)
    assert _dataset(workspace).users["user_id"].to_pylist() == ["1", "2"]


def _write_cut(folder: Path, rows: Mapping[str, list[dict[str, Any]]], seed: int) -> None:
    """Write tables with rows in random order; if `seed` is not zero, each in several files."""
    rng = Random(seed)
    for name, table in rows.items():
        table = rng.sample(table, len(table))
        most = min(9, len(table))
        cuts = sorted(rng.sample(range(1, len(table)), rng.randrange(1, most))) if seed else []
        for number, (start, end) in enumerate(pairwise([0, *cuts, len(table)])):
            part = f"{name}/{rng.random()}-{number}.jsonl" if seed else f"{name}.jsonl"
            write_json_lines(folder / part, table[start:end])


def test_prepare_makes_the_same_dataset_from_any_files_order_and_memory(tmp_path):
    rng = Random(0)
    pairs = [(f"u{rng.randrange(60)}", f"i{rng.randrange(40)}") for _ in range(500)]
    texts = ("tea", "cake", "tea and cake", "")
    rows: dict[str, list[dict[str, Any]]] = {
        "users": [
            {"user_id": f"u{rng.randrange(60)}", "profile": rng.choice(texts)} for _ in range(90)
        ],
        "interactions": [{"user_id": user, "item_id": item} for user, item in pairs],
        "explanations": [
            {"user_id": user, "item_id": item, "explanation": rng.choice(texts)}
            for user, item in pairs[:250]
        ],
    }
    manifests = []
    for seed in range(3):
        _write_cut(tmp_path / f"raw{seed}", rows, seed)
        limits = {"max_rejected_share": 1, "memory_gb": 0.2 if seed == 2 else None}
        config = _tables_config(tmp_path / f"{seed}", tmp_path / f"raw{seed}", **limits)
        manifests.append(prepare_dataset(config))
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    assert len({manifest.run for manifest in manifests}) == 3
    (count,) = {sum(manifest.metrics["num_rejected"].values()) for manifest in manifests}
    assert count == manifests[0].row_counts["rejected"] > 100
    rejected = [pq.read_table(tmp_path / f"{seed}/dataset/rejected.parquet") for seed in (0, 1)]
    reasons = [Counter(table["reason"].to_pylist()) for table in rejected]
    assert reasons[0] == reasons[1]


def test_prepare_leaves_out_forgotten_people_and_names_them_nowhere(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nann,x\nbob,y\nann,y\n,bob\n")
    (tmp_path / "users.csv").write_text("user_id,profile\nann,likes tea\nbob,likes jam\n")
    splits = {"validation": 0, "test": 0}
    config = _tables_config(tmp_path, tmp_path, splits=splits, max_rejected_share=1)
    put_on_list(config, ["bob", "somebody else"])
    manifest = prepare_dataset(config)
    dataset = _dataset(tmp_path)
    assert dataset.users["user_id"].to_pylist() == ["ann"]
    assert dataset.interaction_edges("train").tolist() == [[0, 0], [0, 1]]
    assert manifest.metrics["num_without_table"] == {"items": 2}
    assert dataset.items["title"].to_pylist() == ["", ""]
    counts = manifest.metrics["num_rejected"]
    assert (counts["users: forgotten"], counts["interactions: forgotten"]) == (1, 1)
    made = [path for path in (tmp_path / "dataset").rglob("*") if path.is_file()]
    assert not [path for path in made if b"bob" in path.read_bytes()]


def test_settings_of_aspects_from_profiles_have_the_version_of_the_rules(tmp_path):
    asked = dataset_settings(_config(tmp_path, SAMPLE, aspects_from="profiles"))
    assert "version" in asked["aspects_from"]


def test_prepare_from_s3_to_s3_equals_local(s3, bucket, tmp_path, release, monkeypatch):
    place = open_location(f"{bucket}/prepare", s3.storage)
    for path in release.iterdir():
        (place / "release" / path.name).write_bytes(path.read_bytes())
    source = {"kind": "xrec_release", "uri": (place / "release").uri}
    config = _config(place.uri, source, storage=s3.storage)
    remote = prepare_dataset(config)
    requests = requests_of(monkeypatch)
    assert prepare_dataset(config) == remote
    assert requests.count("get_object") < len(remote.inputs)  # no file of the release is read
    assert remote.files == prepare_dataset(_release_config(tmp_path, release)).files
    assert read_dataset(place / "dataset").manifest == remote


# Counts from ../shared/data/README.md.
@pytest.mark.slow
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the real data is not at {REAL_DATA}")
def test_prepare_real_data_has_known_counts(tmp_path):
    source = {"kind": "xrec_release", "uri": str(REAL_DATA / "yelp")}
    manifest, dataset = prepare_dataset(_config(tmp_path, source)), _dataset(tmp_path)
    assert (dataset.num_users, dataset.num_items) == (15_962, 14_085)
    assert (manifest.row_counts["explanations"], manifest.row_counts["rejected"]) == (2500, 0)
    num_removed = manifest.metrics["num_removed_edges"]
    assert manifest.row_counts["interactions"] + num_removed == 314_944 + 2 * 39_368


DAYS: list[dict[str, list[dict[str, str]]]] = [
    {
        "users": [{"user_id": f"u{n}", "profile": texts[n % len(texts)]} for n in users],
        "items": [{"item_id": item, "title": item.upper(), "profile": "p"} for item in items],
        "interactions": [{"user_id": f"u{n}", "item_id": item} for n in users for item in items],
    }
    for users, items, texts in (
        ((1, 3, 5, 7), ("d", "f"), ["tea"]),
        ((1, 2, 3, 7, 9), ("a", "d", "f"), ["tea"]),  # without u5, with u2, u9 and a
        ((0, 1, 2, 5, 9), ("a", "e", "f"), ["tea", "cake"]),  # u5 is back
    )
]
"""Three states of a catalog; in the last one, the profiles of u1 and u9 have changed."""


def _prepare_day(folder: Path, day: int, *extends: int, seed: int = 0, **changes: Any) -> Manifest:
    raw = folder / f"raw{day}-{seed}"
    if not raw.exists():
        _write_cut(raw, DAYS[day], seed)
    earlier = {"extends": str(folder / f"{extends[0]}/dataset")} if extends else {}
    return prepare_dataset(
        _tables_config(folder / f"{day}", raw, **with_uris({**earlier, **changes}))
    )


def test_prepare_that_extends_keeps_indices_and_leaves_holes(tmp_path):
    manifests = [_prepare_day(tmp_path, 0), _prepare_day(tmp_path, 1, 0)]
    manifests.append(_prepare_day(tmp_path, 2, 1))
    days = [_dataset(tmp_path / f"{day}") for day in range(3)]
    ids = [day.users["user_id"].to_pylist() for day in days]
    assert ids == [
        ["u1", "u3", "u5", "u7"],
        ["u1", "u3", "", "u7", "u2", "u9"],
        ["u1", "", "u5", "", "u2", "u9", "u0"],
    ]
    assert days[2].items["item_id"].to_pylist() == ["", "f", "a", "e"]
    assert manifests[2].metrics["changes"] == {
        "users": {"new": 2, "removed": 2, "changed": 2},
        "items": {"new": 1, "removed": 1, "changed": 0},
    }
    assert manifests[2].metrics["extends"] == [each.fingerprint for each in manifests[1::-1]]
    assert manifests[2].inputs["extends"] == manifests[1].fingerprint
    last = days[2]
    for name in {*ids[0], *ids[1], *ids[2]} - {""}:
        assert last.user_ids.find(name) == (ids[2].index(name) if name in ids[2] else None)
    assert list(last.user_ids.starting_with("")) == sorted(filter(None, ids[2]))
    with raises(UnknownIdError, "unknown_user", "user_id", "u3"):
        last.user_index("u3")
    assert last.lost_items.tolist() == [0]
    lost = [row for row, name in enumerate(ids[2]) if not name]
    assert {last.users["profile"][row].as_py() for row in lost} == {""}
    for table in (last.interactions, last.explanations):
        assert not {*table["user_index"].to_pylist()} & {*lost}
        assert not {*table["item_index"].to_pylist()} & {0}
    users = {ids[2][user] for user in last.interactions["user_index"].to_pylist()}
    assert users == {row["user_id"] for row in DAYS[2]["interactions"]}


def test_prepare_that_extends_fills_holes_that_are_no_longer_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("xrec.data.assemble"), "NUM_KEPT", 1)
    _prepare_day(tmp_path, 0)
    _prepare_day(tmp_path, 1, 0)
    _prepare_day(tmp_path, 1, 1, dataset=str(tmp_path / "9"))
    holes = [_dataset(tmp_path / "1").user_holes, open_dataset(str(tmp_path / "9")).user_holes]
    assert (holes[0].to_pylist(), holes[1]) == (
        [{"user_id": "u5", "user_index": 2, "num_datasets": 1}],
        None,
    )
    _prepare_day(tmp_path, 2, dataset=str(tmp_path / "last"), extends=str(tmp_path / "9"))
    last = open_dataset(str(tmp_path / "last"))
    assert last.users["user_id"].to_pylist() == ["u1", "", "u0", "", "u2", "u9", "u5"]
    assert last.user_holes["user_id"].to_pylist() == ["u3", "u7"]
    assert last.user_index("u0") == 2


def test_prepare_that_extends_makes_the_same_dataset_from_any_files_and_without_changes(tmp_path):
    first, again = _prepare_day(tmp_path, 0), _prepare_day(tmp_path, 1, 0)
    moved = _prepare_day(tmp_path, 1, 0, seed=3, dataset=str(tmp_path / "m3"))
    assert moved.fingerprint == again.fingerprint != first.fingerprint
    for before, day in ((first, 0), (again, 1)):  # if nothing changed, artifacts stay up to date
        unchanged = _prepare_day(tmp_path, day, day, dataset=str(tmp_path / f"u{day}"))
        assert unchanged.fingerprint == before.fingerprint


def test_prepare_that_cannot_extend_writes_nothing(tmp_path):
    _prepare_day(tmp_path, 0)
    same, there = {"kind": "tables", "uri": str(tmp_path / "raw0-0")}, str(tmp_path / "0/dataset")
    for source, changes, code in (
        (same, {"extends": str(tmp_path / "1/dataset")}, "no_artifact"),
        (same, {"splits": {"seed": 3}}, "other_settings"),
        (SAMPLE, {}, "nothing_in_common"),
    ):
        with pytest.raises((ArtifactNotFoundError, DataError)) as raised:
            prepare_dataset(_config(tmp_path / "out", source, **{"extends": there, **changes}))
        assert raised.value.code == code
        assert not (tmp_path / "out").exists()


def test_staging_on_a_full_disk_raises_a_storage_error_and_leaves_no_file(tmp_path, monkeypatch):
    """Users in random order, with 40 MB of profiles that hardly compress."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rng = np.random.default_rng(0)
    ids = [f"{number:06d}" for number in rng.permutation(20_000)]
    users = pa.table({"user_id": ids, "profile": [rng.bytes(1000).hex() for _ in ids]})
    with (
        raises(StorageError, "disk_full", "prepare.memory_gb"),
        Staging(SplitShares(), memory_gb=0.02) as staging,
    ):
        staging.sql("SET max_temp_directory_size = '1MB'")
        staging.add({"users": users})
        staging.sql("CREATE TABLE users AS FROM raw.users ORDER BY profile")
    assert list(tmp_path.iterdir()) == []
