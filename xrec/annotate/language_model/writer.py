"""The annotator itself, and what makes it in an actor and tells the driver what it would ask."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import BaseModel, SecretStr

from xrec.annotate.annotator import (
    Failure,
    Input,
    ItemInput,
    Outlook,
    PairInput,
    PairText,
    Text,
    UserInput,
    Written,
)
from xrec.annotate.language_model.forecast import Forecast
from xrec.annotate.language_model.prompts import CountTokens, Prompts, RowData
from xrec.annotate.language_model.replies import (
    COPIES_EXAMPLE,
    OTHER_LANGUAGE,
    Kind,
    ReplyLimits,
    item_text,
    pair_text,
    quote_problem,
    user_text,
)
from xrec.annotate.plan import stage_statuses
from xrec.annotate.report import repeats_verbatim
from xrec.config.annotate import LanguageModelAnnotator
from xrec.config.backfill import ActorsConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import EndpointModelConfig
from xrec.data.language import other_language
from xrec.errors import ModelError
from xrec.llm.source import resolve_model
from xrec.storage import Location
from xrec.text import (
    Asker,
    Budget,
    Prompt,
    Reply,
    ReplyStore,
    Usage,
    about_tokens,
    load_language_model,
)
from xrec.text.model import chosen_llm
from xrec.text.prompt_file import PromptFile

CHUNKS_AT_ONCE = 2  # of a process, so that the model does not wait for the last rows of one


class LanguageModelWriter:
    """An `Annotator` that asks `asker` for each row.

    The costs of what it writes: prompt_tokens and reply_tokens; requests, repeated ones included;
    equal_prompts, which were not asked.
    """

    def __init__(self, prompts: Prompts, asker: Asker):
        self._prompts, self._asker, limits = prompts, asker, prompts.limits
        self._kinds: Mapping[type[Input], tuple[type[BaseModel], Callable[..., Text | Failure]]] = {
            ItemInput: (limits.item(), item_text),
            UserInput: (limits.user(), user_text),
            PairInput: (limits.pair(), pair_text),
        }

    def write(self, rows: Sequence[Input]) -> Written:
        """See Annotator."""
        replies: Sequence[Reply[BaseModel]] = self._asker.ask([self._prompt(row) for row in rows])
        texts = [self._text(row, reply) for row, reply in zip(rows, replies, strict=True)]
        usage = sum((reply.usage for reply in replies), Usage())
        costs = {
            "prompt_tokens": usage.num_prompt_tokens,
            "reply_tokens": usage.num_reply_tokens,
            "requests": usage.num_requests,
            "equal_prompts": sum(reply.usage == Usage() for reply in replies),
        }
        return Written(texts, costs)

    def _prompt(self, row: Input) -> Prompt[Any]:
        prompt: Prompt[Any] = Prompt(self._prompts.of(row), self._kinds[type(row)][0])
        if isinstance(row, PairInput):
            prompt = replace(prompt, check=partial(quote_problem, row))
        return prompt

    def _text(self, row: Input, reply: Reply[BaseModel]) -> Text | Failure:
        """The text of a reply; a failure if it copies the example, as small models do."""
        if reply.failure is not None:
            return Failure(reply.failure.reason, reply.failure.message, reply.raw)
        text = self._kinds[type(row)][1](row, self._prompts.limits, reply.value)
        if isinstance(text, Failure):
            return text
        said = text.explanation if isinstance(text, PairText) else text.profile
        if repeats_verbatim(said, self._prompts.example(row)):
            message = "eight words in a row of the text are those of the prompt's example"
            return Failure(COPIES_EXAMPLE, message, reply.raw)
        if other := other_language(said, self._prompts.language):
            message = f"the text is in {other}, and annotator.language is {self._prompts.language}"
            return Failure(OTHER_LANGUAGE, message, reply.raw)
        return text


def kept_replies(output: Location) -> ReplyStore:
    """The replies that a run keeps until it is finished; `output` is the folder of all stages."""
    return ReplyStore(output / "replies")


@dataclass(frozen=True)
class MakeWriter:
    """Makes an actor's annotator; everything that an actor gets.

    key: of the endpoint; `SecretStr` keeps it out of logs and tracebacks. max_tokens: what
    an endpoint may be asked in all, of prompts and replies; None if there is no limit.
    """

    annotator: LanguageModelAnnotator
    files: Mapping[Kind, PromptFile]
    llm: LLMConfig | None
    storage: StorageConfig
    actors: ActorsConfig
    key: SecretStr | None
    identity: Mapping[str, Any]
    max_tokens: float | None = None

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
            budget=Budget(self.max_tokens, _num_spent(output, self.storage)),
        )
        return LanguageModelWriter(self._prompts(model.num_tokens), asker)

    def describe(self, outlook: Outlook) -> list[str]:
        """What is to be asked, and its cost, without the model: at most its tokenizer is loaded."""
        model, count = self.annotator.model, self._tokenizer()
        is_endpoint = isinstance(model, EndpointModelConfig)
        forecast = Forecast(
            self._prompts(count or about_tokens),
            count or about_tokens,
            is_counted=count is not None,
            sampling=model.sampling,
            prices=model.prices if isinstance(model, EndpointModelConfig) else None,
            token_budget=self.max_tokens,
            num_at_once=CHUNKS_AT_ONCE * (1 if is_endpoint else self.actors.num_actors),
            folds=self.annotator.folds,
        )
        return list(forecast.lines(outlook))

    def _prompts(self, count: CountTokens) -> Prompts:
        """What makes the conversations, in which `count` counts tokens.

        Replies have lower limits than usual only where something holds the model to them.
        """
        config, model = self.annotator, self.annotator.model
        is_bounded = (
            not isinstance(model, EndpointModelConfig)
            or model.structured_output == "bounded_json_schema"
        )
        limits = ReplyLimits.of_tokens(model.sampling.max_tokens) if is_bounded else ReplyLimits()
        data = RowData(config.max_data_tokens, count)
        return Prompts(self.files, data, limits, domain=config.domain, language=config.language)

    def _tokenizer(self) -> CountTokens | None:
        """What counts tokens as an engine's model does; None if the model is not here."""
        model = self.annotator.model
        if isinstance(model, EndpointModelConfig):
            return None
        chosen = chosen_llm(model, self.llm)
        try:
            folder = resolve_model(chosen, self.storage, download=False)
        except ModelError:
            return None
        from xrec.llm.model import load_tokenizer  # with transformers
        from xrec.text.chat import Chat

        return Chat(load_tokenizer(folder)).num_tokens


def _num_spent(output: Location, storage: StorageConfig) -> int:
    """The tokens that all stages have spent, as their drivers last said."""
    found = stage_statuses(output, storage).values()
    costs = [status.progress.costs for status in found if status.progress is not None]
    names = ("prompt_tokens", "reply_tokens")
    return sum(int(each.get(name, 0)) for each in costs for name in names)
