"""Which options identify a run: all except those in `CHANGES_NOTHING`.

Work with the same identity is resumed, carried over, or skipped. So every option that can change
what is written must be part of the identity, and a new option is by default. `CHANGES_NOTHING`
lists options that only affect resources (memory, batches, processes, waits, logs), that stop or
publish a run without changing a row, or that say where something is (its fingerprint is among
the run's inputs instead).
"""

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from xrec.config.annotate import AnnotateConfig, LanguageModelAnnotator
from xrec.config.backfill import (
    BackfillConfig,
    BulkConfig,
    EligibleItems,
    ExplanationsJobConfig,
    PricesConfig,
    RecommendConfig,
    TablePairs,
)
from xrec.config.base import Config
from xrec.config.data import PrepareConfig, ReleaseSource, TableFiles
from xrec.config.job import (
    JobConfig,
    Processes,
    RayJobConfig,
    SourceJobConfig,
    Workers,
)
from xrec.config.lab import ElsewhereConfig
from xrec.config.llm import EndpointConfig, EngineConfig, LLMConfig
from xrec.config.serve import ServeConfig
from xrec.config.train import (
    AdapterTrainingConfig,
    AdapterTrainingJobConfig,
    PretrainGraphConfig,
)

CHANGES_NOTHING: Mapping[type[Config], str] = {
    # Every job: where its artifacts are, the cluster, and processes.
    JobConfig: "workspace storage artifacts",
    RayJobConfig: "ray",
    Processes: "num_processes min_processes cpus",
    # Language models: where they are, memory, batches, processes, and timeouts.
    LLMConfig: "model revision",
    EngineConfig: "max_rows kv_cache_gib row_seconds vllm.gpu_memory_utilization "
    "vllm.tensor_parallel_size vllm.max_num_batched_tokens vllm.cpu_offload_gb vllm.download_dir "
    "vllm.max_parallel_loading_workers vllm.disable_log_stats",
    EndpointConfig: "base_url api_key_variable concurrency requests_per_minute "
    "timeout_seconds batch extra.user extra.metadata extra.store extra.service_tier "
    "extra.prompt_cache_key extra.safety_identifier",
    # Bulk jobs: chunks, what stops a run, and what it publishes.
    BulkConfig: "limit retry_failed budget max_failed_share rows_per_chunk",
    PricesConfig: "prices",
    BackfillConfig: "carry_from gate judge vacuum_hours",
    TablePairs: "uri",
    EligibleItems: "items users",
    RecommendConfig: "unnamed categories keeps",
    AnnotateConfig: "carry_from",
    LanguageModelAnnotator: "prompts drift",
    # Training: processes, memory, and checkpoints.
    Workers: "max_failures",
    AdapterTrainingJobConfig: "deepspeed.zero_optimization",
    AdapterTrainingConfig: "prefix_cache_gib steps_per_checkpoint gradient_checkpointing",
    PretrainGraphConfig: "start_from",
    # The dataset: where its source is, and memory.
    SourceJobConfig: "max_rejected_share",
    PrepareConfig: "extends memory_gb",
    ReleaseSource: "uri",
    TableFiles: "uri",
    # Where texts from elsewhere are, and the endpoint, which writes no table.
    ElsewhereConfig: "uri",
    ServeConfig: "http keys models frontends max_money_per_day",
}
"""The options that do not identify a run, by the class that declares them.

`vllm.NAME` is a key of a mapping that is passed on as it is.
"""

CHOOSES_ROWS = frozenset(
    (
        *("pairs", "texts_per_user", "source", "min_rating", "rating_range", "core", "split"),
        *("vocabulary", "stage"),
    )
)
"""Settings of a bulk run that choose its rows, or what a row is made from.

They identify the run. A row's content key instead covers the values that the row is made from.
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


def identity_of_texts(config: ExplanationsJobConfig) -> dict[str, Any]:
    """Return what `identity_of` returns, without what the job's inputs have: adapter and prompt."""
    settings = identity_of(config)
    del settings["adapter"]
    if config.writer not in ("words", "endpoint"):  # the adapter has its own prompt
        del settings["prompt"]
    return settings


def _plain(value: Any, prefix: str, left_out: set[str]) -> Any:
    """Return `value` as JSON, without the mapping keys that `left_out` lists after `prefix`."""
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
    """Return the part of a bulk run's `settings` (`identity_of`) that every content key covers."""
    return {name: value for name, value in settings.items() if name not in CHOOSES_ROWS}
