"""Texts that were made elsewhere: any table of pairs and texts, of the public system for instance.

A row that cannot be read ends the comparison: a figure of a part of a table would mislead.
"""

import io

from xrec.config.contestants import ElsewhereConfig
from xrec.config.shared import StorageConfig
from xrec.data.rows import FileRows, parse_id, parse_text, reject_duplicates, stream_rows
from xrec.errors import DataError
from xrec.lab.measures.contestant_texts import PairIds
from xrec.storage import content_hash, open_location


def elsewhere_fingerprint(config: ElsewhereConfig, storage: StorageConfig) -> str:
    """The hash of the file's content; raises StorageNotFoundError."""
    return content_hash(open_location(config.uri, storage).read_bytes())


def read_elsewhere(
    name: str, config: ElsewhereConfig, storage: StorageConfig
) -> dict[PairIds, str | None]:
    """The texts of the table by pair, None where a text is empty.

    Raises DataError for a missing column, a row that cannot be read, and a pair with two texts.
    """
    location = open_location(config.uri, storage)
    read = stream_rows(
        config.uri,
        io.BytesIO(location.read_bytes()),
        {"user_id": parse_id, "item_id": parse_id, "text": parse_text},
        names={
            "user_id": (config.user_id,),
            "item_id": (config.item_id,),
            "text": (config.text,),
        },
        delimiter=config.delimiter,
        advice=f"name the file's columns in texts.{name}.user_id, item_id and text",
        rows_at_once=None,
    )
    rows = reject_duplicates(next(read), ["user_id", "item_id"])
    _check_whole(name, rows)
    return {(row["user_id"], row["item_id"]): row["text"] or None for row in rows.table.to_pylist()}


def _check_whole(name: str, rows: FileRows) -> None:
    if rows.findings:
        first = rows.findings[0]
        raise DataError(
            f"texts.{name}: {len(rows.findings)} of {rows.num_rows} rows of {rows.file} cannot be "
            f"used, the first in line {first.line}: {first.reason} ({first.text}); mend the file, "
            "or leave these rows out"
        )
