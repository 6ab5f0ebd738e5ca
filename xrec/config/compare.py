"""`xrec lab compare`: entries, seeds, and one table of what each is worth and costs."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from xrec.config.adapter import AdapterTrainingJobConfig, TrainAdapterConfig
from xrec.config.backfill import ActorsConfig, BackfillConfig, TablePairs
from xrec.config.base import Config, did_you_mean
from xrec.config.entries import (
    ADAPTERS,
    BASELINES,
    ENTRIES,
    MODEL_CHANGES,
    RANKERS,
    WITHOUT_ASPECTS,
    ElsewhereConfig,
    prompt_of,
)
from xrec.config.evaluate import MetricsConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import TextsJobConfig, artifact_uri


class CompareConfig(TextsJobConfig, AdapterTrainingJobConfig):
    """`xrec lab compare`: entries are trained, write texts for the same held-out pairs.

    Then all are scored alike. docs/compare.md says what each entry is.
    """

    comparison: str | None = artifact_uri("comparison")
    entries: tuple[str, ...] = Field(
        ("ours", "constant", "zero_shot", "profile", "nearest"),
        min_length=1,
        description="The entries, of which the others are compared with the first one: "
        f"{', '.join(ENTRIES)}, and names of texts.",
    )
    texts: dict[str, ElsewhereConfig] = Field(default_factory=dict)
    """Texts from elsewhere, each under a name of your own."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Each entry whose texts depend on chance is trained and writes once a seed."""
    split: Literal["validation", "test"] = "test"
    """The held-out split whose pairs are explained and scored."""
    max_pairs: int | None = Field(None, ge=2)
    """Number of its pairs, drawn by a seeded hash. If null, all."""
    llm: LLMConfig | None = None
    """The frozen language model; only entries without one need none."""
    actors: ActorsConfig = ActorsConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _entries_and_texts_have_their_names(self) -> "CompareConfig":
        known = (*ENTRIES, *self.texts)
        for name in self.entries:
            if name not in known:
                hint = did_you_mean(name, known)
                raise ValueError(
                    f"entries: {name!r} is none of {', '.join(known)}; {hint and hint + '; '}"
                    "a table of texts is an entry under its name in texts"
                )
        if len(set(self.entries)) < len(self.entries):
            raise ValueError(f"entries: each once, saw {', '.join(self.entries)}")
        for name in self.texts:
            if name in (*ENTRIES, *RANKERS) or not name.replace("_", "").isalnum():
                raise ValueError(
                    f"texts: {name!r} cannot be a name: letters, digits and _ are, and none of "
                    f"{', '.join((*ENTRIES, *RANKERS))}"
                )
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> "CompareConfig":
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds: each once and from 0 on, saw {list(self.seeds)}")
        return self

    @model_validator(mode="after")
    def _entries_have_what_they_need(self) -> "CompareConfig":
        if self.has_language_model and self.llm is None:
            raise ValueError("llm is required by entries with a language model, and not given")
        if WITHOUT_ASPECTS in self.entries and not self.prompt.aspects:
            raise ValueError(
                "entries: without_aspects differs from ours only if prompt.aspects is above 0"
            )
        if set(self.entries) & set(ADAPTERS):
            full = self.model
            if full.vectors != "graph" or full.injection == "none":
                raise ValueError(
                    "ours has the graph's vectors in the layers: model.vectors must be graph and "
                    f"model.injection not none, saw {full.vectors} and {full.injection}"
                )
        return self

    @property
    def has_language_model(self) -> bool:
        """Whether an entry has one, which writes from `prompt`."""
        return bool(set(self.entries) & {*ADAPTERS, "zero_shot", "lora"})

    @property
    def language_model(self) -> LLMConfig:
        """The language model, where an entry has one."""
        assert self.llm is not None
        return self.llm

    def is_seeded(self, entry: str) -> bool:
        """Whether the texts of `entry` depend on the seed."""
        if entry == "zero_shot":
            one = self.decoding
            return one.temperature > 0 or one.retry_temperature is not None
        return entry in (*ADAPTERS, *BASELINES)

    def num_seeds_of(self, entry: str) -> int:
        """With how many seeds its texts were made; 0 if they depend on none.

        Texts from elsewhere are taken for those of one training.
        """
        if entry in self.texts:
            return 1
        return len(self.seeds) if self.is_seeded(entry) else 0

    def training_of(self, entry: str, seed: int, adapter: str) -> TrainAdapterConfig:
        """The `xrec train-adapter` run of an adapter, with its output at the URI `adapter`."""
        changes = {**MODEL_CHANGES.get(entry, {}), "vectors_seed": seed}
        return TrainAdapterConfig.model_validate(
            {
                **self._shared_with(TrainAdapterConfig),
                "adapter": adapter,
                "model": self.model.model_copy(update=changes),
                "prompt": prompt_of(entry, self.prompt),
                "training": self.training.model_copy(update={"seed": seed}),
            }
        )

    def backfill_of(self, seed: int, pairs: str, explanations: str, adapter: str) -> BackfillConfig:
        """The `xrec backfill` of the table of pairs at `pairs`; no share of failures stops it."""
        return BackfillConfig.model_validate(
            {
                **self._shared_with(BackfillConfig),
                "pairs": TablePairs(kind="table", uri=pairs),
                "explanations": explanations,
                "adapter": adapter,
                "max_failed_share": 1.0,
                "gate": None,
                "decoding": self.decoding.model_copy(update={"seed": seed}),
            }
        )

    def _shared_with(self, job: type[Config]) -> Mapping[str, Any]:
        return {
            name: getattr(self, name)
            for name in job.model_fields
            if name in type(self).model_fields
        }
