"""What a run must know of the annotator that asks a language model."""

from collections.abc import Mapping

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.language_model.prompts import read_prompt
from xrec.annotate.language_model.replies import REASONS, SCHEMAS
from xrec.annotate.language_model.writer import CHUNKS_AT_ONCE, MakeWriter, kept_replies
from xrec.config.annotate import AnnotateConfig, LanguageModelAnnotator
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import EndpointModelConfig
from xrec.errors import ModelError
from xrec.llm.source import anywhere, model_fingerprint, resolve_model
from xrec.storage import fingerprint_of
from xrec.text import endpoint_key
from xrec.text.model import chosen_llm, model_anywhere, model_settings

_SETTINGS = {"domain", "language", "max_data_tokens", "folds"}


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
    if isinstance(model, EndpointModelConfig):
        key = None if environment is None else endpoint_key(model, environment)
        max_actors = 1  # so that its limits are kept
    else:
        llm = chosen_llm(model, config.llm)
        inputs = {"llm": _fingerprint(llm, config.storage, is_needed=environment is not None)}
        gpus_per_actor = model.engine.tensor_parallel_size
    settings = {
        "kind": annotator.kind,
        **annotator.model_dump(mode="json", include=_SETTINGS),
        "prompts": {
            kind: fingerprint_of([file.system, *file.examples[annotator.domain]])
            for kind, file in files.items()
        },
        "model": {
            **model_settings(model, config.llm),
            "sampling": model.sampling.model_dump(mode="json"),
        },
    }
    make = MakeWriter(
        annotator.model_copy(update={"model": model_anywhere(model)}),
        files,
        None if config.llm is None else anywhere(config.llm),
        config.storage,
        config.actors,
        key,
        {**settings["model"], **inputs},
        config.budget.get("tokens") if max_actors else None,
    )
    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=make,
        describe=make.describe,
        folds=annotator.folds,
        chunks_at_once=CHUNKS_AT_ONCE,
        gpus_per_actor=gpus_per_actor,
        max_actors=max_actors,
        replies=kept_replies,
    )


def _fingerprint(llm: LLMConfig, storage: StorageConfig, *, is_needed: bool) -> str:
    """The fingerprint of a language model; "" if it is neither here nor needed."""
    try:
        folder = resolve_model(llm, storage, download=is_needed)
    except ModelError:
        if is_needed:
            raise
        return ""
    return model_fingerprint(folder)
