"""docs/reviews_to_reasons.ipynb: its cells, run as they stand, end in texts for a reader."""

import json
from pathlib import Path

import pytest

from tests.world.program import python

_NOTEBOOK = Path(__file__).parents[1] / "docs" / "reviews_to_reasons.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_notebook_runs_from_reviews_to_reasons(tmp_path):
    cells = [c for c in json.loads(_NOTEBOOK.read_text())["cells"] if c["cell_type"] == "code"]
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells))
    done = python(script, cwd=tmp_path, timeout=1700, PYTHONPATH=str(_NOTEBOOK.parents[1]))
    assert done.returncode == 0, done.stderr
    *_, texts = parts = done.stdout.split("reviews of the place")
    assert len(parts) > 3  # at least one reason of each of three pairs
    assert sum(line.startswith("resident-") for line in texts.splitlines()) >= 3
