"""Injection against a Llama written out by hand, from the same weights: no attention code of transformers in it."""

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from tests.toy import HIDDEN_SIZE, NUM_HEADS, NUM_USERS, attach_toy, toy_model
from xrec.config import Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.injection import fold_heads, install_injection

V, HEAD_DIM = 64, HIDDEN_SIZE // NUM_HEADS
PROMPT = torch.tensor([[5, V + 3, 9, 9, V + NUM_USERS + 6, 17, 4], [V, 1, 2, V + NUM_USERS, V + NUM_USERS, 60, 61]])
RULES: list[Injection] = ["direct", "projected", "none"]


def by_hand(model: LlamaForCausalLM, embeds: Tensor, injected: Tensor, rule: Injection) -> Tensor:
    """Logits of `embeds` (B, S, H), with `injected` (B, S, H) added to q, k and v as the rule's equation says."""
    hidden, length = embeds, embeds.shape[1]
    causal = torch.ones(length, length).tril().bool()
    for layer in model.model.layers:
        h = rms_norm(hidden, layer.input_layernorm)
        q, k, v = (h @ getattr(layer.self_attn, f"{name}_proj").weight.T for name in "qkv")
        if rule == "projected":
            q, k, v = (x + injected @ getattr(layer.self_attn, f"{name}_proj").weight.T for x, name in zip((q, k, v), "qkv", strict=True))
        q, k, v = heads(q), heads(k), heads(v)
        group = NUM_HEADS // k.shape[1]
        if rule == "direct":
            a = heads(injected)
            q = q + a
            folded = torch.stack([a[:, first : first + group].mean(1) for first in range(0, NUM_HEADS, group)], dim=1)
            k, v = k + folded, v + folded
        q, k = rotary(q), rotary(k)
        attended = []
        for head in range(NUM_HEADS):
            scores = q[:, head] @ k[:, head // group].transpose(1, 2) / HEAD_DIM**0.5
            attended.append(scores.masked_fill(~causal, -torch.inf).softmax(-1) @ v[:, head // group])
        hidden = hidden + torch.cat(attended, -1) @ layer.self_attn.o_proj.weight.T
        h = rms_norm(hidden, layer.post_attention_layernorm)
        gate, up = h @ layer.mlp.gate_proj.weight.T, h @ layer.mlp.up_proj.weight.T
        hidden = hidden + (gate * torch.sigmoid(gate) * up) @ layer.mlp.down_proj.weight.T
    return rms_norm(hidden, model.model.norm) @ model.lm_head.weight.T


def heads(x: Tensor) -> Tensor:
    """(B, S, heads * HEAD_DIM) to (B, heads, S, HEAD_DIM)."""
    return torch.stack(x.split(HEAD_DIM, dim=-1), dim=1)


def rotary(x: Tensor) -> Tensor:
    """Rotary embedding (arXiv 2104.09864) of (B, heads, S, HEAD_DIM), as complex numbers: first half real, second half imaginary."""
    half = HEAD_DIM // 2
    frequencies = 10_000.0 ** -(torch.arange(half) / half)
    angles = torch.arange(x.shape[2])[:, None] * frequencies
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def rms_norm(x: Tensor, norm: nn.Module) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight


@pytest.mark.parametrize("num_key_value_heads", [4, 2, 1])
@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_injection_equals_attention_written_by_hand(rule: Injection, num_key_value_heads: int) -> None:
    model = toy_model(num_key_value_heads)
    embedding = attach_toy(model, rule)
    embeds = embedding(PROMPT)
    injected = torch.where((PROMPT >= V)[..., None], embeds, 0.0)
    expected = by_hand(model, embeds, injected, rule)
    torch.testing.assert_close(model(PROMPT).logits, expected, rtol=1e-5, atol=1e-5)
    if rule != "none":
        assert (expected - by_hand(model, embeds, injected, "none")).abs().max() > 0.1  # the rule matters here


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_injection_leaves_text_bit_equal_after_a_collaborative_prompt(rule: Injection) -> None:
    text = torch.tensor([[1, 2, 3, 63]])
    expected = toy_model()(text).logits
    model = toy_model()
    attach_toy(model, rule)
    model(PROMPT)
    assert torch.equal(model(text).logits, expected)


@pytest.mark.parametrize("rule", ["direct", "projected"])
@torch.no_grad()
def test_injection_handles_remove_all_of_it(rule: Injection) -> None:
    model = toy_model()
    embedding = attach_toy(model, "none")
    expected = model(PROMPT).logits
    handles = install_injection(model, embedding, rule)
    assert not torch.allclose(model(PROMPT).logits, expected)
    for handle in handles:
        handle.remove()
    assert torch.equal(model(PROMPT).logits, expected)


def test_fold_heads_averages_the_query_heads_of_each_group() -> None:
    vectors = torch.tensor([1.0, 10.0, 3.0, 30.0, 5.0, 50.0, 9.0, 90.0])  # 4 query heads of width 2
    assert fold_heads(vectors, num_key_value_heads=2, head_dim=2).tolist() == [2.0, 20.0, 7.0, 70.0]
    assert torch.equal(fold_heads(vectors, num_key_value_heads=4, head_dim=2), vectors)


def test_injection_without_self_attn_raises_model_error_naming_it() -> None:
    model = toy_model()
    del model.model.layers[1].self_attn
    with pytest.raises(ModelError, match=r"LlamaForCausalLM: layers \[1\] have no `self_attn`"):
        attach_toy(model, "projected")


def test_injection_without_layers_raises_model_error_naming_them() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=HIDDEN_SIZE, n_layer=1, n_head=NUM_HEADS))
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel: its decoder has no `layers`"):
        attach_toy(model, "projected")


def test_injection_direct_with_q_wider_than_hidden_raises_model_error() -> None:
    config = GemmaConfig(
        vocab_size=V, hidden_size=HIDDEN_SIZE, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1, head_dim=16
    )
    with pytest.raises(ModelError, match=r"GemmaForCausalLM: q is 64 wide, h 32"):
        attach_toy(GemmaForCausalLM(config), "direct")


def test_injection_direct_with_fused_projection_raises_model_error_naming_q_k_and_v() -> None:
    config = Phi3Config(
        vocab_size=V, hidden_size=HIDDEN_SIZE, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0, eos_token_id=2
    )
    with pytest.raises(ModelError, match="q_proj, k_proj, v_proj"):
        attach_toy(Phi3ForCausalLM(config), "direct")


def test_attach_to_model_without_embedding_table_raises_model_error() -> None:
    model = toy_model()
    model.set_input_embeddings(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
    with pytest.raises(ModelError, match=r"its input embedding is a Linear, expected nn\.Embedding"):
        attach_toy(model, "none")


def test_embedding_of_the_model_is_the_collaborative_one() -> None:
    model = toy_model()
    embedding = attach_toy(model, "projected")
    assert isinstance(model.get_input_embeddings(), CollaborativeEmbedding)
    assert model.get_input_embeddings() is embedding
