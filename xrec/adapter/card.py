"""The model card of an adapter, README.md: front matter for the Hugging Face hub, then the text.

The card holds names, counts and fingerprints. It holds no path of the machine that trained the
adapter, no URI and no row of the data.
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
    "validation_loss": "validation loss, nats a token",
    "train_loss": "training loss of that epoch, nats a token",
    "epoch": "epoch that was kept",
    "num_train_pairs": "training pairs used",
}


def model_card(
    config: AdapterConfig,
    *,
    origin: str = "",
    dataset: Manifest | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> str:
    """The card as Markdown.

    `dataset` is the manifest of the training data and `metrics` are those of training; of what is
    not given the card says that it is not recorded. `origin` is a sentence on how the weights were
    made.
    """
    body = f"""# xrec adapter

{_summary(config, origin)}

## Training

{_data(dataset)}

{_metrics(metrics or {})}

## Base model and graph

It works with these only, which are not included; xrec compares fingerprints and refuses others.

- Base model `{config.base_model}`, fingerprint `{config.base_model_fingerprint}`.
- Graph of fingerprint `{config.graph_fingerprint}`.

## How to use

{_usage(config)}

## Licence

Not stated. Whoever publishes the adapter must choose a licence that the licences of the base model
and of the data allow, and give it in the front matter."""
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
        "one for items, turn the vectors of a graph of who interacted with what into tokens of a "
        "frozen language model (XRec, [arXiv 2406.02377](https://arxiv.org/abs/2406.02377)). Each "
        f"has {model.num_experts} experts, from {config.embedding_dim} to {config.hidden_size} "
        f"numbers; tokens of each user and item: {model.num_tokens}; injection "
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
    return f"""In Python, with xrec installed; the graph is a folder that holds the graph artifact:

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
