"""`xrec lab compare`: its two options stand for keys of its config."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from xrec.cli.main import app


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "project.yaml"
    values = {"workspace": "w", "compare": {"entries": ["profile", "nearest"]}}
    path.write_text(yaml.safe_dump(values))
    return path


def blind_sheet_of(project: Path, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, ["lab", "compare", str(project), *arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = yaml.safe_load(result.stdout)["blind_sheet"]
    return found


def test_compare_options_are_keys_of_the_blind_sheet(project: Path) -> None:
    found = blind_sheet_of(
        project, "--blind-sheet", "40", "--answers", "anna's, 1.json", "--answers", "ben.csv"
    )
    assert found["num_pairs"] == 40
    assert found["answers"] == ["anna's, 1.json", "ben.csv"]


def test_compare_without_options_asks_nobody(project: Path) -> None:
    found = blind_sheet_of(project)
    assert (found["num_pairs"], found["answers"]) == (0, [])


def test_compare_unknown_entry_is_a_mistake_in_the_config(project: Path) -> None:
    result = CliRunner().invoke(app, ["lab", "compare", str(project), "entries=[profile,oures]"])
    assert result.exit_code == 2
    assert "'oures' is none of" in result.stderr
    assert "did you mean 'ours'?" in result.stderr
