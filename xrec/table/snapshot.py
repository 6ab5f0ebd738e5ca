"""A table as it was at one version: its files, its rows, a pyarrow dataset of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Literal

import deltalake
import deltalake.exceptions
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from xrec.config.shared import StorageConfig
from xrec.errors import StorageError, StorageNotFoundError, TableError
from xrec.storage import Location
from xrec.table.format import TableFormat, run_of
from xrec.table.log import Commit, Log

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in"]
Filter = tuple[str, Operator, Any]
"""A column, an operator, and a value; with `in`, a list of values."""


class Snapshot:
    """A version of a table, which nothing changes; `Table.snapshot` makes one.

    Files that a later vacuum deletes can no longer be read: see `Writer.vacuum` and `Table.pin`.
    """

    def __init__(
        self, location: Location, version: int, commit: Commit, delta: deltalake.DeltaTable
    ):
        self.version = version
        self.commit = commit
        metadata = delta.metadata()
        self.run = run_of(metadata.configuration, location.uri)
        self.format = TableFormat.of(
            delta.schema(), metadata.partition_columns, metadata.configuration
        )
        self._location = location
        self._files = _file_table(pa.table(delta.get_add_actions(flatten=True)), self.format)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the driver said in the commit of this version."""
        return self.commit.metadata

    @cached_property
    def rows(self) -> int:
        """The number of rows."""
        total: int | None = pc.sum(self._files["num_rows"]).as_py()
        return total or 0

    def files(self, filters: Sequence[Filter] = ()) -> pa.Table:
        """The files that may hold rows for which all `filters` are true, by the log alone.

        Columns: `path` (relative to the table), `num_bytes`, `num_rows`, `partition.X` for each
        partition column X, and `min.Y`, `max.Y` for each column Y with statistics, null where a
        file has none. Raises ValueError for a column that the table has not.
        """
        kept = self._files
        for column, operator, value in filters:
            kept = kept.filter(_may_match(kept, self.format, column, operator, value))
        return kept

    def dataset(
        self,
        filters: Sequence[Filter] = (),
        paths: Sequence[str] | None = None,
        schema: pa.Schema | None = None,
    ) -> pa.dataset.Dataset:
        """The rows for which all `filters` are true; files that hold none are not opened.

        If `paths` is given, only the rows of these files of the snapshot. If `schema` is given, the
        columns are those, which the files must hold, and which may say that nothing is null.
        """
        files = self.files(filters)
        if paths is not None:
            files = files.filter(pc.is_in(files["path"], pa.array(paths, pa.string())))
        root = self._location.path.rstrip("/")
        dataset = pa.dataset.FileSystemDataset.from_paths(
            [f"{root}/{path}" for path in files["path"].to_pylist()],
            schema=schema or self.format.schema,
            format=pa.dataset.ParquetFileFormat(),
            filesystem=self._location.arrow_filesystem(),
            partitions=list(_partitions(files, self.format)) if schema is None else None,
        )
        for filter in filters:
            dataset = dataset.filter(_expression(*filter))
        return dataset


def load_snapshot(location: Location, storage: StorageConfig, version: int) -> Snapshot:
    """The table at `version`.

    Raises TableError if the version is not in the log, or was not committed by xrec.
    """
    try:
        commit = Log(location).commit(version)
    except StorageNotFoundError as error:
        there = Log(location).versions()
        raise TableError(
            f"{location}: version {version} is not in the log, which has "
            + (f"{there[0]} to {there[-1]}" if there else "none")
            + "; vacuum deletes old versions that are not pinned"
        ) from error
    return Snapshot(location, version, commit, open_delta(location, storage, version))


def open_delta(location: Location, storage: StorageConfig, version: int) -> deltalake.DeltaTable:
    """Let deltalake read the log up to `version`; raises TableError or StorageError."""
    is_s3 = location.shared_uri.startswith("s3://")
    with delta_errors(location):
        return deltalake.DeltaTable(
            location.shared_uri,
            version=version,
            storage_options=_s3_options(storage) if is_s3 else None,
        )


@contextmanager
def delta_errors(location: Location) -> Iterator[None]:
    """Turn deltalake's errors into those of xrec.errors, and name the URI."""
    try:
        yield
    except deltalake.exceptions.DeltaError as error:
        raise TableError(f"{location}: the Delta log cannot be read: {error}") from error
    except OSError as error:
        raise StorageError(f"{location}: {error}") from error


def _s3_options(storage: StorageConfig) -> dict[str, str]:
    """The options of deltalake's own S3 client; it reads the usual AWS variables too."""
    options = {
        "AWS_ALLOW_HTTP": "true",  # only if the endpoint is http://
        "connect_timeout": f"{storage.connect_timeout_seconds:g}s",
        "timeout": f"{storage.read_timeout_seconds:g}s",
        "max_retries": str(storage.max_attempts - 1),
    }
    if storage.endpoint_url:
        options["AWS_ENDPOINT_URL"] = storage.endpoint_url
    if storage.region:
        options["AWS_REGION"] = storage.region
    if storage.access_key_id and storage.secret_access_key:
        options["AWS_ACCESS_KEY_ID"] = storage.access_key_id.get_secret_value()
        options["AWS_SECRET_ACCESS_KEY"] = storage.secret_access_key.get_secret_value()
    return options


def _file_table(actions: pa.Table, format: TableFormat) -> pa.Table:
    """The columns of `Snapshot.files`, all of them, whatever statistics the files have."""
    fields = [
        ("path", "path", pa.string()),
        ("size_bytes", "num_bytes", pa.int64()),
        ("num_records", "num_rows", pa.int64()),
        *((name, name, pa.string()) for name in map("partition.{}".format, format.partition_by)),
        *(
            (f"{bound}.{name}", f"{bound}.{name}", format.schema.field(name).type)
            for name in format.statistics
            for bound in ("min", "max")
        ),
    ]
    return pa.table(
        {
            name: actions[there].cast(type_)
            if there in actions.column_names
            else pa.nulls(actions.num_rows, type_)
            for there, name, type_ in fields
        },
        schema=pa.schema([(name, type_) for _, name, type_ in fields]),
    )


def _may_match(
    files: pa.Table, format: TableFormat, column: str, operator: Operator, value: Any
) -> pa.ChunkedArray:
    """For each file, whether it may hold rows for which the filter is true."""
    if column not in format.schema.names:
        raise ValueError(f"filter on column {column!r}: the table has {format.schema.names}")
    if column in format.partition_by:
        least = greatest = files[f"partition.{column}"]
    elif column in format.statistics:
        least, greatest = files[f"min.{column}"], files[f"max.{column}"]
    else:
        return pa.chunked_array([pa.repeat(True, files.num_rows)])
    values = value if operator == "in" else [value]
    matches = [_range_may_match(least, greatest, operator, each) for each in values]
    any_match = pa.repeat(False, files.num_rows)
    for match in matches:
        any_match = pc.or_kleene(any_match, match)
    return pc.fill_null(any_match, True)  # a file without statistics


def _range_may_match(least: Any, greatest: Any, operator: Operator, value: Any) -> Any:
    match operator:
        case "=" | "in":
            return pc.and_kleene(pc.less_equal(least, value), pc.greater_equal(greatest, value))
        case "!=":
            return pc.or_kleene(pc.not_equal(least, value), pc.not_equal(greatest, value))
        case "<":
            return pc.less(least, value)
        case "<=":
            return pc.less_equal(least, value)
        case ">":
            return pc.greater(greatest, value)
        case ">=":
            return pc.greater_equal(greatest, value)
    raise ValueError(f"operator {operator!r}: expected one of =, !=, <, <=, >, >=, in")


def _expression(column: str, operator: Operator, value: Any) -> pc.Expression:
    field = pc.field(column)
    return {
        "=": field.__eq__,
        "!=": field.__ne__,
        "<": field.__lt__,
        "<=": field.__le__,
        ">": field.__gt__,
        ">=": field.__ge__,
        "in": field.isin,
    }[operator](value)


def _partitions(files: pa.Table, format: TableFormat) -> Iterator[pc.Expression]:
    """For each file, what is true of all of its rows."""
    columns = [files[f"partition.{name}"].to_pylist() for name in format.partition_by]
    made: dict[tuple[str, ...], pc.Expression] = {}
    for values in zip(*columns, strict=True) if columns else [()] * files.num_rows:
        if values not in made:
            expression = pc.scalar(True)
            for name, value in zip(format.partition_by, values, strict=True):
                expression = expression & (pc.field(name) == value)
            made[values] = expression
        yield made[values]
