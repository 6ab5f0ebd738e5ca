"""The tests of every push and of every night, and the plugins skips, seeds and durations."""

import ast
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.durations import shards

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
# The main promises: a small case of each runs at every push, and larger ones every night.
ONE_OF_EACH = {
    "tests/xrec/nights/test_nights.py": (
        "test_init_and_run_turn_csv_files_of_other_names_into_explanations",
        "test_night_publishes_texts_of_new_users_once",
        "test_forgotten_person_is_in_no_byte_of_a_project",
        "test_command_serves_what_the_project_published_until_ctrl_c",
    ),
    "tests/xrec/train/test_adapter_resume.py": (
        "test_run_whose_worker_was_killed_resumes_and_ends_like_an_uninterrupted_one",
    ),
    "tests/xrec/train/test_adapter_training.py": (
        "test_two_workers_at_stage_3_have_the_losses_and_weights_of_one_at_stage_1",
    ),
    "tests/xrec/serve/test_page.py": (
        "test_page_shows_the_text_and_evidence_of_a_pair_by_keyboard_alone",
    ),
    "tests/xrec/bulk/test_chaos.py": ("test_commands_in_chaos_leave_a_row_once_at_each_version",),
    "tests/xrec/cluster/test_two_nodes.py": (
        "test_submit_run_follows_the_log_and_leaves_the_artifact_on_s3",
    ),
}
SKIPS = """
import pytest

def test_passes(): pass

@pytest.mark.skip("no printer")
def test_marked(): pass

def test_skips(): pytest.skip("no paper: call the office")

@pytest.mark.xfail(reason="a known fault")
def test_fails_as_known(): assert False
"""
MODULE = 'import pytest; pytest.importorskip("no_such_package", reason="no package")'


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, names in ONE_OF_EACH.items() for name in names]
)
def test_each_large_promise_has_a_case_at_every_push(file, name):
    """The function exists, and neither it nor its file is marked slow."""
    statements = ast.parse((ROOT / file).read_text()).body
    (test,) = [each for each in statements if getattr(each, "name", "") == name]
    assert isinstance(test, ast.FunctionDef)
    marks = [
        each.value
        for each in statements
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "pytestmark"
    ]
    for each in (*test.decorator_list, *marks):
        assert "mark.slow" not in ast.unparse(each).partition("param(")[0]


def test_no_test_patches_a_private_name():
    """Except `_call_s3` of s3fs, through which all its requests go."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
                names = [str(arg.value) for arg in node.args[:2] if isinstance(arg, ast.Constant)]
                name = ".".join(names).rpartition(".")[2]
                assert not name.startswith("_") or name == "_call_s3", f"{path.name}:{node.lineno}"


@pytest.fixture
def run(pytester, monkeypatch):
    """A function that runs pytest on files with the plugins of `options`."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("CI", raising=False)

    def of(*options: str, ini: str = "", **files: str) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}")
        pytester.makepyfile(**files)
        return pytester.runpytest_inprocess(*options)

    return of


OFF_CI = "allowed_skips = no printer\nallowed_skips_off_ci = no paper"


@pytest.mark.parametrize(
    ("ini", "ci", "refused"),
    [
        ("", "", ["test_marked", "test_skips"]),
        ("allowed_skips =\n printer\n no paper:", "true", ["test_marked"]),
        (OFF_CI, "", []),
        (OFF_CI, "true", ["test_skips"]),
    ],
)
def test_skip_that_no_line_allows_fails_the_run(run, monkeypatch, ini, ci, refused):
    monkeypatch.setenv("CI", ci)
    done = run("-p", "tests.skips", ini=ini, test_it=SKIPS)
    done.assert_outcomes(passed=1, skipped=2, xfailed=1)
    assert done.ret == (pytest.ExitCode.TESTS_FAILED if refused else pytest.ExitCode.OK)
    assert re.findall(r"::(\w+): no p", done.stdout.str()) == refused


def test_skipped_test_or_module_fails_a_run_of_several_processes(run):
    options = ["-p", "xdist.plugin", "-n", "1", "-p", "tests.skips"]
    done = run(*options, ini="allowed_skips = no printer", test_it=SKIPS, test_module=MODULE)
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    assert re.findall(r"(\w+): no pa", done.stdout.str()) == ["py", "test_skips"]


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1000), min_size=1), st.integers(1, 5))
def test_shards_have_each_group_once_and_are_about_equal(seconds, number):
    parts = shards(seconds, number)
    assert len(parts) == number
    assert sorted(group for part in parts for group in part) == sorted(seconds)
    totals = [math.fsum(seconds[group] for group in part) for part in parts]
    assert max(totals) - min(totals) <= max(seconds.values()) + 1e-6
    assert parts == shards(dict(reversed(seconds.items())), number)


def test_recorded_seconds_order_a_run_and_divide_it(run, pytester):
    files = {"a/test_one": "pass", "b/test_two": "assert False", "b/test_six": "pass"}
    sources = {f"tests/{file}": f"def {file[2:]}(): {line}" for file, line in files.items()}
    recorded = {
        "tests/a/test_one.py": {"test_one": 3.0, "test_deleted": 9.0},
        "tests/b/test_two.py": {"test_two": 5.0},
    }
    store = pytester.mkdir("tests") / "durations.json"
    store.write_text(json.dumps(recorded))

    def ran(*options: str) -> str:
        done = run("-v", "-p", "tests.durations", *options, "tests", **sources)
        return done.stdout.str()

    def tests(output: str) -> list[str]:
        return re.findall(r"::(\w+) (?:PASSED|FAILED)", output)

    # A test without a record counts as one second.
    assert tests(ran()) == ["test_two", "test_one", "test_six"]
    assert tests(ran("--shard=1/2")) == ["test_two"]
    assert tests(ran("--shard=2/2")) == ["test_one", "test_six"]
    assert json.loads(store.read_text()) == recorded
    ran("--record-durations")
    now = {file: list(seconds) for file, seconds in json.loads(store.read_text()).items()}
    assert now == {f"{file}.py": [file.split("/")[-1]] for file in sorted(sources)}
    assert json.loads(store.read_text())["tests/b/test_two.py"] == {"test_two": 5.0}  # it failed
    assert json.loads(store.read_text())["tests/a/test_one.py"]["test_one"] < 3.0
