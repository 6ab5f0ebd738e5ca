"""The commands, YAML and imports of pages and of `--help`: they are there, down to each key.

Nothing is run here. Programs of `_OF_OTHERS` need a cluster, a network or a server.
"""

import importlib.util
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import typer.main
import yaml

from jobs.catalogue import chosen_configs
from xrec.cli.main import app
from xrec.config.jobs import CONFIG_TYPES, SHARED
from xrec.config.project import Project, load_config, read_project

_ROOT = Path(__file__).parents[1]
_OF_OTHERS = ("kubectl", "terraform", "docker", "ray", "serve", "curl", "kill", "pip", "openssl")
_STARTS = tuple(f"{name} " for name in ("xrec", "make", "python -m", *_OF_OTHERS))
_SHOP = _ROOT / "configs" / "instruments.yaml"  # stands for a user's own project file
_PROGRAM = typer.main.get_command(app)


def _helps(command, names=("xrec",)):
    if not hasattr(command, "commands"):
        yield " ".join(names), textwrap.indent(command.help.split("Example:")[1], "  ")
    for name, each in getattr(command, "commands", {}).items():
        yield from _helps(each, (*names, name))


_PAGES = [p for name in (".", "docs", "infra", "benchmarks") for p in _ROOT.glob(f"{name}/*.md")]
_TEXTS = {str(page.relative_to(_ROOT)): page.read_text() for page in sorted(_PAGES)}
_TEXTS |= {name: f"\n{text}\n" for name, text in _helps(_PROGRAM)}


def _blocks(text):
    for block in re.findall(r"(?:^(?: {4,}.*)?\n)+", text, flags=re.MULTILINE):
        yield textwrap.dedent(block).strip("\n")


def _commands(text):
    """The words of each command in the blocks; some go on in the next line."""
    for block in _blocks(text):
        command = ""
        for line in block.splitlines():
            command = f"{command} {line}".strip() if command or line.startswith(_STARTS) else ""
            try:
                words = shlex.split(command.removesuffix("\\"), comments=True)
            except ValueError:  # a quotation goes on
                continue
            if command.endswith("\\"):
                command = command.removesuffix("\\")
            elif words:
                yield from " ".join(map(shlex.quote, words)).split(" '&&' ")
                command = ""


def _check_xrec(words):
    """Parses the command with its options; the config with its overrides must be valid."""
    command, rest, name = _PROGRAM, words[1:], "xrec"
    while hasattr(command, "commands"):
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    given = command.make_context(name, list(rest)).params
    if "config_path" not in given:
        return
    path = _ROOT / given["config_path"]
    path = path if path.exists() else _SHOP
    job, overrides = given.get("job_name") or name, given.get("overrides") or []
    job = "backfill" if job in ("explain", "audit", "publish") else job
    if job in CONFIG_TYPES:
        load_config(CONFIG_TYPES[job], path, overrides)
    else:
        chosen_configs(read_project(path, overrides), given.get("first"), given.get("last"))


_COMMANDS = [(where, line) for where, text in _TEXTS.items() for line in _commands(text)]
assert len(_COMMANDS) > 100


@pytest.mark.parametrize(("where", "line"), _COMMANDS, ids=[": ".join(each) for each in _COMMANDS])
def test_command_of_a_page_or_of_help_is_one_that_can_be_given(where, line):
    words = shlex.split(line)
    if words[0] == "xrec":
        _check_xrec(words)
    elif words[0] == "make":
        makefile = (_ROOT / "Makefile").read_text()
        targets = [word for word in words[1:] if "=" not in word]
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    elif words[0] == "python":
        assert importlib.util.find_spec(words[2])


@pytest.mark.parametrize("where", _TEXTS)
def test_commands_in_sentences_keys_in_yaml_and_imported_names_are_there(where):
    text = _TEXTS[where]
    for first in re.findall(r"`xrec ([a-z-]+)", text if where != "CHANGELOG.md" else ""):
        assert first in _PROGRAM.commands
    for module, names in re.findall(r"^ {4,}from (xrec[\w.]*) import ([\w, ]+)$", text, re.M):
        there = importlib.import_module(module)
        for name in names.split(", "):
            assert hasattr(there, name) or importlib.util.find_spec(f"{module}.{name}"), module
    for block in _blocks(text):
        try:
            values = yaml.safe_load(block)
        except yaml.YAMLError:
            continue
        if isinstance(values, dict) and set(values) <= {*SHARED, *CONFIG_TYPES}:
            Project(where, values).configs(())
