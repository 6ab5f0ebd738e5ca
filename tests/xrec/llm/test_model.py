"""A loaded model has the logits of the saved one; of an image model the text decoder is loaded.

With 8-bit weights it gives nearly the same outputs and gradients.
"""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch

from tests.world.models import (
    FAMILIES,
    HIDDEN_SIZE,
    NUM_USERS,
    attach_toy,
    save_toy_model,
    tiny_decoder,
    tiny_image_model,
)
from xrec.errors import ModelError
from xrec.llm.model import check_quantization, load_model, read_text_config, resolve_dtype

V = 64
PROMPT = torch.tensor([[5, V + 3, 9, 9, V + NUM_USERS + 6, 17, 4]])


def load(folder: Path, attn_implementation: str = "eager") -> torch.nn.Module:
    return load_model(
        folder,
        dtype=torch.float32,
        device=torch.device("cpu"),
        attn_implementation=attn_implementation,
    )


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_load_model_of_each_family_gives_the_saved_logits_with_and_without_adapters(
    family, tmp_path
):
    model = tiny_decoder(family)
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is type(model)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(
        loaded(PROMPT.clamp_max(V - 1)).logits, model(PROMPT.clamp_max(V - 1)).logits
    )
    attach_toy(model, "projected")
    attach_toy(loaded, "projected")
    assert torch.equal(loaded(PROMPT).logits, model(PROMPT).logits)


def rename_weights(folder: Path, renamed: dict[str, str]) -> None:
    """Write the folder's weights again with the beginnings of their names changed by `renamed`."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    for old, new in renamed.items():
        assert any(name.startswith(old) for name in weights)
        weights = {
            new + name.removeprefix(old) if name.startswith(old) else name: tensor
            for name, tensor in weights.items()
        }
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "renamed",
    [
        {},
        {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision_tower."},
    ],
)
@torch.no_grad()
def test_load_model_of_text_and_images_gives_the_text_decoder(renamed, tmp_path):
    model = tiny_image_model()
    model.save_pretrained(tmp_path)
    rename_weights(tmp_path, renamed)  # models on the hub use both ways of naming
    text = torch.tensor([[1, 2, 3, 4, 5, 6]])
    expected = model(text).logits
    loaded = load(tmp_path)
    torch.testing.assert_close(loaded(text).logits, expected)
    assert not any("vision" in name for name, _ in loaded.named_parameters())
    config = read_text_config(tmp_path)
    assert (config.vocab_size, config.hidden_size) == (V, HIDDEN_SIZE)
    attach_toy(loaded, "direct")
    attach_toy(model, "direct")
    torch.testing.assert_close(loaded(PROMPT).logits, model(PROMPT).logits)


def without_a_weight(folder: Path) -> None:
    tiny_decoder("qwen3").save_pretrained(folder)
    rename_weights(folder, {"model.layers.1.self_attn.q_norm.": "other."})


def without_weights(folder: Path) -> None:
    tiny_decoder("qwen3").save_pretrained(folder)
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("save", "attention", "message"),
    [
        (
            without_a_weight,
            "eager",
            r"lack 1 weights of a Qwen3ForCausalLM, the first is model\.layers\.1\.self_attn\.q_n",
        ),
        (without_weights, "eager", "the language model cannot be loaded"),
        (
            lambda folder: tiny_decoder("gemma2").save_pretrained(folder),
            "sdpa",
            r"with llm\.attn_implementation=sdpa: sdpa has no cap on scores as gemma2; set eager",
        ),
    ],
)
def test_load_model_that_cannot_be_loaded_is_refused(save, attention, message, tmp_path):
    save(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path, attention)


# 8 bits

CPU = torch.device("cpu")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the extra int8 is not installed"
)


@pytest.mark.parametrize(
    ("card", "capability", "dtype"),
    [
        ("T4", (7, 5), torch.float32),
        ("A100", (8, 0), torch.bfloat16),
    ],
)
def test_dtype_auto_is_bfloat16_where_the_card_has_it(card, capability, dtype, monkeypatch):
    properties = SimpleNamespace(name=card, major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    # An emulating card makes such a tensor.
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert resolve_dtype("auto", torch.device("cuda")) == dtype
    assert resolve_dtype("float16", torch.device("cuda")) == torch.float16
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32


def test_quantization_without_its_library_is_refused_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_quantization(None)
    with pytest.raises(ModelError, match=r"pip install 'bitsandbytes>=0\.50'"):
        load_model(tmp_path, dtype=torch.float32, device=CPU, quantization="int8")


def test_quantization_on_a_gpu_without_8_bit_products_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    save_toy_model(tmp_path)
    with pytest.raises(ModelError, match="a Tesla V100 has no matrix products of 8-bit"):
        load_model(
            tmp_path, dtype=torch.float16, device=torch.device("cuda", 0), quantization="int8"
        )


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", ["direct", "projected"])
def test_quantized_model_gives_nearly_the_outputs_and_gradients_of_the_whole_one(
    dtype, rule, tmp_path
):
    folder = save_toy_model(tmp_path)
    quantized = load_model(folder, dtype=dtype, device=CPU, quantization="int8")
    whole = load_model(folder, dtype=dtype, device=CPU)
    query = quantized.get_decoder().layers[0].self_attn.q_proj
    assert query.weight.dtype == torch.int8
    assert quantized.get_output_embeddings().weight.dtype == dtype
    assert not any(parameter.requires_grad for parameter in quantized.parameters())
    found = []
    for model in (quantized, whole):
        embedding = attach_toy(model, rule).to(dtype)
        vocabulary = embedding.vocabulary
        ids = [5, 6, *vocabulary.user_tokens(1), 7, *vocabulary.item_tokens(2), 9, 10]
        log_probabilities = model(torch.tensor([ids])).logits.float().log_softmax(-1)[0, -1]
        log_probabilities[11].backward()
        gradient = embedding.user_adapter.weight.grad.float().flatten()
        found.append((log_probabilities.detach(), gradient))
    (log_quantized, gradient_quantized), (log_whole, gradient_whole) = found
    assert not torch.equal(log_quantized, log_whole)
    assert torch.allclose(log_quantized.exp(), log_whole.exp(), atol=0.05)
    assert torch.cosine_similarity(gradient_quantized, gradient_whole, 0) > 0.95
