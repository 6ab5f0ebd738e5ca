"""What every source hands over: the rows that it could read, by the ids of the source, and what it could not read."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from xrec.data.findings import Finding


@dataclass(frozen=True)
class SourceData:
    """Rows of a source. All ids and texts are strings; `file` and `line` tell where a row stood.

    users: user_id, profile; ids are unique.
    items: item_id, title, profile; ids are unique.
    interactions: user_id, item_id, split (null: by hash), file, line; may name unknown ids and repeat pairs.
    explanations: user_id, item_id, explanation, split (null: by hash), file, line; likewise.
    planted: user_id, item_id, aspect, aspects (list of strings); only of the sample.
    findings: the rows that were left out so far.
    num_rows: rows of each file, those left out included, in the order of reading.
    """

    users: pa.Table
    items: pa.Table
    interactions: pa.Table
    explanations: pa.Table
    findings: tuple[Finding, ...]
    num_rows: Mapping[str, int]
    planted: pa.Table | None = None
