"""What a comparison depends on: known before the work, without any of it."""

from typing import Any

from xrec.config.compare import CompareConfig
from xrec.config.contestants import ADAPTERS, BASELINES
from xrec.lab.compare.elsewhere import elsewhere_fingerprint
from xrec.lab.measures.measures import metrics_identity
from xrec.storage import manifest_of
from xrec.train.adapter import adapter_run_config

_ALWAYS = {
    "contestants",
    "seeds",
    "split",
    "max_pairs",
    "budget",
    "likelihood",
    "groups",
    "bootstrap_samples",
}


def comparison_identity(
    config: CompareConfig, base_model: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and the inputs of a comparison.

    base_model: the fingerprint of the language model, None if no contestant has one.

    Raises ArtifactNotFoundError if an input is not finished, StorageNotFoundError for texts that
    are not there.
    """
    names = set(config.contestants)
    elsewhere = {name: config.texts[name] for name in config.contestants if name in config.texts}
    settings = {
        **config.model_dump(mode="json", include=_ALWAYS),
        "metrics": metrics_identity(config.metrics, llm=config.llm, storage=config.storage),
        "texts": {
            name: texts.model_dump(mode="json", exclude={"uri"})
            for name, texts in elsewhere.items()
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
        settings["dtype"] = config.language_model.dtype
    if names & set(ADAPTERS):
        settings["adapter"] = adapter_run_config(config.training_of("ours", 0, "adapter"))
    settings["baselines"] = {
        kind: config.recipe_of(kind).model_dump(mode="json") for kind in BASELINES if kind in names
    }
    for name, texts in elsewhere.items():
        inputs[f"texts {name}"] = elsewhere_fingerprint(texts, config.storage)
    return settings, inputs
