"""Makes the annotator in an actor, and tells the driver what it would ask and may spend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from xrec.annotate.annotator import Outlook
from xrec.annotate.formats import STAGES
from xrec.annotate.language_model.data import CountTokens, RowData
from xrec.annotate.language_model.forecast import Forecast
from xrec.annotate.language_model.replies import Kind, ReplyLimits
from xrec.annotate.language_model.writer import LanguageModelWriter, Prompts
from xrec.bulk import read_status
from xrec.config.annotate import LanguageModelAnnotator
from xrec.config.backfill import ActorsConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import EndpointModelConfig
from xrec.errors import ArtifactNotFoundError, ModelError, StorageNotFoundError
from xrec.llm.source import resolve_model
from xrec.storage import Location
from xrec.text import Asker, Budget, ReplyStore, Usage, about_tokens
from xrec.text.load import chosen_llm, load_language_model
from xrec.text.prompt_file import PromptFile


def kept_replies(output: Location) -> ReplyStore:
    """The replies that a run keeps until it is finished; `output` is the folder of all stages."""
    return ReplyStore(output / "replies")


CHUNKS_AT_ONCE = 2  # of a process, so that the model does not wait for the last rows of one


@dataclass(frozen=True)
class MakeWriter:
    """Makes an actor's annotator; everything that an actor gets.

    key: of the endpoint; `SecretStr` keeps it out of logs and tracebacks.
    """

    annotator: LanguageModelAnnotator
    files: dict[Kind, PromptFile]
    llm: LLMConfig | None
    storage: StorageConfig
    actors: ActorsConfig
    key: SecretStr | None
    identity: Mapping[str, Any]

    def __call__(self, output: Location) -> LanguageModelWriter:
        """Load the model, in the actor's process; `output` is the folder of all stages."""
        config = self.annotator.model
        model = load_language_model(
            config,
            llm=self.llm,
            storage=self.storage,
            device=self.actors.device,
            num_threads=self.actors.cpus_per_actor,
            key=self.key,
        )
        asker = Asker(
            model,
            config.sampling,
            kept_replies(output),
            identity=self.identity,
            budget=self.budget(_spent(output, self.storage)),
        )
        return LanguageModelWriter(self.prompts(model.num_tokens), asker)

    def prompts(self, count: CountTokens) -> Prompts:
        """What makes the conversations, in which `count` counts tokens."""
        return Prompts(
            self.files,
            RowData(self.annotator.max_data_tokens, count),
            self._limits(),
            domain=self.annotator.domain,
            language=self.annotator.language,
        )

    def _limits(self) -> ReplyLimits:
        """Lower ones than usual only where something holds the model to them."""
        model = self.annotator.model
        if isinstance(model, EndpointModelConfig) and not model.bounds_strings:
            return ReplyLimits()
        return ReplyLimits.of_tokens(model.sampling.max_tokens)

    def budget(self, spent: Usage) -> Budget:
        """The job's budget, of which `spent` is spent."""
        config = self.annotator
        prices = config.model.prices if isinstance(config.model, EndpointModelConfig) else None
        return Budget(config.budget.max_tokens, config.budget.max_cost, prices, spent)

    def describe(self, outlook: Outlook) -> list[str]:
        """What is to be asked, and its cost, without the model: at most its tokenizer is loaded."""
        config, model = self.annotator, self.annotator.model
        count = self._tokenizer()
        return Forecast(
            self.prompts(count or about_tokens),
            count or about_tokens,
            is_counted=count is not None,
            sampling=model.sampling,
            prices=model.prices if isinstance(model, EndpointModelConfig) else None,
            budget=config.budget,
            num_at_once=CHUNKS_AT_ONCE
            * (1 if isinstance(model, EndpointModelConfig) else self.actors.num_actors),
        ).lines(outlook)

    def _tokenizer(self) -> CountTokens | None:
        """What counts tokens as an engine's model does; None if the model is not here."""
        model = self.annotator.model
        if isinstance(model, EndpointModelConfig):
            return None
        chosen = chosen_llm(model, self.llm)
        try:
            folder = resolve_model(chosen.model, chosen.cache_dir, self.storage, download=False)
        except ModelError:
            return None
        from xrec.llm.model import load_tokenizer  # with transformers
        from xrec.text.chat import Chat

        return Chat(load_tokenizer(folder)).num_tokens


def _spent(output: Location, storage: StorageConfig) -> Usage:
    """What all stages have spent, as their drivers last said."""
    spent = Usage()
    for stage in STAGES:
        try:
            progress = read_status((output / stage).shared_uri, storage).progress
        except (ArtifactNotFoundError, StorageNotFoundError):
            continue  # the stage is not planned yet
        costs = progress.costs if progress else {}
        spent += Usage(int(costs.get("prompt_tokens", 0)), int(costs.get("reply_tokens", 0)))
    return spent
