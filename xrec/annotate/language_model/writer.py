"""The annotator that asks a language model, and what a run knows of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pydantic import BaseModel, SecretStr

from xrec.annotate.annotator import (
    AnnotatorSpec,
    Failure,
    Input,
    ItemInput,
    PairInput,
    PairText,
    Text,
    UserInput,
    Written,
)
from xrec.annotate.language_model.forecast import forecast
from xrec.annotate.language_model.prompts import Prompts, RowData, read_prompt
from xrec.annotate.language_model.replies import (
    COPIES_EXAMPLE,
    OTHER_LANGUAGE,
    REASONS,
    SCHEMAS,
    ReplyLimits,
    item_text,
    pair_text,
    quote_problem,
    user_text,
)
from xrec.annotate.report import repeats_verbatim
from xrec.config import AnnotateConfig, EndpointModelConfig, LanguageModelAnnotator, identity_of
from xrec.data.language import other_language
from xrec.llm.source import known_fingerprint
from xrec.storage import Location
from xrec.text import (
    Asker,
    Prompt,
    Reply,
    ReplyStore,
    Usage,
    chosen_llm,
    endpoint_key,
    load_language_model,
    model_settings,
)

_CHUNKS_AT_ONCE = 2  # per process, so that the model is busy while the last rows of a chunk finish


class LanguageModelWriter:
    """An `Annotator` that asks a language model about each row.

    Its costs are prompt_tokens and reply_tokens; requests, including repeated ones; equal_prompts,
    which were not asked again.
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
        """Return the text of a reply; one that copies the prompt's example is a failure."""
        if reply.failure is not None:
            return Failure(reply.failure.reason, reply.failure.message, reply.raw)
        text = self._kinds[type(row)][1](row, self._prompts.limits, reply.value)
        if isinstance(text, Failure):
            return text
        words = text.explanation if isinstance(text, PairText) else text.profile
        if repeats_verbatim(words, self._prompts.example(row)):
            message = "the text repeats eight words in a row of the prompt's example"
            return Failure(COPIES_EXAMPLE, message, reply.raw)
        if other := other_language(words, self._prompts.language):
            message = f"the text is in {other}, and annotator.language is {self._prompts.language}"
            return Failure(OTHER_LANGUAGE, message, reply.raw)
        return text


@dataclass(frozen=True)
class WriterLoader:
    """Loads the writer in an actor, to which it is sent.

    identity: what replies depend on besides their prompts. key: of an endpoint.
    """

    config: AnnotateConfig
    prompts: Prompts
    identity: Mapping[str, Any]
    key: SecretStr | None

    def __call__(self, output: Location) -> LanguageModelWriter:
        """Load the model; `output` is the folder of all stages."""
        annotator, actors = self.config.annotator, self.config.actors
        assert isinstance(annotator, LanguageModelAnnotator)
        model = load_language_model(
            annotator.model,
            llm=self.config.llm,
            storage=self.config.storage,
            device=actors.device,
            num_threads=actors.cpus,
            key=self.key,
        )
        store, sampling = kept_replies(output), annotator.model.sampling
        return LanguageModelWriter(
            self.prompts, Asker(model, sampling, store, identity=self.identity)
        )


def kept_replies(output: Location) -> ReplyStore:
    """Return the replies that an unfinished run keeps; `output` is the folder of all stages."""
    return ReplyStore(output / "replies")


def language_model_spec(
    config: AnnotateConfig, environment: Mapping[str, str] | None
) -> AnnotatorSpec:
    """Return the spec of an annotator of kind language_model.

    environment: holds the key of an endpoint. None if nothing will be asked; then no key is needed,
        and the language model need not be on this machine.

    Raises ConfigError for invalid prompts, a missing key, or if no language model is named;
    ModelError if it is not available.
    """
    annotator = config.annotator
    assert isinstance(annotator, LanguageModelAnnotator)
    model, is_endpoint = annotator.model, isinstance(annotator.model, EndpointModelConfig)
    prompts = _read_prompts(config, annotator)
    settings = {
        **identity_of(annotator),
        "prompts": prompts.fingerprints(),
        "model": model_settings(model, config.llm),
    }
    key, inputs, gpus = None, dict[str, str](), 0
    if isinstance(model, EndpointModelConfig):
        key = None if environment is None else endpoint_key(model, environment)
    else:
        llm, is_asked = chosen_llm(model, config.llm), environment is not None
        inputs = {"llm": known_fingerprint(llm, config.storage, download=is_asked) or ""}
        gpus = model.engine.num_gpus
    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=WriterLoader(
            config,
            prompts,
            {"model": settings["model"], **inputs},
            key,
        ),
        describe=partial(forecast, prompts, config, _CHUNKS_AT_ONCE),
        folds=annotator.folds,
        chunks_at_once=_CHUNKS_AT_ONCE,
        gpus_per_actor=gpus,
        max_actors=1 if is_endpoint else None,  # one process keeps an endpoint's limits
        replies=kept_replies,
    )


def _read_prompts(config: AnnotateConfig, annotator: LanguageModelAnnotator) -> Prompts:
    """Read the prompts; replies only get lower limits if something holds the model to them."""
    model, domain = annotator.model, annotator.domain
    files = {
        kind: read_prompt(kind, annotator.prompts.get(kind), schema, domain, config.storage)
        for kind, schema in SCHEMAS.items()
    }
    is_bounded = (
        not isinstance(model, EndpointModelConfig)
        or model.structured_output == "bounded_json_schema"
    )
    limits = ReplyLimits.of_tokens(model.sampling.max_tokens) if is_bounded else ReplyLimits()
    data = RowData(annotator.max_data_tokens)
    return Prompts(files, data, limits, domain=domain, language=annotator.language)
