"""The frozen model with 8-bit weights: its outputs and gradients, and what is refused."""

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.toy import attach_toy, save_toy_model
from xrec.config.adapter import Injection
from xrec.errors import ModelError
from xrec.llm.model import check_quantization, load_model

CPU = torch.device("cpu")
HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(
    not HAS_BITSANDBYTES, reason="bitsandbytes (the extra int8) is not installed"
)


def test_quantization_without_its_library_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_quantization(None)
    for refused in (
        lambda: check_quantization("int8"),
        lambda: load_model(tmp_path, dtype=torch.float32, device=CPU, quantization="int8"),
    ):
        with pytest.raises(ModelError, match=r"pip install 'xrec\[int8\]'"):
            refused()


def test_quantization_on_a_gpu_without_8_bit_products_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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
    dtype: torch.dtype, rule: Injection, tmp_path: Path
) -> None:
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
