"""What a run must know of the annotator that asks a language model."""

from collections.abc import Mapping
from importlib import resources

from pydantic import BaseModel

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.language_model.make_writer import CHUNKS_AT_ONCE, MakeWriter, kept_replies
from xrec.annotate.language_model.replies import REASONS, SCHEMAS, Kind
from xrec.config.annotate import AnnotateConfig, LanguageModelAnnotator
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.config.text import EndpointModelConfig, EngineModelConfig
from xrec.errors import ConfigError, ModelError
from xrec.llm.source import anywhere, model_fingerprint, resolve_model
from xrec.storage import Location, fingerprint_of
from xrec.text import endpoint_key
from xrec.text.load import chosen_llm, model_anywhere, model_settings
from xrec.text.prompt_file import PromptFile, parse_prompt_file, read_prompt_file

KINDS: tuple[Kind, ...] = ("item", "user", "pair")


def read_prompt(
    kind: Kind,
    uri: str | None,
    schema: type[BaseModel],
    domain: str,
    storage: StorageConfig | None = None,
) -> PromptFile:
    """The prompt in the file at `uri`; if that is None, our own for this kind of text.

    {language} and {max_aspects} of its instruction are filled in later. Raises ConfigError if the
    file cannot be read, has no example of `domain`, or an example whose reply is no object of
    `schema`.
    """
    if uri is None:
        name = f"{kind}.txt"
        text = (resources.files(__package__) / "prompts" / name).read_text("utf-8")
        prompt = parse_prompt_file(name, text)
    else:
        prompt = read_prompt_file(f"annotator.prompts.{kind}", uri, storage)
    if domain not in prompt.examples:
        raise ConfigError(
            f"{prompt.name}: no example for annotator.domain = {domain}; it has "
            f"{', '.join(prompt.examples) or 'none'}"
        )
    prompt.check(schema)
    return prompt


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
            kind,
            annotator.prompts.get(kind),
            SCHEMAS[kind],
            annotator.domain,
            config.storage,
        )
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
    )
    gpus = 0 if isinstance(model, EndpointModelConfig) else model.engine.tensor_parallel_size
    return AnnotatorSpec(
        settings=settings,
        inputs=inputs,
        reasons=REASONS,
        make=make,
        describe=make.describe,
        chunks_at_once=CHUNKS_AT_ONCE,
        gpus_per_actor=gpus,
        max_actors=1 if isinstance(model, EndpointModelConfig) else None,
        forget_failures=_forget_failures,
        clean_up=_delete_replies,
    )


def _forget_failures(output: Location) -> None:
    kept_replies(output).forget_failures()


def _delete_replies(output: Location) -> None:
    kept_replies(output).delete()


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
