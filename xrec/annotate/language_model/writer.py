"""The annotator itself, and what a run must know of it: what makes it in an actor, its prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import BaseModel

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
from xrec.annotate.plan import stage_statuses
from xrec.annotate.report import repeats_verbatim
from xrec.config import (
    AnnotateConfig,
    EndpointModelConfig,
    LanguageModelAnnotator,
    StorageConfig,
    identity_of,
)
from xrec.data.language import other_language
from xrec.llm.source import anywhere, known_fingerprint
from xrec.storage import Location, fingerprint_of
from xrec.text import (
    Asker,
    Budget,
    Prompt,
    Reply,
    ReplyStore,
    Usage,
    endpoint_key,
    load_language_model,
)
from xrec.text.model import chosen_llm, model_anywhere, model_settings

_CHUNKS_AT_ONCE = 2  # of a process, so that the model does not wait for the last rows of one


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


def _kept_replies(output: Location) -> ReplyStore:
    """The replies that a run keeps until it is finished; `output` is the folder of all stages."""
    return ReplyStore(output / "replies")


def _num_spent(output: Location, storage: StorageConfig) -> int:
    """The tokens that all stages have spent, as their drivers last said."""
    found = stage_statuses(output, storage).values()
    costs = [status.progress.costs for status in found if status.progress is not None]
    names = ("prompt_tokens", "reply_tokens")
    return sum(int(each.get(name, 0)) for each in costs for name in names)


def language_model_spec(
    config: AnnotateConfig, environment: Mapping[str, str] | None
) -> AnnotatorSpec:
    """The spec of `config`'s annotator, which must be of kind language_model.

    environment: has the key of its endpoint. None if nothing will be asked: no key is needed then,
        and the language model need not be on this machine.

    Raises ConfigError for prompts that cannot be used, for a key that is not there, or if no
    language model is named; ModelError if it cannot be had.
    """
    annotator = config.annotator
    assert isinstance(annotator, LanguageModelAnnotator)
    files = {
        kind: read_prompt(
            kind, annotator.prompts.get(kind), schema, annotator.domain, config.storage
        )
        for kind, schema in SCHEMAS.items()
    }
    model = annotator.model
    key, inputs, gpus_per_actor, max_actors = None, dict[str, str](), 0, None
    is_bounded = True  # replies have lower limits only where something holds the model to them
    if isinstance(model, EndpointModelConfig):
        key = None if environment is None else endpoint_key(model, environment)
        is_bounded = model.structured_output == "bounded_json_schema"
        max_actors = 1  # so that its limits are kept
    else:
        llm = chosen_llm(model, config.llm)
        is_needed = environment is not None
        inputs = {"llm": known_fingerprint(llm, config.storage, download=is_needed) or ""}
        gpus_per_actor = model.engine.num_gpus
    settings = {
        **identity_of(annotator),
        "prompts": {
            kind: fingerprint_of([file.system, *file.examples[annotator.domain]])
            for kind, file in files.items()
        },
        "model": model_settings(model, config.llm),
    }
    prompts = Prompts(
        files,
        RowData(annotator.max_data_tokens),
        ReplyLimits.of_tokens(model.sampling.max_tokens) if is_bounded else ReplyLimits(),
        domain=annotator.domain,
        language=annotator.language,
    )
    max_tokens = config.budget.get("tokens") if max_actors else None
    identity = {"model": settings["model"], **inputs}
    num_at_once = _CHUNKS_AT_ONCE * (max_actors or config.actors.num_processes)
    llm_of_job = None if config.llm is None else anywhere(config.llm)
    loaded, actors, storage = model_anywhere(model), config.actors, config.storage

    def make(output: Location) -> LanguageModelWriter:
        """Load the model, in the actor's process; `output` is the folder of all stages."""
        language_model = load_language_model(
            loaded,
            llm=llm_of_job,
            storage=storage,
            device=actors.device,
            num_threads=actors.cpus,
            key=key,
        )
        budget = Budget(max_tokens, _num_spent(output, storage))
        store, sampling = _kept_replies(output), loaded.sampling
        asker = Asker(language_model, sampling, store, identity=identity, budget=budget)
        return LanguageModelWriter(prompts, asker)

    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=make,
        describe=partial(forecast, prompts, annotator, max_tokens, num_at_once, config.prices),
        folds=annotator.folds,
        chunks_at_once=_CHUNKS_AT_ONCE,
        gpus_per_actor=gpus_per_actor,
        max_actors=max_actors,
        replies=_kept_replies,
    )
