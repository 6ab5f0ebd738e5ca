"""What people may import, and what it costs."""

from pathlib import Path

import yaml

import xrec
from tests.command_line import python

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
