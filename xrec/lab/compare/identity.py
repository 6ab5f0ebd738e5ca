"""What a comparison depends on: known before the work, without any of it."""

from typing import Any

from xrec.config.comparison import ComparisonConfig
from xrec.config.contestants import ADAPTERS, COPIES, PEERS, TEXT_ONLY
from xrec.config.shared import JobConfig
from xrec.lab.compare.computed import Computed, settled
from xrec.lab.compare.elsewhere import elsewhere_fingerprint
from xrec.lab.compare.judges import judge_scores_fingerprint
from xrec.lab.measures import metrics_identity
from xrec.storage import manifest_of
from xrec.train.adapter import adapter_run_config

_ALWAYS = {
    "contestants",
    "seeds",
    "verdict",
    "split",
    "max_pairs",
    "pairs_seed",
    "budget",
    "likelihood",
    "groups",
    "bootstrap_samples",
    "num_examples",
}


def comparison_identity(
    config: ComparisonConfig, base_model: str | None, computed: Computed | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and the inputs of a comparison.

    base_model: the fingerprint of the language model, None if no contestant has one.
    computed: what `auto` became. Without it, the settings `device` and `computation` are None where
    something is `auto`.

    Raises ArtifactNotFoundError if an
    input is not finished, StorageNotFoundError for texts that are not there.
    """
    names = set(config.contestants)
    computed = computed or settled(config)
    settings = {
        **config.model_dump(mode="json", include=_ALWAYS),
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "device": computed.device,
        "texts": {
            name: config.texts[name].model_dump(mode="json", exclude={"uri", "judge_scores"})
            for name in config.contestants
            if name in config.texts
        },
    }
    inputs = {"dataset": manifest_of(config, "dataset").fingerprint}
    if config.has_prompts or "nearest" in names:
        inputs["graph"] = manifest_of(config, "graph").fingerprint
    if config.has_language_model:
        inputs["base_model"] = base_model or ""
    if (config.has_prompts and config.prompt.aspects) or "peter_plus" in names:
        inputs["aspects"] = manifest_of(config, "aspects").fingerprint
    if config.has_prompts:
        settings |= config.model_dump(mode="json", include={"decoding", "prompt"})
        settings["computation"] = computed.computation
    if names & set(ADAPTERS):
        settings["adapter"] = adapter_run_config(config.training_of("ours", 0, "adapter"))
    for kind in names & set(PEERS):
        settings[f"peer {kind}"] = peer_settings(config, kind)
    if "lora" in names:
        settings["lora"] = config.lora_of(0).model_dump(mode="json")
    for name in config.contestants:
        if name in config.texts:
            fingerprint = elsewhere_fingerprint(config.texts[name], config.storage)
            inputs[f"texts {name}"] = fingerprint
            if (uri := config.texts[name].judge_scores) is not None:
                inputs[f"judges of {name}"] = judge_scores_fingerprint(uri, config.storage)
    assert names <= {*ADAPTERS, *PEERS, *TEXT_ONLY, *COPIES, *config.texts}
    return settings, inputs


def peer_settings(config: ComparisonConfig, kind: str) -> dict[str, Any]:
    """What the texts of a peer depend on besides its seed, as its own runs say."""
    peer = config.peer_of(kind, 0, pairs="pairs", model="model", texts="texts")
    excluded = {*JobConfig.model_fields, "dataset", "aspects", "pairs", "peer_model", "peer_texts"}
    excluded |= {"split", "max_pairs", "scaling", "actors", "rows_per_chunk", "ray", "llm", "seed"}
    return peer.model_dump(mode="json", exclude=excluded)
