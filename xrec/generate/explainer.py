"""Pairs in, explanations out: dataset, graph, adapter and language model put together around an engine."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from xrec.adapter.artifact import read_adapter
from xrec.adapter.model import attach_adapters
from xrec.adapter.pairs import PairPrompts
from xrec.config import DecodingConfig, Device, LLMConfig, StorageConfig
from xrec.data.dataset import Dataset, read_dataset
from xrec.errors import ArtifactMismatchError
from xrec.generate.engine import Engine, FinishReason
from xrec.generate.transformers_engine import TransformersEngine
from xrec.graph.artifact import GraphEmbeddings, read_graph
from xrec.llm.model import load_model, load_tokenizer, resolve_device, resolve_dtype, stop_token_ids
from xrec.llm.prompt import PromptBuilder
from xrec.llm.source import model_fingerprint, resolve_model
from xrec.storage import fingerprint_of, open_location, read_manifest


@dataclass(frozen=True)
class Explanation:
    """The generated text of the pair at `index`."""

    index: int
    text: str
    num_prompt_tokens: int
    num_generated_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Sources:
    """What an explainer is made from; everything in it can be sent to another process."""

    dataset: str
    graph: str
    adapter: str
    llm: LLMConfig
    storage: StorageConfig


class Explainer:
    """Explains pairs of one dataset with one model. `model_fingerprint` identifies language model, adapter and graph together."""

    def __init__(self, model: PreTrainedModel, engine: Engine, pairs: PairPrompts, dataset: Dataset, graph: GraphEmbeddings, model_fingerprint: str):
        self.model = model
        self.engine = engine
        self.pairs = pairs
        self.dataset = dataset
        self.graph = graph
        self.model_fingerprint = model_fingerprint

    def explain(self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig) -> Iterator[Explanation]:
        """Yield the explanation of each prompt (`self.pairs.prompt`), as they finish."""
        for completion in self.engine.generate(prompts, decoding):
            yield Explanation(
                index=completion.index,
                text=self.pairs.builder.decode(completion.token_ids),
                num_prompt_tokens=len(prompts[completion.index]),
                num_generated_tokens=len(completion.token_ids),
                finish_reason=completion.finish_reason,
            )


def check_sources(sources: Sources) -> str:
    """Check that dataset, graph, adapter and language model belong together, without loading weights.

    Returns the model fingerprint (language model, adapter and graph). Raises ArtifactNotFoundError, ArtifactMismatchError,
    ModelError.
    """
    dataset = read_manifest(open_location(sources.dataset, sources.storage), "dataset")
    graph = read_manifest(open_location(sources.graph, sources.storage), "graph")
    adapter = read_adapter(open_location(sources.adapter, sources.storage))
    if graph.inputs["dataset"] != dataset.fingerprint:
        raise ArtifactMismatchError(
            f"{sources.graph}: trained on dataset {graph.inputs['dataset']}, but {sources.dataset} is {dataset.fingerprint}; "
            "indices would not fit: train the graph again, or give its dataset"
        )
    adapter.check_graph(graph.fingerprint)
    base_model = model_fingerprint(resolve_model(sources.llm.model, sources.llm.cache_dir, sources.storage))
    adapter.check_base_model(base_model, sources.llm.model)
    return fingerprint_of([base_model, adapter.manifest.fingerprint, graph.fingerprint])


def load_explainer(sources: Sources, *, device: Device, batch_size: int) -> Explainer:
    """Load everything into this process; raises what `check_sources` raises, and ModelError."""
    fingerprint = check_sources(sources)
    dataset = read_dataset(open_location(sources.dataset, sources.storage))
    graph = read_graph(open_location(sources.graph, sources.storage))
    adapters = read_adapter(open_location(sources.adapter, sources.storage))
    folder = resolve_model(sources.llm.model, sources.llm.cache_dir, sources.storage)
    torch_device = resolve_device(device)
    model = load_model(
        folder,
        dtype=resolve_dtype(sources.llm.dtype, torch_device),
        device=torch_device,
        attn_implementation=sources.llm.attn_implementation,
    )
    embedding = attach_adapters(model, adapters.adapters, user_vectors=graph.users, item_vectors=graph.items)
    model.eval().to(torch_device)
    tokenizer = load_tokenizer(folder)
    engine = TransformersEngine(model, stop_token_ids(model, tokenizer), batch_size)
    builder = PromptBuilder(tokenizer, adapters.config.prompt, embedding.vocabulary)
    return Explainer(model, engine, PairPrompts(dataset, builder), dataset, graph, fingerprint)
