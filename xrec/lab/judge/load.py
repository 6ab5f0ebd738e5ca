"""Makes the judges of a config: their models, keys and kept replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from pydantic import SecretStr

from xrec.config.llm import LLMConfig
from xrec.config.metrics import JudgeConfig
from xrec.config.shared import Device, StorageConfig
from xrec.config.text import EndpointModelConfig, SamplingConfig
from xrec.errors import ModelError
from xrec.lab.judge.judge import Judge, judge_infos
from xrec.lab.measures.measure import MetricInfo
from xrec.llm.source import model_fingerprint, public_name, resolve_model
from xrec.storage import Location, fingerprint_of
from xrec.text import Asker, LanguageModel, ReplyStore, endpoint_key
from xrec.text.model import chosen_llm, load_language_model, model_settings
from xrec.text.prompt_file import PromptFile, parse_prompt_file

_NEXT_SAMPLE = 1000  # far from the seeds of replies that are asked again


@dataclass(frozen=True)
class JudgeAccess:
    """What judges need beside their config; it may be sent to an actor.

    replies: the folder that keeps what was answered, so that nothing is asked, and paid, twice.
    llm: of the job, for an engine whose config names none. device, num_threads: of an engine.
    keys: of endpoints, by the judge's name (`judge_keys`).
    """

    replies: Location
    storage: StorageConfig = field(default_factory=StorageConfig)
    llm: LLMConfig | None = None
    device: Device = "auto"
    num_threads: int = 1
    keys: Mapping[str, SecretStr | None] = field(default_factory=dict)


def judge_keys(
    judges: Sequence[JudgeConfig], environment: Mapping[str, str]
) -> dict[str, SecretStr | None]:
    """The key of each judge that is an endpoint; raises ConfigError for one that is not set."""
    return {
        judge.name: endpoint_key(judge.model, environment)
        for judge in judges
        if isinstance(judge.model, EndpointModelConfig)
    }


def load_judge(
    config: JudgeConfig, access: JudgeAccess, loaded: dict[str, LanguageModel] | None = None
) -> Judge:
    """The judge of `config`, with its model in this process.

    loaded: the models of other judges, of which one is taken if it is the same; this one's is
    added.

    Raises ConfigError for an engine without a model, ModelError if the model cannot be had.
    """
    models = {} if loaded is None else loaded
    settings = config.model.model_dump_json(exclude={"sampling"})
    if settings not in models:
        models[settings] = load_language_model(
            config.model,
            llm=access.llm,
            storage=access.storage,
            device=access.device,
            num_threads=access.num_threads,
            key=access.keys.get(config.name),
        )
    model = models[settings]
    store = ReplyStore(access.replies)
    identity = _model_identity(config, access.llm, access.storage)
    askers = [
        Asker(model, _sampling(config, sample), store, identity=identity)
        for sample in range(config.num_samples)
    ]
    return Judge(config.name, judge_question(), askers)


def describe_judge(config: JudgeConfig, llm: LLMConfig | None) -> list[MetricInfo]:
    """What the table says of the judge's metrics."""
    return judge_infos(config.name, _model_name(config, llm), config.num_samples)


def judge_identity(
    config: JudgeConfig, llm: LLMConfig | None, storage: StorageConfig
) -> dict[str, Any]:
    """What a judge's scores depend on, as plain JSON: not limits, waits and prices."""
    question = judge_question()
    return {
        "name": config.name,
        "num_samples": config.num_samples,
        "sampling": config.model.sampling.model_dump(mode="json"),
        "question": fingerprint_of([question.system, dict(question.examples)]),
        "model": _model_identity(config, llm, storage),
    }


def judge_question() -> PromptFile:
    """What a judge is asked: the article's prompt, with the score as a JSON object."""
    text = (resources.files(__package__) / "score.txt").read_text("utf-8")
    return parse_prompt_file("score.txt", text)


def _sampling(config: JudgeConfig, sample: int) -> SamplingConfig:
    """The same for each sample but the seed."""
    sampling = config.model.sampling
    return sampling.model_copy(update={"seed": sampling.seed + _NEXT_SAMPLE * sample})


def _model_identity(
    config: JudgeConfig, llm: LLMConfig | None, storage: StorageConfig
) -> dict[str, Any]:
    model, settings = config.model, model_settings(config.model, llm)
    if isinstance(model, EndpointModelConfig):
        return settings
    chosen = chosen_llm(model, llm)
    try:
        folder = resolve_model(chosen.model, chosen.cache_dir, storage, download=False)
    except ModelError:  # it is fetched, or missed, when it is loaded
        return {**settings, "llm": public_name(chosen.model)}
    return {**settings, "llm": model_fingerprint(folder)}


def _model_name(config: JudgeConfig, llm: LLMConfig | None) -> str:
    if isinstance(config.model, EndpointModelConfig):
        return config.model.model
    return public_name(chosen_llm(config.model, llm).model)
