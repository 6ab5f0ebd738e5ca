"""Commands, YAML and Python of pages and of `--help`: each is checked, or says `# not checked`.

Nothing is run. A command is parsed by its program's own parser, and its files, configs, targets and
routes exist. YAML is validated as a part of a project file. What pages show besides is in _TEXTS.
"""

import ast
import importlib
import itertools
import json
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import ray.scripts.scripts
import ray.serve.scripts
import typer.main
import yaml
from packaging.requirements import Requirement
from starlette.routing import Match

from xrec.cli.main import app
from xrec.config import CONFIG_TYPES, SHARED, Project, keys_of, load_config, read_project
from xrec.errors import packages_of
from xrec.jobs.pipeline import chosen_configs
from xrec.serve.api import make_api

ROOT = Path(__file__).parents[1]
SHOP = ROOT / "configs" / "instruments.yaml"  # stands for a user's own project file
MARK = "# not checked"
PROGRAM = typer.main.get_command(app)
EXTRAS = ("index", "schema", "compare", "vllm")
TEXTS = (
    *("xrec.cli  ", "user  ", "SmolLM2  ", "item  ", "explanations/", "User: ..."),
    *("B P (1 + h)", "A = D^-1/2", "ln(1 + ", "score(u, i, a)", "user u is", "z = ((x"),
    *("Fans of craft", "backfill ──▶", "user_id,item_id,"),
)
"""How the blocks begin that are diagrams, formulas, or what programs print."""


def helps(command: Any, names: Sequence[str] = ("xrec",)) -> Iterator[tuple[str, str]]:
    """Yield the name of each command, and the examples of its `--help`."""
    if not hasattr(command, "commands"):
        yield " ".join(names), textwrap.indent(command.epilog.split("Examples:")[1], "  ")
    for name, each in getattr(command, "commands", {}).items():
        yield from helps(each, (*names, name))


PAGES = [
    p
    for name in (".", "docs", "docs/tutorials", "infra", "benchmarks")
    for p in ROOT.glob(f"{name}/*.md")
]
SOURCES = {str(page.relative_to(ROOT)): page.read_text() for page in sorted(PAGES)}
SOURCES |= dict(helps(PROGRAM))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of each indented block and the block.

    A block that is not Python is split at its empty lines.
    """
    for found in re.findall(r"(?<=\n\n)(?: {4,}.*\n|\n(?=\n* {4}))+", f"\n\n{text}\n"):
        whole = textwrap.dedent(found).strip("\n")
        if _is_python(whole):
            yield "python", whole
            continue
        for block in re.split(r"\n\n+", whole):
            is_yaml = re.match(r"[\w-]+:(\s|$)", block)
            yield "text" if block.startswith(TEXTS) else "yaml" if is_yaml else "shell", block


def _is_python(block: str) -> bool:
    try:
        nodes = ast.walk(ast.parse(block))
    except SyntaxError:
        return False
    return any(
        isinstance(each, ast.Import | ast.ImportFrom | ast.With | ast.Call) for each in nodes
    )


def of_kind(wanted: str) -> list[tuple[str, str]]:
    """Return source and block of each block of a kind."""
    found = ((where, *each) for where, text in SOURCES.items() for each in blocks(text))
    return [(where, block) for where, kind, block in found if kind == wanted]


def commands(block: str) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command, and whether it has the mark."""
    text = ""
    for line in block.splitlines():
        text = f"{text}\n{line}".lstrip("\n")
        lexer = shlex.shlex(re.sub(r"\\\n", " ", text), posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation goes on in the next line
            continue
        if text.endswith("\\"):
            continue
        parts = re.split(r"\0[&|;]+(?:\0|$)", "\0".join(words))
        yield from ((part.split("\0"), text.endswith(MARK)) for part in parts if part.strip("\0"))
        text = ""
    assert not text, f"a command that does not end: {text}"


@pytest.mark.parametrize(
    ("words", "is_marked"),
    [
        pytest.param(*command, id=f"{where}: {shlex.join(command[0])}")
        for where, block in of_kind("shell")
        for command in commands(block)
    ],
)
def test_command_of_a_page_or_help_is_valid_or_marked(words, is_marked):
    program, *rest = words
    check = CHECKS.get(program.removeprefix(".venv/bin/"))
    if is_marked:
        with pytest.raises((AssertionError, TypeError)):  # else the mark must go
            check(rest)
    else:
        assert check, f"{program} cannot be checked here: end its line with {MARK}"
        check(rest)


def check_xrec(words: list[str]) -> None:
    """Parse the command with its options; the config with its overrides must be valid."""
    command, rest, name = PROGRAM, words, "xrec"
    while hasattr(command, "commands"):
        command, name, rest = command.commands[rest[0]], rest[0], rest[1:]
    given = command.make_context(name, list(rest)).params
    if name == "submit":
        check_xrec(given["command"])
    if "config_path" not in given:
        return
    path = ROOT / given["config_path"]
    path = path if path.exists() else SHOP
    job = "backfill" if name in ("explain", "audit", "publish") else name
    overrides = given.get("overrides") or []
    if job in CONFIG_TYPES:
        load_config(CONFIG_TYPES[job], path, overrides)
    else:
        chosen_configs(read_project(path, overrides), given.get("first"), given.get("last"))


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name}{' [?]?=' if is_variable else ':'}", makefile, re.M), word


def check_python(words: list[str]) -> None:
    assert words[0] == "-m"
    module, rest = words[1], words[2:]
    if module == "pip":
        check_pip(rest)
    elif module == "pytest":
        assert all((ROOT / path).exists() for path in rest)
    else:
        check_click(click_command(module), rest)


def click_command(module: str) -> Any:
    """Return the command of a benchmark."""
    found = importlib.import_module(module)
    if not hasattr(found, "app"):
        found.app = typer.Typer()
        found.app.command()(found.main)
    return typer.main.get_command(found.app)


def check_click(command: Any, words: list[str]) -> None:
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context("", list(words))


def check_pip(words: list[str]) -> None:
    """Packages must be those of an extra, in the versions of it; lists exist."""
    assert words[0] == "install"
    known = {Requirement(each).name: Requirement(each) for e in EXTRAS for each in packages_of(e)}
    for before, word in itertools.pairwise(words):
        if before == "-r":
            assert (ROOT / word).is_file()
        elif not word.startswith("-"):
            wanted = Requirement(word)
            assert wanted.specifier == known[wanted.name].specifier


def check_kubectl(words: list[str]) -> None:
    """Check what is applied, and that its label chooses something."""
    assert words[:2] == ["apply", "-k"]
    folder = ROOT / words[2]
    assert (folder / "kustomization.yaml").is_file()
    if len(words) > 3:
        name, _, value = words[4].partition("=")
        files = "\n".join(path.read_text() for path in (ROOT / "infra/kuberay").rglob("*.yaml"))
        assert words[3] == "-l"
        assert re.search(rf"{name.replace('/', '(/|~1)')}\W.*\b{value}\b", files)


def check_terraform(words: list[str]) -> None:
    folder, command, option, variable = words
    files = [path.read_text() for path in (ROOT / folder.removeprefix("-chdir=")).glob("*.tf")]
    assert (command, option) == ("apply", "-var")
    assert f'variable "{variable.partition("=")[0]}"' in "\n".join(files)


def check_curl(words: list[str]) -> None:
    """The endpoint must have the route, and a body be JSON."""
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert set(given) <= {"-H", "-d"}
    json.loads(given.get("-d", "{}"))
    path = urlsplit(words[0]).path
    scope = {"type": "http", "method": "POST" if given else "GET", "path": path, "headers": []}
    routes = make_api(lambda: None).routes  # type: ignore[arg-type,return-value]
    assert any(route.matches(scope)[0] == Match.FULL for route in routes)


def check_export(words: list[str]) -> None:
    assert all(re.fullmatch(r"[A-Z_]+=[\w./-]+", word) for word in words)


CHECKS = {
    "xrec": check_xrec,
    "make": check_make,
    "python": check_python,
    "pip": check_pip,
    "ray": lambda words: check_click(ray.scripts.scripts.cli, words),
    "serve": lambda words: check_click(ray.serve.scripts.cli, words),
    "kubectl": check_kubectl,
    "terraform": check_terraform,
    "curl": check_curl,
    "export": check_export,
    "watch": lambda words: check_xrec(words[3:]),
}


@pytest.mark.parametrize(("where", "block"), of_kind("yaml"))
def test_yaml_of_a_page_is_part_of_a_valid_project_file(where, block):
    values = yaml.safe_load(block)
    if not set(values) <= {*SHARED, *CONFIG_TYPES}:  # a part of a job's section
        jobs = [job for job, kind in CONFIG_TYPES.items() if set(values) <= {*kind.model_fields}]
        assert jobs, f"no project file has all of {[*values]}"
        values = {jobs[0]: values}
    Project(where, values).configs(())


@pytest.mark.parametrize(("where", "block"), of_kind("python"))
def test_python_of_a_page_imports_and_uses_names_that_exist(where, block):
    nodes = list(ast.walk(ast.parse(block)))
    known = {"xrec": importlib.import_module("xrec")}
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [each.name for each in node.names if each.name.startswith("xrec")]
            known |= {name: importlib.import_module(name) for name in names}
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("xrec"):
            exec(ast.unparse(node), known)
    for node in nodes:
        if isinstance(node, ast.Attribute) and (owner := ast.unparse(node.value)) in known:
            assert hasattr(known[owner], node.attr), ast.unparse(node)


@pytest.mark.parametrize("where", [where for where in SOURCES if where != "CHANGELOG.md"])
def test_commands_in_sentences_exist_with_their_options_and_keys(where):
    for span in re.findall(r"`((?:xrec|make|python -m|ray) [^`]+)`", SOURCES[where]):
        program, *words = span.replace("JOB", "backfill").split()
        if program == "make":
            check_make(words[:1])
            continue
        command = PROGRAM if program == "xrec" else ray.scripts.scripts.cli
        if program == "python":
            command, words = click_command(words[1]), words[2:]
        name = ""
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            name, *words = words
            command = command.commands[name]
        known = {each for param in command.params for each in (*param.opts, *param.secondary_opts)}
        given = {word for word in words if word.startswith("--")}
        assert given <= {*known, "--help", "--keys"}, span
        if name in CONFIG_TYPES:
            keys = {key.name for key in keys_of(CONFIG_TYPES[name])}
            named = {word.partition("=")[0].strip("'") for word in words if "=" in word}
            assert named <= keys, span
