"""All keys of a config class by their dotted names, for suggestions and for the lists of keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from pydantic.fields import FieldInfo

from xrec.config.base import Config, sections_of


@dataclass(frozen=True)
class Key:
    """One key. `kind` is the kind of the section in which alone it stands, where kinds differ."""

    name: str
    field: FieldInfo
    kind: str | None = None

    @property
    def is_section(self) -> bool:
        """True if other keys stand below this one."""
        return bool(sections_of(self.field.annotation))


def keys_of(section: type[Config], prefix: str = "", kind: str | None = None) -> Iterator[Key]:
    """The keys of `section` and, behind each, those below it."""
    for name, field in section.model_fields.items():
        yield Key(f"{prefix}{name}", field, kind)
        inner = sections_of(field.annotation)
        for each in inner:
            own_kind = get_args(each.model_fields["kind"].annotation)[0] if len(inner) > 1 else kind
            yield from keys_of(each, f"{prefix}{name}.", own_kind)
