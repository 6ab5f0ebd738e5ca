"""Low-rank weights against the formula, written out, and against peft's own way to load them."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import LlamaForCausalLM

from tests.toy import HIDDEN_SIZE, save_toy_model, toy_model
from xrec.config.lora import LoraConfig
from xrec.errors import ModelError
from xrec.lab.compare.lora.weights import (
    WEIGHTS,
    add_lora,
    lora_files,
    merged,
    set_weights,
    trained_weights,
    weights_of,
)

peft = pytest.importorskip("peft", reason="the extra compare is not installed")
CONFIG = LoraConfig(rank=3, alpha=6.0)
IDS = torch.tensor([[5, 9, 3, 17]])


def trained(seed: int = 0) -> LlamaForCausalLM:
    """A toy model with low-rank weights that are not zeros any more."""
    model = add_lora(toy_model(), CONFIG)
    generator = torch.Generator().manual_seed(seed)
    for weight in trained_weights(model).values():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return model


def test_new_weights_leave_the_model_as_it_is_and_alone_can_be_trained() -> None:
    model, frozen = add_lora(toy_model(), CONFIG), toy_model()
    assert torch.equal(model(IDS).logits, frozen(IDS).logits)
    assert all(".lora_" in name for name in trained_weights(model))
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(weight.numel() for weight in trained_weights(model).values()) == 2 * 3 * sizes


def test_layer_adds_the_scaled_product_of_both_weights() -> None:
    model = trained()
    layer = model.model.layers[1].self_attn.v_proj
    x = torch.randn(2, HIDDEN_SIZE)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + (6.0 / 3) * (x @ a.T) @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_merged_model_is_an_ordinary_one_with_the_same_logits() -> None:
    model = trained()
    data = lora_files(CONFIG, weights_of(model))[WEIGHTS]
    plain = merged(toy_model(), CONFIG, data)
    assert torch.allclose(plain(IDS).logits, model(IDS).logits, atol=1e-4)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module).__name__ for module in plain.modules()} == {
        type(module).__name__ for module in toy_model().modules()
    }
    assert not trained_weights(plain)


def test_folder_is_one_that_peft_loads(tmp_path: Path) -> None:
    model = trained()
    for name, data in lora_files(CONFIG, weights_of(model)).items():
        (tmp_path / name).write_bytes(data)
    loaded = peft.PeftModel.from_pretrained(toy_model(), str(tmp_path))
    assert torch.allclose(loaded(IDS).logits, model(IDS).logits, atol=1e-5)


def test_weights_are_set_again() -> None:
    first, second = trained(1), trained(2)
    set_weights(second, weights_of(first))
    assert torch.equal(first(IDS).logits, second(IDS).logits)


def test_first_weights_follow_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_lora(toy_model(), CONFIG.model_copy(update={"seed": seed}))
        return next(iter(weights_of(model).values()))

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_weights_of_a_bfloat16_model_are_float32() -> None:
    model = add_lora(toy_model().to(torch.bfloat16), CONFIG)
    assert {weight.dtype for weight in trained_weights(model).values()} == {torch.float32}
    assert model(IDS).logits.dtype == torch.bfloat16


def test_layers_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelError, match="no layers named c_attn"):
        add_lora(toy_model(), LoraConfig(target_modules=("q_proj", "c_attn")))


def test_file_holds_what_was_trained(tmp_path: Path) -> None:
    save_toy_model(tmp_path)
    weights = weights_of(trained())
    read = safetensors.torch.load(lora_files(CONFIG, weights)[WEIGHTS])
    assert set(read) == set(weights)
    assert all(torch.equal(read[name], weights[name]) for name in weights)
