"""Placeholders of a prompt part, `{name}`: parsed in one place, for the config's check and for the prompt builder."""

from collections.abc import Collection, Sequence
from string import Formatter


def parse_placeholders(text: str) -> list[tuple[str, str | None]]:
    """Split "User: {user}." into [("User: ", "user"), (".", None)]: literal text, then the placeholder that follows."""
    return [(literal, name) for literal, name, _, _ in Formatter().parse(text)]


def check_placeholders(part: str, text: str, allowed: Sequence[str], required: Sequence[str]) -> None:
    """Raise ValueError unless the placeholders of `text` are all in `allowed` and each of `required` stands once."""
    names = [name for _, name in parse_placeholders(text) if name is not None]
    for name in names:
        if name not in allowed:
            raise ValueError(f"prompt part {part!r} holds {{{name}}}; allowed there: {', '.join(allowed) or 'none'}")
    for name in required:
        if names.count(name) != 1:
            raise ValueError(f"prompt part {part!r} must hold {{{name}}} exactly once, saw {names.count(name)}")


def without_placeholders(text: str, names: Collection[str]) -> str:
    """`text` without the placeholders `names` and the blanks that they leave at its end."""
    kept = [f"{{{name}}}" if name is not None and name not in names else "" for _, name in parse_placeholders(text)]
    literals = [literal.replace("{", "{{").replace("}", "}}") for literal, _ in parse_placeholders(text)]
    return "".join(literal + placeholder for literal, placeholder in zip(literals, kept, strict=True)).rstrip()
