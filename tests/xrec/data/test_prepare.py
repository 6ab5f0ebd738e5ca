"""Prepare, from files to artifact: on disk, on S3, twice, on broken input and on the real data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.prepare import run as prepare_dataset
from tests.conftest import ObjectStore
from xrec.config.data import PrepareConfig
from xrec.config.shared import StorageConfig
from xrec.data import dataset_settings, read_dataset
from xrec.errors import ArtifactMismatchError, DataError, StorageAccessError, StorageNotFoundError
from xrec.storage import open_location

REAL_DATA = Path(__file__).parents[3].parent / "shared" / "data"
SAMPLE = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 30,
    "interactions_per_user": 10,
    "explanations_per_user": 4,
}


def _config(workspace: Path | str, source: Mapping[str, Any], **changes: Any) -> PrepareConfig:
    return PrepareConfig.model_validate({"workspace": str(workspace), "source": source, **changes})


def _release_files() -> dict[str, bytes]:
    """50 users with 8 train, 1 validation and 1 test item; 4 train pairs each are explained."""
    lines = {
        "total_trn.csv": ["user,item"],
        "total_val.csv": ["user,item"],
        "total_tst.csv": ["user,item"],
    }
    explained = []
    for user in range(50):
        items = [(user + step) % 40 for step in range(10)]
        lines["total_trn.csv"] += [f"{user},{item}" for item in items[:8]]
        lines["total_val.csv"].append(f"{user},{items[8]}")
        lines["total_tst.csv"].append(f"{user},{items[9]}")
        for item in items[:4]:
            texts = {
                "title": f"T{item}",
                "user_summary": f"U{user}",
                "item_summary": f"I{item}",
                "explanation": f"E{user} {item}",
            }
            explained.append(json.dumps({"uid": user, "iid": item, **texts}))
    files = {name: "\n".join(rows).encode() for name, rows in lines.items()}
    return {**files, "data.jsonl": "\n".join(explained).encode()}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    for name, data in _release_files().items():
        (folder / name).write_bytes(data)
    return folder


def _release_config(tmp_path: Path, release: Path, **changes: Any) -> PrepareConfig:
    return _config(tmp_path / "workspace", {"kind": "xrec_release", "uri": str(release)}, **changes)


def test_prepare_dataset_release_gives_a_dataset_without_leaks(
    tmp_path: Path, release: Path
) -> None:
    manifest = prepare_dataset(_release_config(tmp_path, release))
    dataset = read_dataset(open_location(str(tmp_path / "workspace" / "dataset")))
    held_out = (
        dataset.explained_pairs("validation").num_rows + dataset.explained_pairs("test").num_rows
    )
    # Each explained pair of these files is a train interaction, so each held-out one is removed.
    assert manifest.metrics["num_removed_edges"] == held_out > 0
    assert dataset.interaction_edges("train").shape == (2, 400 - held_out)
    assert dataset.users["profile"].to_pylist() == [f"U{user}" for user in range(50)]
    assert manifest.row_counts["explanations"] == 200


def test_prepare_dataset_again_does_no_work(tmp_path: Path, release: Path) -> None:
    config = _release_config(tmp_path, release)
    first = prepare_dataset(config)
    users = tmp_path / "workspace" / "dataset" / "users.parquet"
    before = users.stat().st_mtime_ns
    assert prepare_dataset(config) == first
    assert users.stat().st_mtime_ns == before


def test_prepare_dataset_same_files_elsewhere_is_the_same_run(
    tmp_path: Path, release: Path
) -> None:
    first = prepare_dataset(_release_config(tmp_path, release))
    moved = release.rename(tmp_path / "moved")
    assert prepare_dataset(_release_config(tmp_path, moved)) == first


@pytest.mark.parametrize("change", ["splits", "file"])
def test_prepare_dataset_over_another_runs_output_raises_and_leaves_it(
    tmp_path: Path, release: Path, change: str
) -> None:
    first = prepare_dataset(_release_config(tmp_path, release))
    if change == "file":
        with (release / "total_trn.csv").open("a") as file:
            file.write("\n0,39")
    splits = {"test": 0.3} if change == "splits" else {}
    with pytest.raises(
        ArtifactMismatchError,
        match=r"splits\.test: 0\.2 there, 0\.3 here" if splits else r"inputs\.total_trn\.csv",
    ):
        prepare_dataset(_release_config(tmp_path, release, splits=splits))
    assert read_dataset(open_location(str(tmp_path / "workspace" / "dataset"))).manifest == first


def _append(text: str) -> Any:
    return lambda path: path.write_bytes(path.read_bytes() + text.encode())


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("total_val.csv", Path.unlink, r"missing file\(s\) total_val\.csv"),
        (
            "total_trn.csv",
            lambda path: path.write_text("usr,item\n0,1\n"),
            r"missing column\(s\) user",
        ),
        (
            "total_trn.csv",
            _append("\n1" * 20),
            r"total_trn\.csv: 20 of 420 rows are unusable.*\n"
            r".*line 402: expected 2 columns, saw 1: '1'",
        ),
        (
            "data.jsonl",
            lambda path: path.write_text("<html>\n" * 5),
            r"data\.jsonl: 5 of 5 rows.*\n.*line 1: not valid JSON: '<html>'",
        ),
        (
            "data.jsonl",
            lambda path: path.write_bytes(path.read_bytes() * 2),
            r"data\.jsonl: \d+ of 399 rows",
        ),
    ],
)
def test_prepare_dataset_broken_input_raises_and_writes_nothing(
    tmp_path: Path, release: Path, file: str, damage: Any, message: str
) -> None:
    damage(release / file)
    with pytest.raises(DataError, match=message):
        prepare_dataset(_release_config(tmp_path, release))
    assert not (tmp_path / "workspace").exists()


def test_prepare_dataset_few_broken_rows_are_listed_in_rejected_parquet(
    tmp_path: Path, release: Path
) -> None:
    _append("\n0,0\nx,1")(release / "total_trn.csv")
    manifest = prepare_dataset(_release_config(tmp_path, release))
    rejected = pq.read_table(tmp_path / "workspace" / "dataset" / "rejected.parquet").to_pylist()
    assert [(row["file"], row["line"], row["reason"].split(";")[0]) for row in rejected] == [
        ("total_trn.csv", 403, "user must be an integer from 0 to 2147483647"),
        ("total_trn.csv", 402, "duplicate of an earlier pair"),
    ]
    assert rejected[0]["text"] == "x,1"
    assert sum(manifest.metrics["num_rejected"].values()) == manifest.row_counts["rejected"] == 2


def test_prepare_dataset_tables_of_string_ids(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "users.csv").write_text("user_id,profile\nann,tea\nbob,\n")
    (folder / "items.jsonl").write_text(
        '{"item_id": "x y", "title": "X", "profile": ""}\n'
        '{"item_id": 2, "title": "Y", "profile": ""}\n'
    )
    (folder / "interactions.csv").write_text(
        "user_id,item_id,split\nann,x y,train\nbob,2,train\nbob,x y,train\n"
    )
    (folder / "explanations.csv").write_text(
        "user_id,item_id,explanation,split\nbob,2,since,test\n"
    )
    manifest = prepare_dataset(_config(tmp_path, {"kind": "tables", "uri": str(folder)}))
    dataset = read_dataset(open_location(str(tmp_path / "dataset")))
    assert dataset.interaction_edges("train").tolist() == [[0, 1], [0, 0]]
    assert manifest.metrics["num_removed_edges"] == 1
    assert dataset.item_index("2") == 1


def test_prepare_dataset_of_interactions_alone_counts_what_has_no_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "visits.csv").write_text("who,item_id\nann,x\nbob,y\nbob,x\n")
    source = {
        "kind": "tables",
        "uri": str(folder),
        "files": {"interactions": "visits.csv"},
        "columns": {"user_id": "who"},
    }
    with caplog.at_level("WARNING", logger="xrec"):
        manifest = prepare_dataset(_config(tmp_path, source, splits={"validation": 0, "test": 0}))
    assert manifest.metrics["num_without_table"] == {"users": 2, "items": 2}
    assert manifest.row_counts["explanations"] == manifest.row_counts["rejected"] == 0
    dataset = read_dataset(open_location(str(tmp_path / "dataset")))
    assert dataset.interaction_edges("train").tolist() == [[0, 1, 1], [0, 0, 1]]
    assert dataset.items["title"].to_pylist() == ["", ""]
    assert "no table of users: 2 ids come from the pairs" in caplog.text
    assert (
        "no explanations: a graph can be trained on this dataset, an adapter cannot" in caplog.text
    )


def test_prepare_dataset_sample_plants_an_aspect_for_each_explained_pair(tmp_path: Path) -> None:
    prepare_dataset(_config(tmp_path, SAMPLE))
    dataset = read_dataset(open_location(str(tmp_path / "dataset")))
    assert dataset.planted is not None
    for explained, planted in zip(
        dataset.explanations.to_pylist(), dataset.planted.to_pylist(), strict=True
    ):
        assert (explained["user_index"], explained["item_index"]) == (
            planted["user_index"],
            planted["item_index"],
        )
        assert planted["aspect"] in explained["explanation"]
        profile = dataset.items["profile"][planted["item_index"]].as_py().lower()
        assert all(aspect in profile for aspect in planted["aspects"])


def test_dataset_settings_have_aspects_only_where_they_are_asked_for(tmp_path: Path) -> None:
    plain = dataset_settings(_config(tmp_path, SAMPLE))
    asked = dataset_settings(_config(tmp_path, SAMPLE, aspects_from={"kind": "profiles"}))
    assert set(asked) - set(plain) == {"aspects_from"}
    assert {name: asked[name] for name in plain} == plain


def test_prepare_config_refuses_aspects_of_profiles_beside_annotations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aspects_from must be null with source"):
        _config(tmp_path, {"kind": "annotations"}, aspects_from={"kind": "profiles"})


def test_prepare_dataset_sample_twice_gives_the_same_content(tmp_path: Path) -> None:
    manifests = [prepare_dataset(_config(tmp_path / name, SAMPLE)) for name in ("a", "b")]
    assert manifests[0].files == manifests[1].files
    assert manifests[0].fingerprint == manifests[1].fingerprint


def test_prepare_dataset_from_s3_to_s3_equals_local(
    s3: ObjectStore, tmp_path: Path, release: Path
) -> None:
    bucket = s3.new_bucket()
    for name, data in _release_files().items():
        (open_location(f"{bucket}/release", s3.storage) / name).write_bytes(data)
    remote = prepare_dataset(
        PrepareConfig.model_validate(
            {
                "workspace": f"{bucket}/work",
                "source": {"kind": "xrec_release", "uri": f"{bucket}/release"},
                "storage": s3.storage,
            }
        )
    )
    assert remote.files == prepare_dataset(_release_config(tmp_path, release)).files
    assert read_dataset(open_location(f"{bucket}/work/dataset", s3.storage)).manifest == remote


def test_prepare_dataset_wrong_secret_raises_at_once(s3: ObjectStore) -> None:
    wrong = StorageConfig(
        endpoint_url=s3.endpoint_url, access_key_id=s3.access_key, secret_access_key="wrong"
    )
    with pytest.raises(StorageAccessError):
        prepare_dataset(
            PrepareConfig.model_validate(
                {"workspace": s3.new_bucket(), "source": SAMPLE, "storage": wrong}
            )
        )


def test_prepare_dataset_missing_bucket_of_the_source_raises_and_writes_nothing(
    s3: ObjectStore, tmp_path: Path
) -> None:
    source = {"kind": "tables", "uri": "s3://no-such-bucket/tables"}
    with pytest.raises(StorageNotFoundError, match="no-such-bucket"):
        prepare_dataset(_config(tmp_path / "workspace", source, storage=s3.storage))
    assert not (tmp_path / "workspace").exists()


# Counts from ../shared/data/README.md.
@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=f"the real data is not at {REAL_DATA}")
@pytest.mark.parametrize(
    ("name", "num_users", "num_items", "num_interactions"),
    [
        ("yelp", 15_962, 14_085, 314_944 + 2 * 39_368),
        ("google", 22_582, 16_557, 329_472 + 2 * 41_184),
    ],
)
def test_prepare_dataset_real_release_has_its_known_counts(
    tmp_path: Path, name: str, num_users: int, num_items: int, num_interactions: int
) -> None:
    manifest = prepare_dataset(
        _config(tmp_path, {"kind": "xrec_release", "uri": str(REAL_DATA / name)})
    )
    dataset = read_dataset(open_location(str(tmp_path / "dataset")))
    assert (dataset.num_users, dataset.num_items) == (num_users, num_items)
    assert manifest.row_counts["explanations"] == 2500
    assert manifest.row_counts["rejected"] == 0
    assert (
        manifest.row_counts["interactions"] + manifest.metrics["num_removed_edges"]
        == num_interactions
    )
    raw = {
        tuple(map(int, line.split(",")))
        for line in (REAL_DATA / name / "total_trn.csv").read_text().splitlines()[1:]
    }
    held_out = {
        (row["user_index"], row["item_index"])
        for split in ("validation", "test")
        for row in dataset.explained_pairs(split).to_pylist()
    }
    assert manifest.metrics["num_removed_edges"] == len(raw & held_out)
    assert set(map(tuple, dataset.interaction_edges("train").T.tolist())) == raw - held_out
