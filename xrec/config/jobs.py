"""The jobs of a project file with the classes of their configs, and the keys that jobs share."""

from collections.abc import Mapping

from xrec.config.adapter import TrainAdapterConfig
from xrec.config.annotate import AnnotateConfig
from xrec.config.aspects import TrainAspectsConfig
from xrec.config.backfill import BackfillConfig, RecommendConfig
from xrec.config.compare import CompareConfig
from xrec.config.data import BuildSampleLLMConfig, PrepareConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.serve import ServeConfig
from xrec.config.shared import JobConfig

JOBS: Mapping[str, type[JobConfig]] = {
    "build-sample-llm": BuildSampleLLMConfig,
    "annotate": AnnotateConfig,
    "prepare": PrepareConfig,
    "pretrain-graph": PretrainGraphConfig,
    "train-aspects": TrainAspectsConfig,
    "train-adapter": TrainAdapterConfig,
    "recommend": RecommendConfig,
    "backfill": BackfillConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "serve": ServeConfig,
}
"""The jobs, in the order of the pipeline, each with the class of its config."""

ARTIFACTS = (
    "annotations",
    "dataset",
    "graph",
    "aspects",
    "adapter",
    "recommendations",
    "explanations",
    "evaluation",
    "comparison",
)
SHARED = (
    "workspace",
    "storage",
    "ray",
    "llm",
    "prompt",
    "decoding",
    "cold_start",
    "scaling",
    *ARTIFACTS,
)
"""The keys that stand at the top level of a project file."""
