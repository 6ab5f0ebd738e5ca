"""A small Llama with users and items for the tests; vLLM's kernels need its heads of width 32."""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.toy import EMBEDDING_DIM, NUM_ITEMS, NUM_USERS, toy_tokenizer, toy_vectors
from xrec.adapter.artifact import AdapterConfig, TrainedAdapter
from xrec.adapter.model import attach_adapters, build_adapters
from xrec.config.adapter import AdapterModelConfig, Injection
from xrec.config.llm import PromptConfig
from xrec.graph.artifact import GraphEmbeddings, embeddings_bytes, write_graph
from xrec.storage import open_location

V, H = len(toy_tokenizer()), 128


def make_llama() -> LlamaForCausalLM:
    """A Llama with grouped-query attention and weights so large that no two logits are close."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=H,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=toy_tokenizer().eos_token_id,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def make_graph(folder: Path) -> GraphEmbeddings:
    """A graph artifact with 5 users and 7 items."""
    users, items = toy_vectors()
    manifest = write_graph(
        open_location(str(folder)),
        embeddings_bytes(users, items),
        [],
        config={},
        inputs={"dataset": "none"},
        metrics={},
    )
    return GraphEmbeddings(users, items, manifest)


def make_adapter(injection: Injection, graph: GraphEmbeddings) -> TrainedAdapter:
    """Adapters of 3 experts, all their parameters random."""
    torch.manual_seed(1)
    model = AdapterModelConfig(num_experts=3, injection=injection)
    adapters = build_adapters(model, embedding_dim=EMBEDDING_DIM, hidden_size=H)
    for part in (adapters.user.eval(), adapters.item.eval()):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    config = AdapterConfig(
        embedding_dim=EMBEDDING_DIM,
        hidden_size=H,
        model=model,
        prompt=PromptConfig(),
        base_model="toy",
        base_model_fingerprint="toy",
        graph_fingerprint=graph.manifest.fingerprint,
    )
    return TrainedAdapter(adapters, config)


def make_prompts() -> list[list[int]]:
    """Prompts of 3 to 150 tokens.

    One is text only, three of each user share all but their end, and some end with their item.
    """
    rng = random.Random(0)
    prompts = [[7, 8, 9]]
    for user in range(NUM_USERS):
        shared = [*_text(rng, rng.choice([10, 70])), V + user, *_text(rng, rng.randint(2, 40))]
        prompts += [
            [*shared, V + NUM_USERS + item, *_text(rng, rng.randint(1, 30))]
            for item in rng.sample(range(NUM_ITEMS), 3)
        ]
    shared = [5] * 64
    return [*prompts, *([*shared, V + NUM_USERS + item] for item in range(NUM_ITEMS))]


@torch.no_grad()
def greedy_by_hand(
    model: LlamaForCausalLM, prompt: Sequence[int], num_new: int, stop_token_ids: Sequence[int]
) -> list[int]:
    """Greedy tokens of one prompt; each step computes the whole sequence, without a cache."""
    generated: list[int] = []
    while len(generated) < num_new:
        token = int(
            model(torch.tensor([[*prompt, *generated]]), use_cache=False).logits[0, -1].argmax()
        )
        if token in stop_token_ids:
            break
        generated.append(token)
    return generated


def attached(
    model: LlamaForCausalLM, adapter: TrainedAdapter, graph: GraphEmbeddings
) -> LlamaForCausalLM:
    """`model` with collaborative tokens, run by transformers."""
    attach_adapters(model, adapter.adapters, user_vectors=graph.users, item_vectors=graph.items)
    return model


def _text(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, V) for _ in range(length)]
