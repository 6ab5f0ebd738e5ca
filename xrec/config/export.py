"""`xrec export` and the key `export` of a bulk job: rows of a table as plain files."""

from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config


class ExportConfig(Config):
    """A folder of plain files, for programs that do not read Delta tables.

    A URI alone stands for the section with this URI and the defaults.
    """

    uri: str = Field(
        description="URI of the folder, which must be empty or hold an export. "
        "_SUCCESS is in it once it is whole."
    )
    format: Literal["parquet", "csv"] = Field(
        "parquet", description="Format of the files: Parquet, or CSV with a header."
    )
    columns: tuple[str, ...] | None = Field(
        None, description="Columns of the files. If null, all that the table's files have."
    )

    @model_validator(mode="before")
    @classmethod
    def _uri_alone(cls, values: Any) -> Any:
        return {"uri": values} if isinstance(values, str) else values
