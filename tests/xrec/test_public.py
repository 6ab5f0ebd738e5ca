"""What people may import, and what it costs."""

import ast
import json
import re
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

import xrec
from tests.infra.test_environment import required_by
from tests.world.program import python
from tests.xrec.bulk.toy_run import toy_run
from xrec.config import parse_yaml
from xrec.errors import ConfigError


def _beyond_base() -> list[str]:
    """Return the modules that `pip install xrec`, without an extra, does not bring."""
    base = {"xrec", *(canonicalize_name(each.name) for each in required_by("xrec"))}
    modules = packages_distributions().items()
    return sorted(name for name, dists in modules if not base & set(map(canonicalize_name, dists)))


_RUN = """
import json, sys
commands, hidden = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(hidden))  # None makes an import fail, as if it were not installed
import xrec
assert not {"deltalake", "pyarrow"} & set(sys.modules)
xrec.read_explanations, xrec.Client, xrec.PairRequest, xrec.open_dataset
from xrec.cli.main import app
for words in commands:
    try:
        app(words, prog_name="xrec")
    except SystemExit as ended:
        print("exit code", ended.code, flush=True)
"""


def test_changelog_and_citation_are_of_this_version():
    citation = yaml.safe_load(Path("CITATION.cff").read_text())
    title = f"## v{xrec.__version__} - {citation['date-released']}\n"
    assert citation["version"] == xrec.__version__
    assert title in Path("CHANGELOG.md").read_text()


def test_base_installation_reads_tables_and_has_the_client(disk, tmp_path):
    toy_run(disk, tmp_path).complete()
    commands = [
        ["table", "status", disk.uri],
        ["table", "check", disk.uri],
        ["export", disk.uri, "--to", str(tmp_path / "plain")],
        ["init", "--help"],
        ["doctor"],
        ["train-adapter", "configs/sample.yaml"],  # it needs the extra `cluster`
    ]
    done = python("-c", _RUN, json.dumps(commands), json.dumps(_beyond_base()))
    assert re.findall(r"^exit code (\d)$", done.stdout, re.MULTILINE) == [*"000011"], done.stderr
    assert (tmp_path / "plain" / "_SUCCESS").exists()
    assert "torch " in done.stdout
    for part in ("error: this command needs the package", "pip install", "torch>="):
        assert part in done.stderr


def test_no_module_unpickles_a_file_or_runs_what_it_reads():
    """Processes of one run exchange pickles; data reads a release's tables, and no other class."""
    unpickle = set()
    for path in (path for name in ("xrec", "jobs") for path in Path(name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                if names & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "runpy"}:
                    unpickle.add(str(path.parent))
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "torch.load", "torch.save"), path
                names = {each.arg for each in node.keywords}
                assert not names & {"allow_pickle", "trust_remote_code"}, path
    assert unpickle == {"xrec/data", "xrec/processes", "xrec/train"}
    with pytest.raises(ConfigError, match="invalid YAML"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "file")
