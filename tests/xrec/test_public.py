"""What people may import, and what it costs."""

import ast
from pathlib import Path

import pytest
import yaml

import xrec
from tests.world.program import python
from xrec.config.values import parse_yaml
from xrec.errors import ConfigError

_READ = (
    "import sys, xrec; before = set(sys.modules); xrec.read_explanations;"
    "print(*(name for name in ('deltalake', 'ray', 'torch') if name in sys.modules),"
    " 'deltalake' in before)"
)


def test_public_names_are_there_and_have_a_docstring():
    for name in set(xrec.__all__) - {"__version__"}:
        assert getattr(xrec, name).__doc__, name


def test_changelog_and_citation_are_of_this_version():
    citation = yaml.safe_load(Path("CITATION.cff").read_text())
    title = f"## v{xrec.__version__} - {citation['date-released']}\n"
    assert (citation["version"], title in Path("CHANGELOG.md").read_text()) == (
        xrec.__version__,
        True,
    )


def test_reading_explanations_loads_neither_torch_nor_ray_and_import_xrec_nothing():
    assert python("-c", _READ).stdout.split() == ["deltalake", "False"]


def test_no_module_unpickles_a_file_or_runs_what_it_reads():
    """Only processes of one bulk run exchange pickles, in memory."""
    unpickle = set()
    for path in (path for name in ("xrec", "jobs", "cluster") for path in Path(name).rglob("*.py")):
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
    assert unpickle == {"xrec/bulk/work"}
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("a: !!python/object/apply:os.getcwd []", "file")
