"""What a table holds: its columns, its partition, the columns whose statistics stand in the log."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import deltalake
import pyarrow as pa

from xrec.errors import TableError

LAYOUT = "1"
_LAYOUT_KEY, _RUN_KEY = "xrec.layout", "xrec.run"
_STATISTICS_KEY = "delta.dataSkippingStatsColumns"
_COLUMN_NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_PARTITION_VALUE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class TableFormat:
    """The format of a table; every worker that writes files of the table needs it.

    schema: all columns, those of the partition included. A column's metadata, such as its unit and
        meaning, is kept in the table.
    partition_by: string columns, not null, whose values are in the paths of files and not in them.
    statistics: columns whose least and greatest value, per file, stand in the log, so that readers
        skip files. Everyone who reads the log sees these values, and the log outlives the files.

    Raises ValueError for a column that is not there, or whose type cannot be used.
    """

    schema: pa.Schema
    partition_by: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.partition_by, *self.statistics):
            if name not in self.schema.names:
                raise ValueError(f"column {name!r} is not in the schema: {self.schema.names}")
            if not _COLUMN_NAME.fullmatch(name):
                raise ValueError(f"column {name!r}: expected a name of letters, digits and _")
        for name in self.partition_by:
            self._check_partition_column(self.schema.field(name))
        for name in self.statistics:
            self._check_statistics_column(self.schema.field(name))
        _check_types(self.schema)

    @property
    def file_schema(self) -> pa.Schema:
        """The columns of a file: all but the partition's.

        Without their metadata, which stands in the log once: in each footer it would take as much
        memory of those who keep footers as all else together.
        """
        return pa.schema(
            [
                field.remove_metadata()
                for field in self.schema
                if field.name not in self.partition_by
            ]
        )

    def check_partition(self, partition: Mapping[str, object]) -> None:
        """Raise ValueError unless `partition` has one good value for each partition column."""
        if set(partition) != set(self.partition_by):
            raise ValueError(
                f"partition {dict(partition)}: expected a value for each of {self.partition_by}"
            )
        for name, value in partition.items():
            if not isinstance(value, str) or not _PARTITION_VALUE.fullmatch(value):
                raise ValueError(
                    f"partition {name}={value!r}: expected a string of 1 to 64 letters, digits, "
                    "_ and -; other tools read other values differently"
                )

    def folder(self, partition: Mapping[str, str]) -> str:
        """The folder of a partition's files, relative to the table: `status=ok/`, or empty."""
        return "".join(f"{name}={partition[name]}/" for name in self.partition_by)

    def metadata_action(self, table_id: str, run: str, created_at_ms: int) -> dict[str, object]:
        """The action `metaData` of the Delta log's first entry."""
        names = ",".join(self.statistics)
        return {
            "metaData": {
                "id": table_id,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": deltalake.Schema.from_arrow(self.schema).to_json(),
                "partitionColumns": list(self.partition_by),
                "configuration": {
                    _LAYOUT_KEY: LAYOUT,
                    _RUN_KEY: run,
                    # For other tools: these columns only, and the log is not theirs to shorten.
                    **(
                        {_STATISTICS_KEY: names}
                        if names
                        else {"delta.dataSkippingNumIndexedCols": "0"}
                    ),
                    "delta.enableExpiredLogCleanup": "false",
                },
                "createdTime": created_at_ms,
            }
        }

    @classmethod
    def of(
        cls, schema: deltalake.Schema, partition_by: Sequence[str], configuration: Mapping[str, str]
    ) -> "TableFormat":
        """The format of a table with this metadata."""
        names = configuration.get(_STATISTICS_KEY, "")
        return cls(
            pa.schema(schema.to_arrow()),
            tuple(partition_by),
            tuple(names.split(",")) if names else (),
        )

    def _check_partition_column(self, field: pa.Field) -> None:
        if field.type != pa.string() or field.nullable:
            raise ValueError(
                f"partition column {field.name!r}: expected a string that is not null, saw {field}"
            )

    def _check_statistics_column(self, field: pa.Field) -> None:
        is_ordered = pa.types.is_signed_integer(field.type) or field.type == pa.string()
        if not is_ordered or field.name in self.partition_by:
            raise ValueError(
                f"column {field.name!r}: statistics are kept of integers and strings outside the "
                f"partition (a float may be NaN, which has no order), saw {field.type}"
            )


def run_of(configuration: Mapping[str, str], uri: str) -> str:
    """The run that the table at `uri` belongs to.

    Raises TableError if xrec did not make the table, or made it in another layout.
    """
    layout = configuration.get(_LAYOUT_KEY)
    if layout != LAYOUT:
        made = "xrec did not make it" if layout is None else f"its layout is {layout}"
        raise TableError(
            f"{uri}: holds a Delta table that this xrec cannot extend: {made}, expected layout "
            f"{LAYOUT}; give another URI, or use the program that wrote it"
        )
    return configuration[_RUN_KEY]


def _check_types(schema: pa.Schema) -> None:
    """Raise ValueError for a column that a Delta table would give back with another type."""
    kept = pa.schema(deltalake.Schema.from_arrow(schema).to_arrow())
    for field in schema:
        there = kept.field(field.name)
        if (there.type, there.nullable) != (field.type, field.nullable):
            raise ValueError(f"column {field}: a Delta table would make it {there}")
