"""The commands and the YAML of pages and of `--help`, checked down to each key and value.

Nothing is run here: what the commands do is tested beside their code. Programs of `_OF_OTHERS` are
not xrec's, and need what a test's machine lacks.
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
_PAGES = [*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md"), *_ROOT.glob("infra/*.md")]
_PAGES += _ROOT.glob("benchmarks/*.md")
_OF_OTHERS = {
    **dict.fromkeys(("kubectl", "terraform", "docker", "ray", "serve"), "a cluster or an account"),
    **dict.fromkeys(("curl", "kill"), "a server that runs"),
    **dict.fromkeys(("pip", "uv", "openssl"), "a network, or not our program"),
}
_PROGRAMS = tuple(f"{name} " for name in ("xrec", "make", "python -m", *_OF_OTHERS))
_SHOP = _ROOT / "configs" / "instruments.yaml"  # stands for a user's own project file
_BACKFILL = ("explain", "audit", "publish")  # commands that take the config of the backfill
_PROGRAM = typer.main.get_command(app)


def _blocks(text):
    """The indented blocks of a page, without their indentation."""
    for block in re.findall(r"(?:^(?: {4,}.*)?\n)+", text, flags=re.MULTILINE):
        yield textwrap.dedent(block).strip("\n")


def _command_lines(text):
    """Each command of a program in the blocks, as one line."""
    for block in _blocks(text):
        command = ""
        for line in block.splitlines():
            command = f"{command} {line}".strip() if command or line.startswith(_PROGRAMS) else ""
            if command.endswith("\\"):
                command = command[:-1]
            elif _is_whole(command):
                yield from filter(None, [command])
                command = ""


def _is_whole(command):
    try:
        return bool(shlex.split(command, comments=True)) or not command
    except ValueError:  # a quotation goes on in the next line
        return False


def _help_texts(command, names=("xrec",)):
    if not hasattr(command, "commands"):
        yield " ".join(names), command.help
    for name, each in getattr(command, "commands", {}).items():
        yield from _help_texts(each, (*names, name))


_SOURCES = [(str(page.relative_to(_ROOT)), page.read_text()) for page in sorted(_PAGES)]
_SOURCES += [
    (name, "\n" + textwrap.indent(text.split("Example:")[1], "  ") + "\n")
    for name, text in _help_texts(_PROGRAM)
]
_COMMANDS = [(name, line) for name, text in _SOURCES for line in _command_lines(text)]


def _check_xrec(words):
    """Parses the command with its options; the config with its overrides must be valid."""
    command, rest, name = _PROGRAM, words[1:], "xrec"
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"xrec has no command {rest[0]}"
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    given = command.make_context(name, list(rest)).params
    if "config_path" not in given:
        return
    path = _ROOT / given["config_path"]
    path = path if path.exists() else _SHOP
    job, overrides = given.get("job_name") or name, given.get("overrides") or []
    job = "backfill" if job in _BACKFILL else job
    if job in CONFIG_TYPES:
        load_config(CONFIG_TYPES[job], path, overrides)
    else:
        chosen_configs(read_project(path, overrides), given.get("first"), given.get("last"))


@pytest.mark.parametrize(("where", "line"), _COMMANDS, ids=[": ".join(each) for each in _COMMANDS])
def test_command_of_a_page_or_of_help_is_one_that_can_be_given(where, line):
    for part in line.split(" && "):
        words = shlex.split(part, comments=True)
        if words[0] == "xrec":
            _check_xrec(words)
        elif words[0] == "make":
            targets = [word for word in words[1:] if "=" not in word]
            makefile = (_ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{each}:", makefile, re.MULTILINE) for each in targets)
        elif words[0] == "python":
            assert importlib.util.find_spec(words[2])
        else:
            assert words[0] in _OF_OTHERS


def test_there_are_commands_of_pages_and_of_help():
    assert sum(line.startswith("xrec ") for _, line in _COMMANDS) > 100


@pytest.mark.parametrize(("where", "text"), _SOURCES, ids=[name for name, _ in _SOURCES])
def test_commands_within_sentences_exist(where, text):
    if where == "CHANGELOG.md":  # it names what is gone, too
        return
    for words in re.findall(r"`xrec ((?:[a-z-]+ ?)+)", text):
        first, *rest = words.split()
        assert first in _PROGRAM.commands, words
        group = getattr(_PROGRAM.commands[first], "commands", None)
        assert not (group and rest) or rest[0] in group, words


@pytest.mark.parametrize(("where", "text"), _SOURCES, ids=[name for name, _ in _SOURCES])
def test_yaml_of_a_page_has_keys_that_there_are(where, text):
    for block in _blocks(text):
        try:
            values = yaml.safe_load(block)
        except yaml.YAMLError:
            continue
        if isinstance(values, dict) and set(values) <= {*SHARED, *CONFIG_TYPES}:
            Project(where, values).configs(())
