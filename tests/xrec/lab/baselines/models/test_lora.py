"""Low-rank weights against the formula, written out; what is trained; the merged model."""

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.toy import HIDDEN_SIZE, explanation_nll, toy_model
from xrec.config.baselines import LoRAConfig
from xrec.errors import ModelError
from xrec.lab.baselines.models.lora import LoRA
from xrec.lab.baselines.prompts import collate_prompts
from xrec.llm.examples import Example

pytest.importorskip("peft", reason="the extra compare is not installed")
CONFIG = LoRAConfig(rank=3, alpha=6.0)
IDS = torch.tensor([[5, 9, 3, 17]])


def trained(seed: int = 0, model: LlamaForCausalLM | None = None) -> LoRA:
    """A toy model with low-rank weights that are not zeros any more."""
    made = LoRA(CONFIG, model or toy_model())
    generator = torch.Generator().manual_seed(seed)
    for weight in made.parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    return made


def test_new_weights_leave_the_model_as_it_is_and_alone_are_trained() -> None:
    model, frozen = LoRA(CONFIG, toy_model().to(torch.bfloat16)), toy_model().to(torch.bfloat16)
    assert torch.equal(model.language_model(IDS).logits, frozen(IDS).logits)
    new = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert all(".lora_" in name for name in new)
    assert {each.dtype for each in new.values()} == {torch.float32}
    # q and o: 32 -> 32; k and v: 32 -> 16, with 2 of 4 heads. Two layers.
    sizes = 2 * (HIDDEN_SIZE + HIDDEN_SIZE) + 2 * (HIDDEN_SIZE + HIDDEN_SIZE // 2)
    assert sum(each.numel() for each in new.values()) == 2 * 3 * sizes


def test_layer_adds_the_scaled_product_of_both_weights() -> None:
    layer = trained().language_model.model.layers[1].self_attn.v_proj
    x = torch.randn(2, HIDDEN_SIZE)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + (6.0 / 3) * (x @ a.T) @ b.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_merged_model_is_an_ordinary_one_with_the_same_logits() -> None:
    expected = trained().language_model(IDS).logits
    plain = trained().merged()
    assert torch.allclose(plain(IDS).logits, expected, atol=1e-4)
    assert not torch.allclose(plain(IDS).logits, toy_model()(IDS).logits, atol=1e-1)
    assert {type(module) for module in plain.modules()} == {
        type(module) for module in toy_model().modules()
    }
    assert not any(each.requires_grad for each in plain.parameters())


def test_loss_is_the_nll_of_the_explanations_after_their_prompts() -> None:
    model = trained()
    examples = [Example([5, 9, 3], [17, 4, 2]), Example([7], [8, 2])]
    batch = collate_prompts(examples)
    assert batch.counts.tolist() == [5, 0, 0]
    means = dict(explanation_nll(model.language_model, examples, 1))
    assert model(batch).tolist() == pytest.approx([3 * means[0] + 2 * means[1], 0, 0], rel=1e-4)


def test_layers_that_are_not_there_are_named() -> None:
    with pytest.raises(ModelError, match="no layers named c_attn"):
        LoRA(LoRAConfig(target_modules=("q_proj", "c_attn")), toy_model())
