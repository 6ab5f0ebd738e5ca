"""What a run must know of the annotator that asks a language model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.language_model.agreement import agreement_figures
from xrec.annotate.language_model.data import CountTokens, RowData
from xrec.annotate.language_model.forecast import Forecast
from xrec.annotate.language_model.prompt_file import KINDS, Kind, PromptFile, read_prompt
from xrec.annotate.language_model.replies import REASONS
from xrec.annotate.language_model.writer import SCHEMAS, LanguageModelWriter, Prompts, SecondSeed
from xrec.annotate.outlook import Outlook
from xrec.annotate.stages import STAGES
from xrec.annotate.store import read_record
from xrec.bulk import read_status
from xrec.config.annotate import AnnotateConfig
from xrec.config.backfill import ActorsConfig
from xrec.config.language_model_annotator import LanguageModelAnnotator
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import EndpointModelConfig, EngineModelConfig, SamplingConfig
from xrec.errors import ArtifactNotFoundError, ModelError, StorageNotFoundError
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import Location, fingerprint_of
from xrec.text import Asker, Budget, ReplyStore, Spent, about_tokens, endpoint_key
from xrec.text.load import chosen_llm, load_language_model

_REPLIES = "replies"
_OTHER_SEED = 1000  # far from the seeds of replies that are asked again
_LEAST_TEMPERATURE = 0.7  # without any, all seeds say the same


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
        kind: read_prompt(kind, getattr(annotator.prompts, kind), SCHEMAS[kind], annotator.domain)
        for kind in KINDS
    }
    model = annotator.model
    key = None
    inputs = _inputs(model, config.llm, config.storage, is_needed=environment is not None)
    if isinstance(model, EndpointModelConfig) and environment is not None:
        key = endpoint_key(model, environment)
    settings = {
        "kind": annotator.kind,
        **annotator.model_dump(mode="json", include={"domain", "language", "max_data_tokens"}),
        "prompts": {
            kind: fingerprint_of([file.system, *file.examples[annotator.domain]])
            for kind, file in files.items()
        },
        "model": _model_settings(annotator, config.llm),
    }
    make = MakeWriter(
        annotator,
        files,
        config.llm,
        config.storage,
        config.actors,
        key,
        {**settings["model"], **inputs},
    )
    gpus = 0 if isinstance(model, EndpointModelConfig) else model.engine.tensor_parallel_size
    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=make,
        check_costs=make.check_costs,
        describe=make.describe,
        figures=agreement_figures,
        chunks_at_once=annotator.chunks_at_once,
        gpus_per_actor=gpus,
        max_actors=1 if isinstance(model, EndpointModelConfig) else None,
        forget_failures=_forget_failures,
        clean_up=_delete_replies,
    )


def _forget_failures(output: Location) -> None:
    ReplyStore(output / _REPLIES).forget_failures()


def _delete_replies(output: Location) -> None:
    ReplyStore(output / _REPLIES).delete()


def _inputs(
    model: EngineModelConfig | EndpointModelConfig,
    llm: LLMConfig | None,
    storage: StorageConfig,
    *,
    is_needed: bool,
) -> dict[str, str]:
    """The fingerprint of an engine's language model; "" if it is neither here nor needed."""
    if isinstance(model, EndpointModelConfig):
        return {}
    chosen = chosen_llm(model, llm)
    try:
        folder = resolve_model(chosen.model, chosen.cache_dir, storage, download=is_needed)
    except ModelError:
        if is_needed:
            raise
        return {"llm": ""}
    return {"llm": model_fingerprint(folder)}


def _model_settings(annotator: LanguageModelAnnotator, llm: LLMConfig | None) -> dict[str, Any]:
    """What replies depend on: not limits, waits and prices."""
    model = annotator.model
    if isinstance(model, EndpointModelConfig):
        names = {"kind", "base_url", "model", "structured_output", "extra", "sampling"}
        return model.model_dump(mode="json", include=names)
    return {
        "kind": model.kind,
        "dtype": chosen_llm(model, llm).dtype,
        "linear_layers": "int8" if model.engine.linear_layers == "int8" else "exact",
        "sampling": model.sampling.model_dump(mode="json"),
    }


def second_sampling(sampling: SamplingConfig) -> SamplingConfig:
    """How the texts are drawn that tell how far two seeds agree."""
    return sampling.model_copy(
        update={
            "seed": sampling.seed + _OTHER_SEED,
            "temperature": sampling.temperature or _LEAST_TEMPERATURE,
        }
    )


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
        budget = self.budget(_spent(output, self.storage))
        first, second = (
            Asker(
                model,
                sampling,
                ReplyStore(output / _REPLIES),
                identity=self.identity,
                budget=budget,
            )
            for sampling in (config.sampling, second_sampling(config.sampling))
        )
        return LanguageModelWriter(
            self.prompts(model.num_tokens), first, SecondSeed(second, self._share_of_pairs(output))
        )

    def _share_of_pairs(self, output: Location) -> float:
        """The share of the pairs that are asked twice."""
        record = read_record(output)
        num_pairs = sum(record.num_reviews.values()) if record else 0
        return min(1.0, self.annotator.num_asked_twice / max(1, num_pairs))

    def prompts(self, count: CountTokens) -> Prompts:
        """What makes the conversations, in which `count` counts tokens."""
        return Prompts(
            self.files,
            RowData(self.annotator.max_data_tokens, count),
            domain=self.annotator.domain,
            language=self.annotator.language,
        )

    def budget(self, spent: Spent) -> Budget:
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
            num_asked_twice=min(config.num_asked_twice, outlook.counts["pairs"]),
            num_at_once=config.chunks_at_once
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

    def check_costs(self, costs: Mapping[str, float]) -> None:
        """Raise BudgetError if all stages together have spent more than the budget."""
        self.budget(Spent()).check(_spent_of(costs))


def _spent(output: Location, storage: StorageConfig) -> Spent:
    """What all stages have spent, as far as it is committed."""
    spent = Spent()
    for stage in STAGES:
        try:
            state = read_status((output / stage).shared_uri, storage).state
        except (ArtifactNotFoundError, StorageNotFoundError):
            continue  # the stage is not planned yet
        spent += _spent_of(state.costs if state else {})
    return spent


def _spent_of(costs: Mapping[str, float]) -> Spent:
    return Spent(costs.get("prompt_tokens", 0.0), costs.get("reply_tokens", 0.0))
