"""docs/reviews_to_reasons.ipynb: its cells, run as they stand, end in texts for a reader."""

import json
from pathlib import Path

import pytest

from tests.command_line import python

_NOTEBOOK = Path(__file__).parents[1] / "docs" / "reviews_to_reasons.ipynb"


def _cells():
    return [
        cell for cell in json.loads(_NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"
    ]


def test_notebook_has_no_outputs_and_its_cells_compile():
    for cell in _cells():
        assert cell["outputs"] == []
        compile("".join(cell["source"]), str(_NOTEBOOK), "exec")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_notebook_runs_from_reviews_to_reasons(tmp_path):
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in _cells()))
    done = python(script, cwd=tmp_path, timeout=1700, PYTHONPATH=str(_NOTEBOOK.parents[1]))
    assert done.returncode == 0, done.stderr
    reasons = [line for line in done.stdout.splitlines() if "reviews of the place" in line]
    assert len(reasons) == 3
    texts = done.stdout.rpartition("reviews of the place")[2]
    assert sum(line.startswith("resident-") for line in texts.splitlines()) >= 3
    assert (tmp_path / "reviews-to-reasons/shop/workspace/evaluation/report.html").exists()
