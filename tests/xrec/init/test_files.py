"""A folder's files: delimiters, artifacts among them, and names and values that cannot be used."""

import datetime
import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.xrec.init.shop import write_shop
from xrec.errors import DataError
from xrec.init.files import Folder, read_folder
from xrec.init.machine import Machine
from xrec.init.project import init_project
from xrec.storage import open_location

CPU = Machine(num_cpus=2, num_gpus=0, memory_gib=24, has_bf16_cpu=True)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_shop(tmp_path / "shop")
    return tmp_path / "shop"


def _read(folder: Path) -> Folder:
    return read_folder(open_location(str(folder)))


def _with_semicolons(shop: Path, name: str) -> bytes:
    return (shop / name).read_text().replace(",", ";").encode()


def test_gzipped_files_tell_their_delimiter(shop: Path) -> None:
    for path in sorted(shop.iterdir()):
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(_with_semicolons(shop, path.name)))
        path.unlink()
    folder = _read(shop)
    assert folder.delimiter == ";"
    assert {file.name: len(file.columns) for file in folder.files}["orders.csv.gz"] == 4


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_files_of_different_delimiters_are_refused_by_name(shop: Path, is_gzipped: bool) -> None:
    data = _with_semicolons(shop, "orders.csv")
    (shop / "orders.csv").unlink()
    name = "orders.csv.gz" if is_gzipped else "orders.csv"
    (shop / name).write_bytes(gzip.compress(data) if is_gzipped else data)
    with pytest.raises(DataError, match=rf"',' in catalogue.csv, .*; ';' in {name}; expected one"):
        _read(shop)


def test_folders_of_artifacts_are_skipped(shop: Path) -> None:
    before = [file.name for file in _read(shop).files]
    dataset = shop / "workspace" / "dataset"
    for folder in (dataset / "part", dataset.with_name("texts") / "_delta_log"):
        folder.mkdir(parents=True)
        (folder / "0.json").write_text("{}")
    texts = dataset.with_name("texts") / "part-0.parquet"
    for path in (dataset / "users.parquet", dataset / "part" / "items.parquet", texts):
        pq.write_table(pa.table({"user_id": ["a"], "profile": ["b"]}), path)
    (shop / "workspace" / "dataset-2.csv").write_text("colour,size\nred,1\n")
    (dataset / "manifest.json").write_text("{}")
    folder = _read(shop)
    assert [file.name for file in folder.files] == [*before, "workspace/dataset-2.csv"]
    assert "users.parquet" in _read(dataset).contents


def test_init_header_in_latin_1_is_refused_by_name(tmp_path: Path, shop: Path) -> None:
    feedback = (shop / "feedback.csv").read_bytes()
    (shop / "feedback.csv").write_bytes(feedback.replace(b"why_bought", b"raison_donn\xe9e", 1))
    with pytest.raises(DataError, match=r"feedback.csv: the name of the column 'raison_donn.udce9"):
        init_project(str(tmp_path / "project"), str(shop), machine=CPU)
    assert not (tmp_path / "project").exists()


def test_init_header_in_latin_1_of_a_column_that_is_not_used_is_no_error(
    tmp_path: Path, shop: Path
) -> None:
    orders = (shop / "orders.csv").read_bytes()
    (shop / "orders.csv").write_bytes(orders.replace(b"qty", b"quantit\xe9", 1))
    assert init_project(str(tmp_path / "project"), str(shop), machine=CPU).survey.num_users == 60


@pytest.mark.parametrize(
    "dates",
    [pa.array([0, 4_000_000], pa.date32()), pa.array([0, 10**15], pa.timestamp("ms"))],
)
def test_parquet_dates_that_cannot_be_read_are_refused_by_column(
    shop: Path, dates: pa.Array
) -> None:
    assert dates[0].as_py() in (datetime.date(1970, 1, 1), datetime.datetime(1970, 1, 1))
    pq.write_table(pa.table({"id": ["a", "b"], "seen": dates}), shop / "extra.parquet")
    with pytest.raises(DataError, match=r"extra.parquet: column 'seen' of type .* cannot be read"):
        _read(shop)
