"""The annotator that asks a language model, as a section of `xrec annotate`."""

from typing import Literal

from pydantic import Field, model_validator

from xrec.config.base import Config
from xrec.config.text import EngineModelConfig, LanguageModelConfig


class PromptFilesConfig(Config):
    """Files with prompts of your own; docs/language-model.md tells how they look."""

    item: str | None = Field(None, description="URI of the prompt for items. If null, our own.")
    user: str | None = Field(None, description="URI of the prompt for users. If null, our own.")
    pair: str | None = Field(
        None, description="URI of the prompt for explanations. If null, our own."
    )


class BudgetConfig(Config):
    """What the job may spend at an endpoint; it then ends, and goes on with a larger budget."""

    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Largest number of tokens, of prompts and replies, of all stages and starts. "
        "If null, there is no limit.",
    )
    max_cost: float | None = Field(
        None,
        gt=0,
        description="Largest cost by model.prices, in their currency. If null, there is no limit.",
    )


class LanguageModelAnnotator(Config):
    """The annotator that asks a language model for each text.

    With an engine, each of actors.num_actors processes holds the model. An endpoint is asked from
    one process, so that its limits are kept.
    """

    kind: Literal["language_model"]
    model: LanguageModelConfig = Field(description="The language model.")
    domain: str = Field(
        "shop",
        description="Which example the prompts show: shop, place or book, or one of your own "
        "prompts'.",
    )
    language: str = Field(
        "English", min_length=1, description="The language of the texts, whatever the reviews'."
    )
    prompts: PromptFilesConfig = Field(
        default_factory=PromptFilesConfig, description="Prompts of your own."
    )
    max_data_tokens: int = Field(
        1500,
        ge=64,
        description="Largest number of tokens of a row's data in its prompt; reviews are cut to "
        "it. An engine counts them by its tokenizer, for an endpoint a character counts 0.3.",
    )
    budget: BudgetConfig = Field(
        default_factory=BudgetConfig, description="What the job may spend."
    )
    chunks_at_once: int = Field(
        2,
        ge=1,
        description="Number of chunks that a process works on at the same time, so that the model "
        "does not wait for the last rows of one.",
    )

    @model_validator(mode="after")
    def _budget_can_be_kept(self) -> "LanguageModelAnnotator":
        if isinstance(self.model, EngineModelConfig):
            if self.budget != BudgetConfig():
                raise ValueError("budget is for a model of kind endpoint; leave it out")
        elif self.budget.max_cost is not None and self.model.prices is None:
            raise ValueError(
                f"budget.max_cost = {self.budget.max_cost:g} needs model.prices; give them, or set "
                "budget.max_tokens"
            )
        return self
