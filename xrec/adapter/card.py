"""The model card of an adapter, README.md: front matter for the Hugging Face hub, then the text.

The card holds names, counts and fingerprints. It holds no path of the machine that trained the
adapter, no URI and no row of the data.
"""

from collections.abc import Mapping
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
    "step": "optimizer steps up to that epoch",
    "num_train_pairs": "training pairs used",
}
_LIMITS = (
    "It works only with the base model and the graph named above. "
    "xrec compares fingerprints and refuses others.",
    "The texts are generated and may be wrong about the item or the user.",
    "How much the user's own vector changes the text differs between datasets. "
    "`xrec evaluate` measures it (personalization gain).",
)


def model_card(
    config: AdapterConfig,
    *,
    settings: CardConfig | None = None,
    origin: str = "",
    dataset: Manifest | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown.

    `dataset` is the manifest of the training data and `metrics` are those of training; the card
    says "Not recorded." for what is not given. `origin` is a sentence on how the weights were made.
    """
    settings, metrics = settings or CardConfig(), metrics or {}
    sections = {
        "": _summary(config, origin),
        "Data": _data(dataset),
        "Metrics": _metrics(metrics),
        "Base model": f"`{config.base_model}`, fingerprint `{config.base_model_fingerprint}`, "
        f"hidden size {config.hidden_size}; not included.",
        "Graph": f"Fingerprint `{config.graph_fingerprint}`, {config.embedding_dim} numbers for "
        "each user and item; not included. The adapter needs it.",
        "How to use": _usage(config),
        "Licence": _licence(settings),
        "Limits": "\n".join(f"- {limit}" for limit in _LIMITS),
    }
    body = "\n\n".join(
        f"## {title}\n\n{text}" if title else text for title, text in sections.items()
    )
    front = _front_matter(config, settings, dataset, metrics).to_yaml()
    return f"---\n{front}\n---\n\n# {settings.name}\n\n{body}\n"


def with_evaluation(card: str, evaluation: Manifest) -> str:
    """`card` with the metrics of an evaluation artifact, in the model-index and as a last section.

    Metrics of an earlier evaluation are replaced.
    """
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
    num_pairs = evaluation.row_counts["pairs"]
    introduction = f"By `xrec evaluate`, {num_pairs:,} pairs of the {split} split."
    table = "\n".join(["| metric | value | 95 % interval |", "|---|---|---|", *rows])
    body = parsed.text.split(_EVALUATION)[0].rstrip("\n")
    parsed.text = f"{body}\n{_EVALUATION}\n{introduction}\n\n{table}\n"
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
        library_name="xrec",
        pipeline_tag="text-generation",
        base_model=config.base_model if is_hub_id(config.base_model) else None,
        base_model_relation="adapter" if is_hub_id(config.base_model) else None,
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
            _result("loss", _TRAINING_METRICS["validation_loss"], loss, "validation", fingerprint)
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
    tokens = "one token" if model.num_tokens == 1 else f"{model.num_tokens} tokens"
    shape = (
        f"Each side has {model.num_experts} experts, from {config.embedding_dim} to "
        f"{config.hidden_size} numbers, and gives {tokens} for each user or item. "
        f"Injection is `{model.injection}`."
    )
    method = (
        "Writes why a user would like an item. Two mixtures of linear experts, one for users and "
        "one for items, turn vectors into tokens of a frozen language model. The vectors are those "
        "of a graph of who interacted with what "
        "(XRec, [arXiv 2406.02377](https://arxiv.org/abs/2406.02377))."
    )
    return method + "\n\n" + " ".join(filter(None, [shape, origin]))


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
    comparison = (
        "A section Evaluation below, if there is one, compares the user's own vector with another "
        "user's. If there is none, `xrec evaluate` makes the comparison."
    )
    return f"{table}\n\n{comparison}"


def _usage(config: AdapterConfig) -> str:
    placeholder = config.prompt.title_placeholder
    return f"""In Python, with xrec installed; the graph is a folder that holds the graph artifact:

```python
import torch

from xrec.adapter.artifact import TrainedAdapter
from xrec.graph import read_graph
from xrec.llm.prompt import PairTexts
from xrec.storage import open_location

adapter = TrainedAdapter.from_pretrained("path/to/adapter")  # a folder, s3:// or a hub id
model, tokenizer = adapter.load_base_model("{config.base_model}")
prompts = adapter.attach(model, tokenizer, read_graph(open_location("path/to/graph")))
texts = PairTexts(
    user_profile="Likes quiet places.", item_title="Luna", item_profile="A cafe with a garden."
)
prompt = prompts.build(0, 0, texts)
input_ids = torch.tensor([prompt], device=model.device)
output = model.generate(input_ids, max_new_tokens=60, do_sample=False)
text = prompts.decode(output[0, len(prompt) :].tolist())
print(prompts.placeholder.fill(text, texts.item_title))  # the model writes {placeholder}
```

In bulk: `xrec backfill CONFIG adapter=path/to/adapter`. One pair:
`xrec explain CONFIG adapter=path/to/adapter --user ID --item ID`."""


def _licence(settings: CardConfig) -> str:
    if settings.license != "unknown":
        return f"`{settings.license}`. The base model and the data have licences of their own."
    return (
        "Not stated. Whoever publishes the adapter must choose a licence that the licences of the "
        "base model and of the data allow (`card.license`)."
    )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value)


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    if f"{name}_low" not in metrics:
        return ""
    return f"{_short(metrics[f'{name}_low'])} to {_short(metrics[f'{name}_high'])}"
