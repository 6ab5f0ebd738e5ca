"""Pins: versions of a table that vacuum must keep, each a small file below `_xrec/pins/`."""

import json
import re

from xrec.errors import StorageNotFoundError
from xrec.storage import Location

OWN_FOLDER = "_xrec"
"""What other programs' vacuum spares: Delta's tools skip names that begin with `_`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


def write_pin(table: Location, name: str, version: int) -> None:
    """Pin a version; raises ValueError for a name that cannot be a file's."""
    _location(table, name).write_bytes(json.dumps(version).encode())


def delete_pin(table: Location, name: str) -> None:
    """Remove a pin; nothing happens if there is none of this name."""
    _location(table, name).delete()


def pins(table: Location) -> dict[str, int]:
    """The pinned version of each pin, by its name; a pin that goes away meanwhile is left out."""
    folder = table / OWN_FOLDER / "pins"
    found = {}
    for name in folder.files():
        try:
            found[name.removesuffix(".json")] = int(json.loads((folder / name).read_text()))
        except StorageNotFoundError:
            continue
    return found


def pinned_versions(table: Location) -> list[int]:
    """The versions that are pinned, sorted."""
    return sorted(set(pins(table).values()))


def _location(table: Location, name: str) -> Location:
    if not _NAME.fullmatch(name):
        raise ValueError(f"pin {name!r}: expected letters, digits, _, . and -")
    return table / OWN_FOLDER / "pins" / f"{name}.json"
