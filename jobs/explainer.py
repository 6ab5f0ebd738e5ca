"""The explainer of a job that writes or weighs texts in its own process."""

from typing import Any

from xrec.config.evaluate import EvaluateConfig
from xrec.config.ranker import TrainRankerConfig
from xrec.generate.computation import known_computation
from xrec.generate.explainer import Explainer
from xrec.generate.loading import Sources, load_explainer


def load_explainer_here(
    config: EvaluateConfig | TrainRankerConfig,
    *,
    ranker: str | None = None,
) -> Explainer:
    """Load the job's model; raises what `load_explainer` raises."""
    sources = Sources(
        dataset=config.artifact("dataset"),
        graph=config.artifact("graph"),
        adapter=config.artifact("adapter"),
        llm=config.llm,
        storage=config.storage,
        aspects=config.artifact("aspects"),
        ranker=ranker,
    )
    return load_explainer(sources, device=config.device, engine=config.engine)


def computed_by(
    config: EvaluateConfig | TrainRankerConfig, *, exact: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The setting `computation` of what the job writes or weighs, and settings that are not known.

    Without `exact`, this machine need not be the one that works: what `auto` becomes is not known.
    Raises what `computation` raises.
    """
    found = known_computation(config.llm, config.device, config.engine, config.storage, exact=exact)
    return {"computation": found}, () if found else ("computation",)
