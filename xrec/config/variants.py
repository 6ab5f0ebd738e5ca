"""The variants of the adapter that comparisons train: what each changes in model and prompt."""

from xrec.config.adapter import AdapterModelConfig
from xrec.config.placeholders import without_placeholders
from xrec.config.prompt import PromptConfig

WITHOUT_ASPECTS = "without_aspects"
"""A variant for prompts that ask for aspects: it does not."""
_WITHOUT_PROFILE = ("without_profile", "without_both")
_MODEL_CHANGES: dict[str, dict[str, str]] = {
    "without_injection": {"injection": "none"},
    "without_both": {"injection": "none"},
    "random_vectors": {"vectors": "random"},
    "constant": {"vectors": "constant"},
}


def model_of(variant: str, full: AdapterModelConfig) -> AdapterModelConfig:
    """The adapters of `variant`."""
    return AdapterModelConfig.model_validate(
        {**full.model_dump(), **_MODEL_CHANGES.get(variant, {})}
    )


def prompt_of(variant: str, full: PromptConfig) -> PromptConfig:
    """The prompt of `variant`."""
    if variant in _WITHOUT_PROFILE:
        return _without_profiles(full)
    return full.model_copy(update={"aspects": 0}) if variant == WITHOUT_ASPECTS else full


def check_full(model: AdapterModelConfig) -> None:
    """Raise ValueError unless the full variant has what the others lack."""
    if model.vectors != "graph" or model.injection == "none":
        raise ValueError(
            "the full variant has the graph's vectors in the layers: "
            "model.vectors must be graph and model.injection not none, "
            f"saw {model.vectors} and {model.injection}"
        )


def _without_profiles(prompt: PromptConfig) -> PromptConfig:
    """The same prompt without the texts of user and item, aspects too; the item's title stays."""
    parts = {
        "user": without_placeholders(prompt.user, {"user_profile"}),
        "item": without_placeholders(prompt.item, {"item_profile"}),
    }
    return PromptConfig.model_validate({**prompt.model_dump(), **parts, "aspects": 0})
