"""What a comparison is computed with: what `auto` becomes on the cluster that computes it.

The process that drives a comparison need not see a GPU that its actors have, and the other way
round, so the cluster is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from xrec.bulk.pool import map_in_processes
from xrec.bulk.ray_actors import gpus_each
from xrec.config.comparison import ComparisonConfig
from xrec.config.llm import LLMConfig
from xrec.generate.choice import computation, settled_computation
from xrec.llm.source import anywhere


@dataclass(frozen=True)
class Computed:
    """What texts are scored on, and what `computation` says of the models that write them.

    device: None where it is not known yet. computation: so too, and if no contestant has a prompt.
    """

    device: Literal["cpu", "cuda"] | None
    computation: Mapping[str, str] | None = None


def computed_on_ray(config: ComparisonConfig) -> Computed:
    """What the actors of the connected cluster will compute with.

    `auto` takes GPUs as the actors do (`gpus_each`). Raises the XRecError of the process that was
    asked, or ClusterError.
    """
    device: Literal["cpu", "cuda"] = "cuda" if gpus_each(config.device, 1) else "cpu"
    return Computed(device, _computation(config) if config.has_prompts else None)


def settled(config: ComparisonConfig) -> Computed:
    """What will be computed with as far as the config says it, which is not where it has `auto`."""
    device = None if config.device == "auto" else config.device
    if not config.has_prompts:
        return Computed(device)
    llm, actors = config.language_model, config.actors
    return Computed(device, settled_computation(llm, actors.device, config.engine))


def as_recorded(config: ComparisonConfig, settings: Mapping[str, Any]) -> ComparisonConfig:
    """The config with the devices that `settings` say, as `comparison_identity` returns them."""
    computed = settings.get("computation")
    actors = config.actors
    if computed is not None:
        actors = actors.model_copy(update={"device": computed["device"]})
    return config.model_copy(update={"device": settings["device"], "actors": actors})


def _computation(config: ComparisonConfig) -> dict[str, str]:
    actors, engine = config.actors, config.engine
    gpus = gpus_each(actors.device, actors.num_actors, engine.tensor_parallel_size)
    if gpus:
        return computation_of_a_process(config, gpus)
    return computation(config.language_model, "cpu", engine, config.storage)


def computation_of_a_process(config: ComparisonConfig, num_gpus: int) -> dict[str, str]:
    """What a process of Ray with GPUs says, which knows their number formats and has vLLM or not.

    Raises the XRecError of that process, or ClusterError.
    """
    engine, storage = config.engine, config.storage

    def ask(llm: LLMConfig) -> dict[str, str]:
        return computation(llm, "cuda", engine, storage)

    llms = [anywhere(config.language_model)]
    ((_, found),) = map_in_processes(lambda: ask, llms, num_processes=1, gpus=num_gpus, fresh=True)
    return found
