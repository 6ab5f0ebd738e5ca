"""`xrec prepare` and `xrec build-sample-llm`: the dataset, and the language model of the sample."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.prompt import PromptConfig
from xrec.config.shared import JobConfig, input_uri, output_uri
from xrec.config.table_files import Delimiter, check_files, column_of, names_in


class ReleaseSource(Config):
    """The files of the public XRec release: total_{trn,val,tst}.csv, data.jsonl or data.json."""

    kind: Literal["xrec_release"]
    uri: str = Field(description="Folder of the files.")


Table = Literal["users", "items", "interactions", "explanations"]
TABLE_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "users": ("user_id", "profile"),
    "items": ("item_id", "title", "profile"),
    "interactions": ("user_id", "item_id", "split"),
    "explanations": ("user_id", "item_id", "explanation", "split", "rating"),
}
"""The columns of the tables of a `tables` source."""

_JOINED = ("profile", "title")


class TablesSource(Config):
    """Tables users, items, interactions and explanations, each a Parquet, CSV or JSON Lines file.

    Only the interactions must be there.
    """

    kind: Literal["tables"]
    uri: str = Field(description="Folder of the files.")
    files: dict[Table, str] = Field(
        default_factory=dict,
        description="Files of the tables that are not in a file of their own name, e.g. {users: "
        "customers.csv}. One file may hold two tables.",
    )
    columns: dict[str, str | list[str] | None] = Field(
        default_factory=dict,
        description="Column names of the files by ours, e.g. {user_id: customer, items.title: "
        "name}. A table's name before the dot limits a key to that table. The columns of a list "
        "are joined to one text; null leaves a profile or title empty.",
    )
    delimiter: Delimiter = Field(",", description="What separates the columns in CSV files.")

    @model_validator(mode="after")
    def _files_can_be_read(self) -> "TablesSource":
        check_files(self.files)
        return self

    @model_validator(mode="after")
    def _columns_are_ours(self) -> "TablesSource":
        for key, value in self.columns.items():
            if column_of(key, TABLE_COLUMNS) not in _JOINED and not isinstance(value, str):
                raise ValueError(
                    f"columns: {key} must be the name of one column, saw {value!r}; "
                    f"only {' and '.join(_JOINED)} may be null or a list"
                )
        return self

    def names_in(self, table: str) -> dict[str, tuple[str, ...]]:
        """The file's columns for each of our columns of `table` that `columns` names."""
        return names_in(self.columns, TABLE_COLUMNS, table)


class AnnotationsSource(Config):
    """The annotations that `xrec annotate` wrote: texts, interactions, splits and aspects."""

    kind: Literal["annotations"]


class SampleSource(Config):
    """The generated town of users, places and aspects with planted taste (xrec.sample)."""

    kind: Literal["sample"]
    num_users: int = Field(600, ge=10, description="Number of users of the town.")
    num_items: int = Field(240, ge=10, description="Number of places of the town.")
    interactions_per_user: int = Field(
        24, ge=4, description="Number of visits of each user, which follow the user's taste."
    )
    explanations_per_user: int = Field(
        8, ge=1, description="Number of visits of each user that have an explanation."
    )
    seed: int = Field(0, ge=0, description="Seed of the town.")

    @model_validator(mode="after")
    def _visits_fit(self) -> "SampleSource":
        if self.interactions_per_user > self.num_items:
            raise ValueError(
                f"interactions_per_user must be at most num_items = {self.num_items}, "
                f"saw {self.interactions_per_user}"
            )
        if self.explanations_per_user > self.interactions_per_user:
            raise ValueError(
                "explanations_per_user must be at most interactions_per_user = "
                f"{self.interactions_per_user}, saw {self.explanations_per_user}"
            )
        return self


class SplitShares(Config):
    """Shares of the explained pairs that are held out; the rest is for training."""

    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of the explained pairs that are for validation."
    )
    test: float = Field(
        0.2, ge=0, lt=1, description="Share of the explained pairs that are for the test."
    )
    seed: int = Field(
        0,
        ge=0,
        description="Seed of the hash that splits the explained pairs, and those interactions "
        "that have no split of their own.",
    )

    @model_validator(mode="after")
    def _training_gets_a_share(self) -> "SplitShares":
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation + test must be below 1, saw {self.validation + self.test}"
            )
        return self


class ProfileAspects(Config):
    """Aspects without reviews: phrases of praise in the items' profiles, which must be English.

    A user's aspects are then those of the items that they interacted with.
    """

    kind: Literal["profiles"]
    min_items: int = Field(
        5, ge=1, description="Least number of items whose profiles must have an aspect."
    )
    max_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Largest share of the items with a profile that may have an aspect; what more "
        "of them have tells nothing of any.",
    )


class PrepareConfig(JobConfig):
    """`xrec prepare`: raw files in, dataset artifact out."""

    source: Annotated[
        ReleaseSource | TablesSource | AnnotationsSource | SampleSource,
        Field(discriminator="kind"),
    ]
    dataset: str | None = output_uri("dataset")
    annotations: str | None = input_uri("annotations")
    splits: SplitShares = Field(
        default_factory=SplitShares, description="How the explained pairs are split."
    )
    aspects_from: ProfileAspects | None = Field(
        None,
        description="How aspects are found in a source without reviews; null makes no tables of "
        "aspects. Annotations have aspects of their own.",
    )
    max_rejected_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Largest share of the rows of one input file that may be rejected; above "
        "it the job fails.",
    )

    @model_validator(mode="after")
    def _annotations_have_aspects(self) -> "PrepareConfig":
        if self.aspects_from is not None and isinstance(self.source, AnnotationsSource):
            raise ValueError(
                "aspects_from must be null with source.kind annotations, which have aspects of "
                f"their own, saw kind {self.aspects_from.kind}"
            )
        return self


class SampleLLMConfig(Config):
    """The sample's language model.

    It is a small Llama, which is trained on the town's language and then frozen.
    """

    hidden_size: int = Field(128, ge=16, description="H, the width of the model.")
    num_layers: int = Field(3, ge=1, description="Number of layers.")
    vocab_size: int = Field(1024, ge=300, description="Largest number of tokens of the tokenizer.")
    num_copy_steps: int = Field(
        100,
        ge=0,
        description="Number of first steps, on random tokens that are said twice. They teach "
        "the model to copy from its context.",
    )
    num_steps: int = Field(
        300, ge=1, description="Number of steps on the town's language. Each step has new texts."
    )
    batch_size: int = Field(32, ge=1, description="Number of texts of a step.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate of AdamW.")
    num_threads: int = Field(1, ge=1, description="Number of torch threads.")
    seed: int = Field(0, ge=0, description="Seed of the texts and of the initialization.")


class BuildSampleLLMConfig(JobConfig):
    """`xrec build-sample-llm`: nothing in, <workspace>/llm out.

    The language model has the Hugging Face layout.
    """

    model: SampleLLMConfig = Field(
        default_factory=SampleLLMConfig, description="The model and its training."
    )
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="The prompt that the training texts follow."
    )
