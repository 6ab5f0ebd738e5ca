"""The annotator that asks a language model, and its spec."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from pydantic import SecretStr

from xrec.annotate.annotator import (
    STAGES,
    AnnotatorSpec,
    Input,
    Kind,
    PairInput,
    PairText,
    Text,
    Written,
)
from xrec.annotate.language_model.forecast import forecast
from xrec.annotate.language_model.prompts import Prompts, read_prompt
from xrec.annotate.language_model.replies import (
    COPIES_EXAMPLE,
    OTHER_LANGUAGE,
    REASONS,
    ReplyLimits,
    quote_problem,
    reply_schema,
    text_of,
)
from xrec.annotate.report import repeats_verbatim
from xrec.bulk import read_status, use_of
from xrec.config import AnnotateConfig, EndpointModelConfig, LanguageModelAnnotator, identity_of
from xrec.data.language import language_name, other_language
from xrec.errors import ArtifactNotFoundError, Failure, StorageNotFoundError
from xrec.llm.source import known_fingerprint
from xrec.storage import Location, fingerprint_of
from xrec.text import (
    Asker,
    Prompt,
    Reply,
    Usage,
    endpoint_key,
    load_language_model,
    make_asker,
)

_CHUNKS_AT_ONCE = 2  # per process, so that the model is busy while the last rows of a chunk finish


@dataclass(frozen=True)
class LanguageModelWriter:
    """An `Annotator` that asks a language model about each row.

    Its costs are prompt_tokens, reply_tokens, requests (including retries), equal_prompts, the
    number of prompts that were not sent because an identical one was, and maybe_paid_twice, that of
    requests that a process that died may have sent, too.
    """

    prompts: Prompts
    asker: Asker

    def write(self, rows: Sequence[Input]) -> Written:
        """See Annotator; raise BudgetError once `budget.tokens` is used up."""
        replies = self.asker.ask([self._prompt(row) for row in rows])
        texts = [self._text(row, reply) for row, reply in zip(rows, replies, strict=True)]
        usage = sum((reply.usage for reply in replies), Usage())
        costs = {
            "prompt_tokens": usage.num_prompt_tokens,
            "reply_tokens": usage.num_reply_tokens,
            "requests": usage.num_requests,
            "equal_prompts": sum(reply.usage == Usage() for reply in replies),
            "maybe_paid_twice": self.asker.replies.take_maybe_paid_twice(),
        }
        return Written(texts, costs)

    def _prompt(self, row: Input) -> Prompt[Any]:
        schema = reply_schema(row.kind, self.prompts.limits)
        user_ids = tuple(dict.fromkeys(review.user_id for review in row.shown))
        prompt = Prompt(self.prompts.of(row), schema, user_ids=user_ids)
        if isinstance(row, PairInput):
            return replace(prompt, check=partial(quote_problem, row))
        return prompt

    def _text(self, row: Input, reply: Reply[Any]) -> Text | Failure:
        """Return the text of a reply; a copy of the example or another language is a failure."""
        if reply.failure is not None:
            return Failure(reply.failure.reason, reply.failure.message, reply=reply.raw)
        text = text_of(row, self.prompts.limits, reply.value)
        if isinstance(text, Failure):
            return text
        words = text.explanation if isinstance(text, PairText) else text.profile
        if repeats_verbatim(words, self.prompts.example(row)):
            message = "the text repeats eight consecutive words of the prompt's example"
            return Failure(COPIES_EXAMPLE, message, reply=reply.raw)
        if other := other_language(words, self.prompts.language):
            message = f"the text is in {other}, but annotator.language is {self.prompts.language}"
            return Failure(OTHER_LANGUAGE, message, reply=reply.raw)
        return text


def _load(
    config: AnnotateConfig,
    prompts: Prompts,
    key: SecretStr | None,
    output: Location,
    attempt: int,
) -> LanguageModelWriter:
    """Load the writer's model into this process; `output` is the folder of all stages.

    attempt: how often failed texts have been retried.
    """
    annotator = config.annotator
    assert isinstance(annotator, LanguageModelAnnotator)
    model = load_language_model(
        annotator.model,
        job=config,
        device=config.actors.device,
        num_threads=config.actors.cpus,
        key=key,
    )
    asker = make_asker(
        config,
        annotator.model,
        model,
        run=output.uri,
        attempt=attempt,
        max_tokens=config.budget.get("tokens", float("inf")) - _num_spent(config, output),
    )
    return LanguageModelWriter(prompts, asker)


def _num_spent(config: AnnotateConfig, output: Location) -> float:
    """Return the number of tokens that all stages have reported so far."""
    num_spent = 0.0
    for stage in STAGES:
        with suppress(ArtifactNotFoundError, StorageNotFoundError):  # it is not planned
            if progress := read_status((output / stage).uri, config.storage).progress:
                num_spent += use_of(progress.costs, {})["tokens"]
    return num_spent


def language_model_spec(
    config: AnnotateConfig, environment: Mapping[str, str] | None
) -> AnnotatorSpec:
    """Return the spec of an annotator of kind language_model.

    environment: environment variables, for the key of an endpoint. None if no prompts will be sent;
        then no key is needed, and the language model need not be on this machine.

    Raises ConfigError for invalid prompts or a missing key, and ModelError if the language model
    is not available.
    """
    annotator = config.annotator
    assert isinstance(annotator, LanguageModelAnnotator)
    model, is_endpoint = annotator.model, isinstance(annotator.model, EndpointModelConfig)
    prompts = _read_prompts(config, annotator)
    fingerprints = {
        kind: fingerprint_of([file.system, *file.examples[prompts.domain]])
        for kind, file in prompts.files.items()
    }
    settings = {
        **identity_of(annotator),
        "prompts": fingerprints,
        "model": identity_of(model),
    }
    key, inputs, num_gpus = None, dict[str, str](), 0
    if isinstance(model, EndpointModelConfig):
        key = None if environment is None else endpoint_key(model, environment)
    else:
        is_asked = environment is not None
        inputs = {"llm": known_fingerprint(model.llm, config.storage, download=is_asked) or ""}
        num_gpus = model.engine.num_gpus
    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=partial(_load, config, prompts, key),
        describe=partial(forecast, prompts, config),
        folds=annotator.folds,
        drift=annotator.drift,
        chunks_at_once=_CHUNKS_AT_ONCE,
        gpus_per_actor=num_gpus,
        max_actors=1 if is_endpoint else None,  # one process enforces an endpoint's limits
    )


def _read_prompts(config: AnnotateConfig, annotator: LanguageModelAnnotator) -> Prompts:
    """Read the prompts; replies get lower limits only if the model is forced to obey them."""
    model, domain = annotator.model, annotator.domain
    kinds: tuple[Kind, ...] = get_args(Kind)
    files = {
        kind: read_prompt(kind, annotator.prompts.get(kind), domain, config.storage)
        for kind in kinds
    }
    is_bounded = (
        not isinstance(model, EndpointModelConfig)
        or model.structured_output == "bounded_json_schema"
    )
    limits = ReplyLimits.of_tokens(model.max_tokens) if is_bounded else ReplyLimits()
    language = language_name(annotator.language)
    return Prompts(files, limits, annotator.max_data_tokens, domain, language)
