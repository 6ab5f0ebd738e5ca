"""The benchmark of GPUs, on a CPU with a toy."""

import pytest
from typer.testing import CliRunner

from benchmarks.gpu import app


@pytest.mark.slow
def test_gpu_benchmark_joins_the_tables_of_all_its_parts(tmp_path):
    arguments = ["--num-pairs", "32", "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert "no GPU" in lines[0]
    names = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert {"trainer", "static-32", "ours"} <= set(names)
    assert names.count("ours") == 2
