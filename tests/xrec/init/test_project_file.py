"""What a user's names and texts become in the YAML of a project file."""

from pathlib import Path

import pytest
import yaml

from tests.xrec.init.shop import write_shop
from xrec.init.machine import Machine
from xrec.init.project import init_project
from xrec.init.project_file import _comment, _value

CPU = Machine(num_cpus=2, num_gpus=0, memory_gib=24, has_bf16_cpu=True)
NAMES = (
    "about",
    "Über_uns-2",
    "-",
    "--",
    "-5",
    "_",
    "_1",
    "1_000",
    "5e3",
    "No",
    "~",
    "=",
    "²",
    "a: b",
    "# a",
    "two\nlines: x",
    "\x85\u2028\x07\x7f\ufeff",
    "tea \U0001f375 \U000e0001",
    "",
)


@pytest.mark.parametrize("name", NAMES)
def test_value_is_read_from_yaml_as_it_is(name: str) -> None:
    text = f"key: {_value(name)}\nlist: {_value([name, None])}\n"
    assert yaml.safe_load(text) == {"key": name, "list": [name, None]}


@pytest.mark.parametrize("text", NAMES)
def test_comment_stays_in_its_line(text: str) -> None:
    assert yaml.safe_load(f"# {_comment(text)}\nkey: 1\n") == {"key": 1}
    assert _comment("two\r\n lines") == "two lines"


def test_init_header_with_line_ends_breaks_and_adds_nothing(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    write_shop(shop)
    feedback = (shop / "feedback.csv").read_text()
    header = '"the\nwords: 1\nworkspace: elsewhere"'
    (shop / "feedback.csv").write_text(feedback.replace("why_bought", header, 1))
    init_project(str(tmp_path / "project"), str(shop), machine=CPU)
    text = (tmp_path / "project" / "xrec.yaml").read_text()
    values = yaml.safe_load(text)
    assert values["workspace"] == str(tmp_path / "project" / "workspace")
    columns = values["prepare"]["source"]["columns"]
    assert columns["explanation"] == "the\nwords: 1\nworkspace: elsewhere"
    assert "# Please check: feedback.csv: the words: 1 workspace: elsewhere is taken" in text
