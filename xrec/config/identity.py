"""Which options identify a run. One list names those that do not; every other one does.

A run goes on with, carries over and skips what has the same identity. So an option that can change
what is written must be part of it: a new one is, until it is added to `CHANGES_NOTHING`. The list
names options that only move resources (memory, batches, processes, waits, logs), that stop or
publish a run without changing a row of it, or that say where something is: the fingerprints of what
is there are among a run's inputs.
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from xrec.config.adapter import AdapterTrainingConfig, DeepSpeedConfig, TrainAdapterConfig
from xrec.config.annotate import AnnotateConfig, LanguageModelAnnotator
from xrec.config.backfill import (
    ActorsConfig,
    BackfillConfig,
    BulkConfig,
    RecommendConfig,
    RecommendedPairs,
    TablePairs,
)
from xrec.config.base import Config
from xrec.config.compare import CompareConfig
from xrec.config.data import PrepareConfig, RawTablesJobConfig, ReleaseSource, TableFiles
from xrec.config.entries import ElsewhereConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.graph import GraphTrainingConfig, PretrainGraphConfig, TrainAspectsConfig
from xrec.config.llm import EngineConfig, LLMConfig
from xrec.config.serve import ServeConfig
from xrec.config.shared import (
    AdapterJobConfig,
    AspectsJobConfig,
    DatasetJobConfig,
    ExplanationsJobConfig,
    GraphJobConfig,
    JobConfig,
    RayJobConfig,
    ScalingConfig,
    TrainingJobConfig,
)
from xrec.config.text import EndpointModelConfig

CHANGES_NOTHING: Mapping[type[Config], str] = {
    # Every job: where its artifacts are, and the cluster.
    JobConfig: "workspace storage",
    RayJobConfig: "ray",
    DatasetJobConfig: "dataset",
    GraphJobConfig: "graph",
    AspectsJobConfig: "aspects",
    AdapterJobConfig: "adapter",
    ExplanationsJobConfig: "explanations",
    RawTablesJobConfig: "annotations max_rejected_share",
    # Language models: where they are, memory, batches, processes and time-outs.
    LLMConfig: "model revision",
    EngineConfig: "max_rows kv_cache_gib row_seconds gpu_memory_share tensor_parallel_size "
    "vllm_options.max_num_batched_tokens vllm_options.cpu_offload_gb vllm_options.download_dir "
    "vllm_options.max_parallel_loading_workers vllm_options.disable_log_stats",
    EndpointModelConfig: "base_url api_key_variable concurrency requests_per_minute "
    "timeout_seconds max_retries extra.user extra.metadata extra.store extra.service_tier "
    "extra.prompt_cache_key extra.safety_identifier",
    # Bulk jobs: processes, chunks, what stops a run, and what is published of it.
    ActorsConfig: "num_actors min_actors cpus_per_actor",
    BulkConfig: "limit retry_failed budget prices max_failed_share",
    BackfillConfig: "rows_per_chunk carry_from gate judge vacuum_hours",
    TablePairs: "uri",
    RecommendedPairs: "uri",
    RecommendConfig: "recommendations",
    AnnotateConfig: "rows_per_chunk carry_from",
    LanguageModelAnnotator: "prompts",
    # Training: processes, memory, checkpoints, where figures go, and a line of the model card.
    TrainingJobConfig: "tracker",
    ScalingConfig: "num_workers min_workers cpus_per_worker max_failures",
    DeepSpeedConfig: "zero_stage param_persistence_threshold offload hpz_partition_size",
    AdapterTrainingConfig: "prefix_cache_gib steps_per_checkpoint gradient_checkpointing",
    TrainAdapterConfig: "license",
    GraphTrainingConfig: "epochs_per_checkpoint",
    PretrainGraphConfig: "start_from parallelism",
    TrainAspectsConfig: "aspects",
    # The dataset: where its source is, and memory.
    PrepareConfig: "extends memory_gb",
    ReleaseSource: "uri",
    TableFiles: "uri",
    # Scores, and the endpoint, which reads texts and writes none to a table.
    EvaluateConfig: "evaluation",
    CompareConfig: "comparison",
    ElsewhereConfig: "uri",
    ServeConfig: "http security models frontends",
}
"""The options that do not identify a run, by the class that has them.

`vllm_options.NAME` is a name in a section that passes on whatever it holds.
"""

CHOOSES_ROWS = frozenset(
    ("pairs", "source", "min_rating", "rating_range", "core", "split", "vocabulary", "stage")
)
"""Settings of a bulk run that choose its rows, or what a row is made from.

They identify the run. The content key of a row has what it is made from in their place.
"""


def identity_of(config: Config) -> dict[str, Any]:
    """Return the options of `config` that identify a run, as plain JSON."""
    left_out = {
        name
        for section in type(config).__mro__
        if issubclass(section, Config)
        for name in CHANGES_NOTHING.get(section, "").split()
    }
    return {
        name: _plain(getattr(config, name), f"{name}.", left_out)
        for name in type(config).model_fields
        if name not in left_out
    }


def _plain(value: Any, prefix: str, left_out: set[str]) -> Any:
    """`value` as JSON; of a mapping without the keys that `left_out` has behind `prefix`."""
    if isinstance(value, Config):
        return identity_of(value)
    if isinstance(value, Mapping):
        return {
            str(key): _plain(each, "", set())
            for key, each in value.items()
            if f"{prefix}{key}" not in left_out
        }
    if isinstance(value, list | tuple):
        return [_plain(each, "", set()) for each in value]
    return to_jsonable_python(value)


def settings_of_texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a bulk run's `settings` (`identity_of`) that every content key covers."""
    return {name: value for name, value in settings.items() if name not in CHOOSES_ROWS}
