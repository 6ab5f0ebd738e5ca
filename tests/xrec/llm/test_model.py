"""A loaded model has the logits of the saved one; of an image model the text decoder is loaded."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.decoders import FAMILIES, tiny_decoder, tiny_image_model
from tests.toy import HIDDEN_SIZE, NUM_USERS, attach_toy
from xrec.errors import ModelError
from xrec.llm.model import load_model, read_text_config

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
    family: str, tmp_path: Path
) -> None:
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


def test_load_model_gemma2_without_its_kernel_raises_model_error_naming_the_one_it_has(
    tmp_path: Path,
) -> None:
    tiny_decoder("gemma2").save_pretrained(tmp_path)
    with pytest.raises(
        ModelError,
        match=r"with llm\.attn_implementation=sdpa: Gemma2ForCausalLM does not support"
        r".*attn_implementation=\"eager\"",
    ):
        load(tmp_path, "sdpa")


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
def test_load_model_of_text_and_images_gives_the_text_decoder(
    renamed: dict[str, str], tmp_path: Path
) -> None:
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


def test_load_model_with_a_weight_missing_raises_model_error_naming_it(tmp_path: Path) -> None:
    tiny_decoder("qwen3").save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.self_attn.q_norm.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError,
        match=r"the files lack 1 weights of a Qwen3ForCausalLM, "
        r"the first is model\.layers\.1\.self_attn\.q_norm\.weight",
    ):
        load(tmp_path)
