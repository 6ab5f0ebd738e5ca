"""The list of guards, the choice of mutants, and both programs on a small shop."""

import ast
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import typer

from benchmarks import guards, mutants

ROOT = Path(__file__).parents[2]
LISTED = guards.read_guards(guards.GUARDS.read_text())


def test_forty_guards_are_listed_once_and_in_all_packages_that_hold_data():
    assert len(LISTED) == len({(guard.file, guard.old) for guard in LISTED}) == 40
    packages = "nights adapter annotate backfill bulk config data generate graph llm serve storage"
    assert {guard.file.split("/")[1] for guard in LISTED} >= {*packages.split(), "train"}


@pytest.mark.parametrize("guard", LISTED, ids=lambda guard: guard.meaning)
def test_guard_is_in_its_file_once_and_is_python_when_broken(guard):
    source = (ROOT / guard.file).read_text()
    assert source.count(guard.old) == 1
    ast.parse(source.replace(guard.old, guard.new))
    assert guard.meaning.endswith(".")
    assert guards.find_tests(ROOT, guard.tests)


def test_results_name_the_test_of_each_found_mutant_and_have_few_equivalent_ones():
    lines = [json.loads(line) for line in mutants.RESULTS.read_text().splitlines()]
    runs = Counter((line["package"], line["revision"]) for line in lines)
    assert len({(line["revision"], line["mutant"]) for line in lines}) == len(lines)
    assert all((line["state"] == "found") == bool(line["by"]) for line in lines)
    same = Counter((line["package"], line["revision"]) for line in lines if "equivalent" in line)
    assert all(20 * same[run] <= runs[run] for run in runs)


@pytest.mark.slow
def test_guards_and_mutants_that_no_test_notices_are_reported(tmp_path, capsys):
    files = {
        **dict.fromkeys(("xrec/__init__.py", "xrec/shop/__init__.py"), ""),
        "xrec/shop/shelf.py": "def opens(hour):\n    return hour == 9\n\n\ndef is_far(km):\n"
        "    return km > 5\n",
        "tests/xrec/shop/test_shelf.py": "from xrec.shop.shelf import is_far, opens\n\n\n"
        "def test_opens():\n    assert opens(9)\n\n\ndef test_far():\n    assert is_far(9)\n",
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n'
        'addopts = "--import-mode=importlib"\nmarkers = ["slow", "gpu"]\n',
    }
    for name, text in files.items():
        (tmp_path / "shop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / name).write_text(text)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a shop"]):
        own = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *own, *words], cwd=tmp_path / "shop", check=True)
    listed = [
        f"# {meaning}\nxrec/shop/shelf.py\n- {old}\n+ {new}\ntest_{name}"
        for meaning, name, old, new in (
            ("Opens.", "opens", "hour == 9", "hour == 8"),
            ("Far.", "far", "> 5", ">= 5"),
        )
    ]
    (tmp_path / "guards.txt").write_text("\n\n".join(listed))
    with pytest.raises(typer.Exit) as ended:
        guards.main(root=tmp_path / "shop", listed=tmp_path / "guards.txt")
    assert ended.value.exit_code == 1
    told = capsys.readouterr()
    assert "NO TEST NOTICES: xrec/shop/shelf.py: Far." in told.err
    assert "1 of 2 broken guards" in told.out
    mutants.main(["shop"], root=tmp_path / "shop", results=tmp_path / "results.jsonl")
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert {line["mutant"].partition(": ")[2]: line["state"] for line in lines} == {
        "hour == 9 -> hour != 9": "found",
        "km > 5 -> km >= 5": "survived",
    }
    assert "1 of 2 (0.09 to 0.91)" in capsys.readouterr().out
