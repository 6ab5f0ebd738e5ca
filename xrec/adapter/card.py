"""The model card of an adapter, README.md: front matter for the Hugging Face hub, then the text.

The card has names, counts, and fingerprints, but no paths, URIs, or rows of data.
"""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from xrec.adapter.config import AdapterConfig
from xrec.llm.source import is_hub_id
from xrec.llm.title_placeholder import TITLE
from xrec.storage import Manifest

TRAINED = "Trained by `xrec train-adapter`."
_METRICS = {
    "validation_loss": "validation loss, nats per token",
    "train_loss": "training loss of that epoch, nats per token",
    "epoch": "best epoch",
    "num_train_pairs": "training pairs",
}


def model_card(
    config: AdapterConfig,
    *,
    origin: str = "",
    dataset: Manifest | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown.

    `dataset` is the manifest of the training data, `metrics` are those of training, and `origin` is
    a sentence on how the weights were made. Missing parts are marked as not recorded.
    """
    body = f"""# xrec adapter

{_summary(config, origin)}

## Training

{_data(dataset)}

{_metrics(metrics or {})}

## Base model and graph

The adapter only works with these, which are not included. xrec compares fingerprints.

- Base model `{config.base_model}`, fingerprint `{config.base_model_fingerprint}`.
- Graph of fingerprint `{config.graph_fingerprint}`.

## How to use

{_usage(config)}

## License

Not stated. Whoever publishes the adapter must choose a license that those of the base model and the
data allow, and name it in the front matter."""
    return f"---\n{_front_matter(config).to_yaml()}\n---\n\n{body}\n"


def _front_matter(config: AdapterConfig) -> ModelCardData:
    is_on_hub = is_hub_id(config.base_model)
    return ModelCardData(
        license="unknown",
        library_name="xrec",
        pipeline_tag="text-generation",
        base_model=config.base_model if is_on_hub else None,
        base_model_relation="adapter" if is_on_hub else None,
        tags=["xrec", "adapter", "recommendation", "explainable-recommendation"],
    )


def _summary(config: AdapterConfig, origin: str) -> str:
    model = config.model
    return (
        "Writes why a user would like an item. Two mixtures of linear experts, one for users and "
        "one for items, map the vectors of an interaction graph to tokens of a frozen language "
        "model (XRec, [arXiv 2406.02377](https://arxiv.org/abs/2406.02377)). Each has "
        f"{model.num_experts} experts, from {config.embedding_dim} to {config.hidden_size} "
        f"dimensions; tokens per user and item: {model.num_tokens}; injection "
        f"`{model.injection}`. {origin}"
    ).rstrip()


def _data(dataset: Manifest | None) -> str:
    if dataset is None:
        return "Data: not recorded."
    counts = ", ".join(f"{dataset.row_counts[name]:,} {name}" for name in ("users", "items"))
    kind = dataset.config.get("source", {}).get("kind", "unknown")
    return f"Data: {counts}; source `{kind}`, dataset fingerprint `{dataset.fingerprint}`."


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = [
        f"- {label}: {metrics[name]:.4g}"
        if isinstance(metrics[name], float)
        else f"- {label}: {metrics[name]:,}"
        for name, label in _METRICS.items()
        if name in metrics
    ]
    return "\n".join(rows) or "Metrics: not recorded."


def _usage(config: AdapterConfig) -> str:
    revision = config.base_model_revision
    base_model = f'"{config.base_model}"' + (f', revision="{revision}"' if revision else "")
    return f"""In Python, with xrec installed:

```python
import torch

from xrec.adapter.artifact import TrainedAdapter
from xrec.graph.artifact import read_graph
from xrec.llm.prompt import PairTexts
from xrec.storage import open_location

adapter = TrainedAdapter.from_pretrained("path/to/adapter")  # a folder, s3:// or a hub id
model, tokenizer = adapter.load_base_model({base_model})
prompts = adapter.attach(model, tokenizer, read_graph(open_location("path/to/graph")))
texts = PairTexts(
    user_profile="Likes quiet places.", item_title="Luna", item_profile="A cafe with a garden."
)
prompt = prompts.build(0, 0, texts)
input_ids = torch.tensor([prompt], device=model.device)
output = model.generate(input_ids, max_new_tokens=60, do_sample=False)
text = prompts.decode(output[0, len(prompt) :].tolist())
print(prompts.placeholder.fill(text, texts.item_title))  # the model writes {TITLE}
```

In bulk: `xrec backfill CONFIG adapter=path/to/adapter`. One pair:
`xrec explain CONFIG adapter=path/to/adapter --user ID --item ID`."""
