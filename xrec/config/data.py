"""`xrec prepare` and `xrec build-sample-llm`: the dataset, and the sample's language model."""

import codecs
from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config, Uri
from xrec.config.job import SourceJobConfig
from xrec.config.texts import PromptJobConfig

_LINES = (".csv", ".tsv", ".jsonl", ".json")
TABLE_ENDINGS = (".parquet", *_LINES, *(f"{ending}.gz" for ending in _LINES))
"""The endings of table files; .json and .jsonl have one object per line."""

Delimiter = Literal[",", ";", "\t", "|"]
"""The supported separators of the columns of CSV files."""

TableColumns = Mapping[str, tuple[str, ...]]
"""Our column names of each table."""


def check_table_file(name: str) -> None:
    """Raise ValueError unless the file's name ends in one of `TABLE_ENDINGS`."""
    if not name.lower().endswith(TABLE_ENDINGS):
        raise ValueError(f"{name!r} must end in one of {', '.join(TABLE_ENDINGS)}")


class TableFiles(Config):
    """Tables, each a Parquet, CSV, or JSON Lines file."""

    tables: ClassVar[TableColumns]
    joined: ClassVar[tuple[str, ...]]  # our columns that may be joined from several
    may_be_null: ClassVar[tuple[str, ...]]
    uri: Uri
    """Folder of the files, or a single file of reviews."""
    files: dict[str, str] = Field(default_factory=dict)
    """Files of tables whose file is not named after the table, for example {users: customers.csv}
    or {interactions: "orders/*.parquet"}. One file may contain two tables."""
    columns: dict[str, str | list[str] | None] = Field(default_factory=dict)
    """The files' column names by ours, for example {user_id: customer, items.title: name}; a
    table's name before a dot limits the key to that table. A list of columns is joined into one
    text, and a column set to null is not read."""
    delimiter: Delimiter = ","
    """Separator of the columns in CSV files."""
    encoding: str | None = None
    """Encoding of CSV and JSON lines that are not valid UTF-8, for example cp1252 (a superset of
    Latin-1). If null, such rows are rejected."""

    @field_validator("encoding")
    @classmethod
    def _encoding_exists(cls, value: str | None) -> str | None:
        try:
            return None if value is None else codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"unknown encoding {value!r}; expected, for example, cp1252") from None

    @model_validator(mode="after")
    def _files_can_be_read(self) -> Self:
        for table, name in self.files.items():
            if table not in self.tables:
                raise ValueError(
                    f"files: unknown table {table!r}; expected {', '.join(self.tables)}"
                )
            check_table_file(name)
        return self

    @model_validator(mode="after")
    def _columns_are_ours(self) -> Self:
        for key, value in self.columns.items():
            column = self._our_column(key)
            allowed = self.may_be_null if value is None else self.joined
            if not isinstance(value, str) and column not in allowed:
                raise ValueError(
                    f"columns: {key} must be the name of one column, saw {value!r}; only "
                    f"{', '.join(allowed)} may be {'null' if value is None else 'a list'}"
                )
        return self

    def names_in(self, table: str) -> dict[str, tuple[str, ...]]:
        """Return the file's columns for each of our columns of `table` that is in `columns`."""
        named = {
            column: self.columns[key]
            for column in self.tables[table]
            for key in (column, f"{table}.{column}")
            if key in self.columns
        }
        return {
            column: (names,) if isinstance(names, str) else tuple(names or ())
            for column, names in named.items()
        }

    @property
    def format(self) -> dict[str, Any]:
        """How to read the lines of the files, as arguments of the readers in `xrec.data`."""
        return {"delimiter": self.delimiter, "encoding": self.encoding}

    def _our_column(self, key: str) -> str:
        table, dot, column = key.rpartition(".")
        known = self.tables.get(table, ()) if dot else [*chain.from_iterable(self.tables.values())]
        if column not in known:
            expected = dict.fromkeys(known or (f"{name}.<column>" for name in self.tables))
            raise ValueError(f"columns: unknown column {key!r}; expected {', '.join(expected)}")
        return column


class ReleaseSource(Config):
    """The public XRec release: total_{trn,val,tst}.csv, and {trn,val,tst}.pkl or data.json."""

    kind: Literal["xrec_release"]
    uri: Uri
    """Folder of a dataset in a clone of github.com/HKUDS/XRec, for example XRec/data/yelp."""


TABLE_COLUMNS: TableColumns = {
    "users": ("user_id", "profile"),
    "items": ("item_id", "title", "profile"),
    "interactions": ("user_id", "item_id", "split"),
    "explanations": ("user_id", "item_id", "explanation", "split"),
    "dislikes": ("user_id", "item_id"),
    "aspects": ("user_id", "item_id", "aspect", "opinion", "sentiment", "split"),
}
"""The columns of each table of a `tables` source."""


class TablesSource(TableFiles):
    """Tables of users, items, interactions, explanations, dislikes (items that a user returned or
    rated badly, which are never recommended to them), and aspects (what a user said about an item);
    only interactions are required, and if there are none, they are the pairs of the aspects."""

    tables = TABLE_COLUMNS
    joined = may_be_null = ("profile", "title")
    kind: Literal["tables"]


class AnnotationsSource(Config):
    """The annotations that `xrec annotate` wrote: texts, interactions, splits, and aspects."""

    kind: Literal["annotations"]


class SampleSource(Config):
    """The generated town of users, places, and aspects with planted preferences (xrec.sample)."""

    kind: Literal["sample"]
    num_users: int = Field(600, ge=10)
    """Number of users."""
    num_items: int = Field(240, ge=10)
    """Number of places."""
    interactions_per_user: int = Field(24, ge=4)
    """Number of visits of each user, which follow the user's preferences."""
    explanations_per_user: int = Field(8, ge=1)
    """Number of visits of each user that have an explanation."""

    @model_validator(mode="after")
    def _visits_fit(self) -> "SampleSource":
        for name, most in (
            ("interactions_per_user", "num_items"),
            ("explanations_per_user", "interactions_per_user"),
        ):
            if getattr(self, name) > getattr(self, most):
                raise ValueError(
                    f"{name} must be at most {most} = {getattr(self, most)}, "
                    f"saw {getattr(self, name)}"
                )
        return self


class SplitShares(Config):
    """Shares of the explained pairs that are held out; the rest is for training."""

    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the explained pairs for validation."""
    test: float = Field(0.2, ge=0, lt=1)
    """Share of the explained pairs for testing."""
    seed: int = Field(0, ge=0)
    """Seed of the hash that splits the explained pairs, and the interactions that have no split in
    the source."""

    @model_validator(mode="after")
    def _training_gets_a_share(self) -> "SplitShares":
        if (held_out := self.validation + self.test) >= 1:
            raise ValueError(f"validation + test must be below 1, saw {held_out}")
        return self


class PrepareConfig(SourceJobConfig):
    """`xrec prepare`: raw files in, dataset artifact out."""

    source: Annotated[
        ReleaseSource | TablesSource | AnnotationsSource | SampleSource, Field(discriminator="kind")
    ]
    """Where the data is."""
    extends: Uri | None = None
    """URI of an earlier dataset of the same catalog: its users and items keep their index, removed
    ones leave a gap, and new ones fill old gaps or are appended. If null, all are numbered from 0.
    """
    splits: SplitShares = SplitShares()
    """How the explained pairs are split."""
    aspects_from: Literal["profiles"] | None = None
    """Where aspects come from in a source without reviews. profiles: phrases of praise in the
    items' profiles, in English only; a user's aspects are those of the items that they interacted
    with. If null, aspects are those of the source, if it has any."""
    memory_gb: float | None = Field(None, gt=0)
    """GB of memory that tables may use before they spill to the folder TMPDIR. If null, four fifths
    of the machine's memory."""

    @model_validator(mode="after")
    def _annotations_have_aspects(self) -> "PrepareConfig":
        if self.aspects_from is not None and isinstance(self.source, AnnotationsSource):
            raise ValueError(
                "aspects_from must be null with source.kind annotations, which have their "
                f"own aspects, saw {self.aspects_from}"
            )
        return self


class BuildSampleLLMConfig(PromptJobConfig):
    """`xrec build-sample-llm`: writes the demo's language model to <workspace>/llm.

    It is a small Llama in the Hugging Face layout, trained on texts in the town's language that
    follow `prompt`, and then frozen.
    """

    num_steps: int = Field(300, ge=1)
    """Number of training steps. Each step uses new texts."""
