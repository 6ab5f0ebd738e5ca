"""The patterns of grammar.txt, compiled for spaCy's DependencyMatcher."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from xrec.data.language import load_parser

Token = Any
"""A spaCy token."""
_NODE = re.compile(r"(\w+)(?:\[(.*)\])?")
_JOINED = re.compile(r"(\w+)(?:\[(\S*)\])? ~ (\w+)\[(\S*)\]")
_KEPT = ("named", "own", "pointed", "topic", "part")


class Roles:
    """The roles of the tokens of a parsed text."""

    def __init__(self, doc: Any):
        self._doc = doc
        matcher, patterns = _matcher()
        # By role and token: the tokens that the pattern names `of`; -1 for `it`, the item itself.
        self._captured: defaultdict[str, dict[int, set[int]]] = defaultdict(dict)
        for key, tokens in matcher(doc):
            role, names = patterns[key]
            captured = self._captured[role].setdefault(tokens[0], set())
            for name, index in zip(names, tokens, strict=True):
                if name in ("of", "it"):
                    captured.add(index if name == "of" else -1)

    def has(self, role: str, token: Token) -> bool:
        """Return whether a token plays a role."""
        return token.i in self._captured[role]

    def of(self, role: str, token: Token) -> list[Token]:
        """Return the tokens captured with a token's role, in order; the item itself is None."""
        captured = sorted(self._captured[role].get(token.i, ()))
        return [None if index < 0 else self._doc[index] for index in captured]

    def kept(self, noun: Token) -> tuple[str, ...]:
        """Return the roles that a mention of the noun keeps."""
        return tuple(role for role in _KEPT if self.has(role, noun))


@functools.cache
def _matcher() -> tuple[Any, Mapping[int, tuple[str, list[str]]]]:
    """Return the matcher, and the role and token names of each of its patterns."""
    from spacy.matcher import DependencyMatcher  # slow to import

    vocab = load_parser().vocab
    matcher, patterns = DependencyMatcher(vocab), dict[int, tuple[str, list[str]]]()
    for number, (role, pattern) in enumerate(_patterns()):
        matcher.add(f"{role} {number}", [pattern])
        names = [relation["RIGHT_ID"] for relation in pattern]
        patterns[vocab.strings[f"{role} {number}"]] = role, names
    return matcher, patterns


def _patterns() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the role of each pattern, and its relations in spaCy's format."""
    text = (resources.files(__package__) / "grammar.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = dict(line[1:].split(" = ") for line in lines if line.startswith("$"))
    for line in (line for line in lines if not line.startswith("$")):
        for name, listed in words.items():
            line = re.sub(rf"\${name}\b", listed.replace(" ", "|"), line)
        role, _, pattern = line.partition(": ")
        yield role, _relations(_JOINED.sub(r"\1[\2,\4]", pattern))
        if "~" in pattern:
            yield role, _relations(_JOINED.sub(r"\1[\2,DEP=conj] < \3[\4]", pattern))


def _relations(pattern: str) -> list[dict[str, Any]]:
    relations: list[dict[str, Any]] = []
    for chain in pattern.split(", "):
        left, *others = chain.split(" ")
        name, attributes = _node(left)
        if not relations:
            relations.append({"RIGHT_ID": name, "RIGHT_ATTRS": attributes})
        for operator, right in zip(others[::2], others[1::2], strict=True):
            relation = {"LEFT_ID": name, "REL_OP": operator}
            name, attributes = _node(right)
            relations.append({**relation, "RIGHT_ID": name, "RIGHT_ATTRS": attributes})
    return relations


def _node(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `name[ATTRIBUTE=a|b,...]`."""
    match = _NODE.fullmatch(text)
    assert match is not None, text
    attributes: dict[str, Any] = {}
    for condition in filter(None, (match[2] or "").split(",")):
        attribute, is_compared, values = condition.partition("=")
        if not is_compared:
            attributes[attribute.removeprefix("!")] = not attribute.startswith("!")
        elif attribute.endswith("!"):
            attributes[attribute.removesuffix("!")] = {"NOT_IN": values.split("|")}
        else:
            attributes[attribute] = {"IN": values.split("|")} if "|" in values else values
    return match[1], attributes
