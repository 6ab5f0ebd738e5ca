"""The model card of an adapter, README.md: front matter as the Hugging Face hub reads it, then what a user must know.

It holds names, counts and fingerprints; no path of the machine that trained, no URI, no row of the data.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from xrec.adapter.config import AdapterConfig
from xrec.config.adapter import CardConfig
from xrec.llm.source import is_hub_id
from xrec.storage import Manifest

TRAINED = "Trained by `xrec train-adapter`."
_EVALUATION = "\n## Evaluation\n"
_TRAINING_METRICS = {
    "validation_loss": "validation loss, nats a token",
    "train_loss": "training loss of that epoch, nats a token",
    "epoch": "epoch that was kept",
    "step": "optimizer steps up to it",
    "num_train_pairs": "training pairs used",
}
_LIMITS = (
    "It works with the base model and the graph named above only; xrec refuses others by their fingerprints.",
    "The texts are generated: they may be wrong about the item or the user, and are no statement of either.",
    "How far the user's own vector changes the text is measured by `xrec evaluate` (personalization gain), not promised.",
)


def model_card(
    config: AdapterConfig,
    *,
    settings: CardConfig | None = None,
    origin: str = "",
    dataset: Manifest | None = None,
    metrics: Mapping[str, Any] | None = None,
    limits: Sequence[str] = (),
) -> str:
    """The card as Markdown: what is not given (`dataset`: the one trained on, `metrics`: of training) is said to be unknown.

    `origin` says in a sentence how the weights came to be, `limits` adds to those of every adapter.
    """
    settings, metrics = settings or CardConfig(), metrics or {}
    sections = {
        "": _summary(config, origin),
        "Data": _data(dataset),
        "Metrics": _metrics(metrics),
        "Base model": f"`{config.base_model}`, fingerprint `{config.base_model_fingerprint}`, hidden size {config.hidden_size}; not included.",
        "Graph": f"Fingerprint `{config.graph_fingerprint}`, {config.embedding_dim} numbers a user or item; not included. The adapter needs it.",
        "How to use": _usage(config),
        "Licence": _licence(settings),
        "Limits": "\n".join(f"- {limit}" for limit in (*_LIMITS, *limits)),
    }
    body = "\n\n".join(
        f"## {title}\n\n{text}" if title else text for title, text in sections.items()
    )
    return f"---\n{_front_matter(config, settings, dataset, metrics).to_yaml()}\n---\n\n# {settings.name}\n\n{body}\n"


def with_evaluation(card: str, evaluation: Manifest) -> str:
    """`card` with the metrics of an evaluation artifact, in its model-index and as a last section; an earlier one's are replaced."""
    parsed = ModelCard(card)
    front = cast("ModelCardData", parsed.data)
    split = str(evaluation.config["split"])
    training = [result for result in front.eval_results or [] if result.metric_type == "loss"]
    values = {
        name: value
        for name, value in evaluation.metrics.items()
        if not name.endswith(("_low", "_high"))
    }
    dataset = evaluation.inputs["dataset"]
    front.eval_results = [
        *training,
        *(_result(name, name, value, split, dataset) for name, value in values.items()),
    ]
    front.model_name = front.model_name or CardConfig().name
    front.metrics = list(dict.fromkeys([*(front.metrics or []), *values]))
    rows = [
        f"| {name} | {_short(value)} | {_interval(evaluation.metrics, name)} |"
        for name, value in values.items()
    ]
    section = f"{_EVALUATION}\nBy `xrec evaluate`, {evaluation.row_counts['pairs']:,} pairs of the {split} split.\n\n"
    table = "\n".join(["| metric | value | 95 % interval |", "|---|---|---|", *rows])
    parsed.text = parsed.text.split(_EVALUATION)[0].rstrip("\n") + "\n" + section + table + "\n"
    return str(parsed)


def _front_matter(
    config: AdapterConfig,
    settings: CardConfig,
    dataset: Manifest | None,
    metrics: Mapping[str, Any],
) -> ModelCardData:
    loss = metrics.get("validation_loss")
    fingerprint = dataset.fingerprint if dataset else "unknown"
    return ModelCardData(
        license=settings.license,
        language=settings.language,
        library_name="xrec",
        pipeline_tag="text-generation",
        base_model=config.base_model if is_hub_id(config.base_model) else None,
        base_model_relation="adapter" if is_hub_id(config.base_model) else None,
        datasets=list(settings.datasets) or None,
        tags=[
            "xrec",
            "adapter",
            "recommendation",
            "explainable-recommendation",
            "collaborative-filtering",
        ],
        metrics=["loss"] if loss is not None else None,
        model_name=settings.name if loss is not None else None,
        eval_results=[
            _result("loss", "validation loss, nats a token", loss, "validation", fingerprint)
        ]
        if loss is not None
        else None,
    )


def _result(metric: str, name: str, value: Any, split: str, dataset: str) -> EvalResult:
    return EvalResult(
        task_type="text-generation",
        task_name="Explanation of recommendations",
        dataset_type="xrec-dataset",
        dataset_name=f"xrec dataset {dataset}",
        dataset_split=split,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
    )


def _summary(config: AdapterConfig, origin: str) -> str:
    model = config.model
    tokens = (
        "a token a user and an item"
        if model.num_tokens == 1
        else f"{model.num_tokens} tokens a user and an item"
    )
    shape = f"{model.num_experts} experts each, {config.embedding_dim} to {config.hidden_size} numbers, {tokens}, injection `{model.injection}`."
    return (
        "Writes why a user would like an item. Two mixtures of linear experts, one for users and one for items, turn the vectors of a graph of "
        "who interacted with what into tokens of a frozen language model (XRec, [arXiv 2406.02377](https://arxiv.org/abs/2406.02377)).\n\n"
        + " ".join(filter(None, [shape, origin]))
    )


def _data(dataset: Manifest | None) -> str:
    if dataset is None:
        return "Not recorded."
    rows = [
        f"| {what} | "
        + " | ".join(
            f"{dataset.metrics.get(f'num_{key}', {}).get(split, 0):,}"
            for split in ("train", "validation", "test")
        )
        + " |"
        for what, key in (("explained pairs", "explanations"), ("interactions", "interactions"))
    ]
    counts = ", ".join(f"{dataset.row_counts[name]:,} {name}" for name in ("users", "items"))
    kind = dataset.config.get("source", {}).get("kind", "unknown")
    table = "\n".join(["| | train | validation | test |", "|---|---|---|---|", *rows])
    return f"{counts}; source `{kind}`, dataset fingerprint `{dataset.fingerprint}`.\n\n{table}"


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = [
        f"| {label} | {_short(metrics[name])} |"
        for name, label in _TRAINING_METRICS.items()
        if name in metrics
    ]
    table = "\n".join(["| | |", "|---|---|", *rows]) if rows else "Not recorded."
    return f"{table}\n\nOwn vector against another user's: see Evaluation below, if it is there; else measure it by `xrec evaluate`."


def _usage(config: AdapterConfig) -> str:
    return f"""In Python, with [xrec](https://arxiv.org/abs/2406.02377) installed; the graph is a folder that holds the graph artifact:

```python
import torch

from xrec.adapter.artifact import TrainedAdapter
from xrec.graph import read_graph
from xrec.llm.prompt import PairTexts
from xrec.storage import open_location

adapter = TrainedAdapter.from_pretrained("path/to/adapter")  # a folder, s3:// or a hub id
model, tokenizer = adapter.load_base_model("{config.base_model}")
prompts = adapter.attach(model, tokenizer, read_graph(open_location("path/to/graph")))
prompt = prompts.build(0, 0, PairTexts(user_profile="Likes quiet places.", item_title="Luna", item_profile="A cafe with a garden."))
print(prompts.decode(model.generate(torch.tensor([prompt], device=model.device), max_new_tokens=60, do_sample=False)[0, len(prompt) :].tolist()))
```

In bulk: `xrec backfill CONFIG adapter=path/to/adapter`; one pair: `xrec explain CONFIG adapter=path/to/adapter --user ID --item ID`."""


def _licence(settings: CardConfig) -> str:
    if settings.license != "unknown":
        return f"`{settings.license}`. The base model and the data have licences of their own."
    return "Not stated. Who publishes the adapter chooses one that the licences of the base model and of the data allow (`card.license`)."


def _short(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if type(value) is int
        else str(value)
    )


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    return (
        f"{_short(metrics[f'{name}_low'])} to {_short(metrics[f'{name}_high'])}"
        if f"{name}_low" in metrics
        else ""
    )
