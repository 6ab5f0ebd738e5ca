"""The same metrics for a process that runs in another folder: no path is relative."""

from xrec.config.metrics import JudgeConfig, MetricsConfig
from xrec.config.shared import StorageConfig
from xrec.llm.source import name_anywhere
from xrec.storage import open_location
from xrec.text.load import model_anywhere

_MODELS = ("encoder", "bart_score", "bleurt")
_PROMPTS = ("prompt", "statements_prompt", "support_prompt")


def metrics_anywhere(config: MetricsConfig, storage: StorageConfig) -> MetricsConfig:
    """The metrics with the whole paths of scoring models, of judges' models and of their prompts.

    They score the same: it is not for what identifies the scores.
    """
    models = {
        name: section.model_copy(update={"source": name_anywhere(section.source)})
        for name in _MODELS
        if (section := getattr(config, name)) is not None
    }
    judges = tuple(_judge_anywhere(judge, storage) for judge in config.judges)
    return config.model_copy(update={**models, "judges": judges})


def _judge_anywhere(judge: JudgeConfig, storage: StorageConfig) -> JudgeConfig:
    prompts = {
        name: open_location(uri, storage).shared_uri
        for name in _PROMPTS
        if (uri := getattr(judge, name)) is not None
    }
    return judge.model_copy(update={**prompts, "model": model_anywhere(judge.model)})
