"""A baseline of a comparison with its seed: what it reads, and where its model lies."""

from dataclasses import dataclass, field

from xrec.config.backfill import ActorsConfig
from xrec.config.baselines import BaselineKind, Recipe
from xrec.config.llm import LLMConfig
from xrec.config.prompt import PromptConfig
from xrec.config.shared import ScalingConfig, StorageConfig
from xrec.storage import Location, open_location


@dataclass(frozen=True)
class Baseline:
    """What a training and its texts depend on; it may be sent to a process anywhere.

    dataset, aspects, output: URIs that any working directory can open; `output` is the model's.
    max_pairs: the number of training pairs, all if None.
    llm: of pepler and lora. prompt: of lora, whose prompts are in words only.
    """

    kind: BaselineKind
    seed: int
    recipe: Recipe
    dataset: str
    aspects: str
    output: str
    max_pairs: int | None = None
    llm: LLMConfig | None = None
    prompt: PromptConfig = field(default_factory=PromptConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    actors: ActorsConfig = field(default_factory=ActorsConfig)

    @property
    def model(self) -> Location:
        """Where the trained model lies."""
        return self.open(self.output)

    @property
    def language_model(self) -> LLMConfig:
        """The language model of a baseline that has one."""
        assert self.llm is not None  # the comparison's config sees to it
        return self.llm

    def open(self, uri: str) -> Location:
        """The location of an input."""
        return open_location(uri, self.storage)
