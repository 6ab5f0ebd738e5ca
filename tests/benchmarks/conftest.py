"""A town with all artifacts, made once: toy language model, random vectors, random adapters."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.world.workspace import build_workspace, make_adapter
from xrec.llm.source import model_fingerprint
from xrec.storage import open_location, read_manifest


@pytest.fixture(autouse=True)
def threads():
    """A benchmark sets the number of torch's threads, which the next test has as before."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A folder with dataset, graph, llm, and adapters with and without aspects."""
    folder: Path = tmp_path_factory.mktemp("town")
    build_workspace(folder)
    graph = read_manifest(open_location(f"{folder}/graph"), "graph").fingerprint
    for name, aspects in (("adapter", 2), ("plain-adapter", 0)):
        make_adapter(folder / name, graph, model_fingerprint(folder / "llm"), aspects=aspects)
    return folder


@pytest.fixture
def run(tmp_path):
    """Runs a command, which must succeed; returns the tables that it wrote.

    An option is a keyword; one with a list is given once for each of its values.
    """

    def run_command(app, *arguments, **options):
        words = list(arguments)
        for name, values in {**options, "output": tmp_path / "out"}.items():
            for value in values if isinstance(values, list) else [values]:
                words += [f"--{name.replace('_', '-')}", value]
        done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        (path,) = (tmp_path / "out").glob("*.json")
        assert path.with_suffix(".md").read_text() in done.output
        return json.loads(path.read_text())

    return run_command
