"""Placeholders of a prompt part, `{name}`, as config and prompt builder read them."""

from collections.abc import Collection, Mapping, Sequence
from string import Formatter

EVIDENCE = ("aspect", "item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
"""What an entry of a list of aspects may hold: the fields of xrec.data.evidence."""


def parse_placeholders(text: str) -> list[tuple[str, str | None]]:
    """The literal texts of `text`, each with the placeholder that follows it.

    "User: {user}." gives [("User: ", "user"), (".", None)].
    """
    return [(literal, name) for literal, name, _, _ in Formatter().parse(text)]


def check_allowed(part: str, text: str, allowed: Sequence[str]) -> None:
    """Raise ValueError if a placeholder of the prompt part `text` is not in `allowed`."""
    for name in placeholder_names(text):
        if name not in allowed:
            raise ValueError(
                f"prompt part {part!r} holds {{{name}}}; allowed there: "
                f"{', '.join(allowed) or 'none'}"
            )


def check_once(parts: Mapping[str, str], names: Sequence[str]) -> None:
    """Raise ValueError unless all `parts` (name to text) together hold each of `names` once."""
    for name in names:
        places = [
            part
            for part, text in parts.items()
            for found in placeholder_names(text)
            if found == name
        ]
        if len(places) != 1:
            raise ValueError(
                f"the prompt must hold {{{name}}} exactly once, saw it in "
                f"{', '.join(places) or 'no part'}; "
                f"put it into one of the parts {', '.join(parts)}"
            )


def placeholder_names(text: str) -> list[str]:
    """The names in braces, in order, as often as they stand there."""
    return [name for _, name in parse_placeholders(text) if name is not None]


def without_placeholders(text: str, names: Collection[str]) -> str:
    """`text` without the placeholders `names` and the blanks that they leave at its end."""
    kept = [
        f"{{{name}}}" if name is not None and name not in names else ""
        for _, name in parse_placeholders(text)
    ]
    literals = [
        literal.replace("{", "{{").replace("}", "}}") for literal, _ in parse_placeholders(text)
    ]
    return "".join(
        literal + placeholder for literal, placeholder in zip(literals, kept, strict=True)
    ).rstrip()
