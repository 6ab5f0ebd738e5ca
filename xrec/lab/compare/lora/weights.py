"""Low-rank weights of a language model: added to its layers, taken out, put back, merged.

For a frozen weight W (out x in) a layer computes x W^T + (alpha / rank) x A^T B^T, with A (rank x
in) and B (out x rank); B begins as zeros, so that training begins at the frozen model (arXiv
2106.09685). The folder of the artifact is one of peft: `PeftModel.from_pretrained` reads it.
"""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel

from xrec.config.lora import LoraConfig
from xrec.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of the names in a folder of peft


def add_lora(model: PreTrainedModel, config: LoraConfig) -> PreTrainedModel:
    """Add low-rank weights to `model`, in place, and return it; they alone can be trained.

    They are float32, and drawn by `config.seed`. Raises ModelError if the model has no layer of one
    of the names in `target_modules`.
    """
    from peft import inject_adapter_in_model

    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if missing := sorted(set(config.target_modules) - names):
        raise ModelError(
            f"lora.target_modules: {type(model).__name__} has no layers named "
            f"{', '.join(missing)}; give names of its linear layers"
        )
    torch.manual_seed(config.seed)
    changed: PreTrainedModel = inject_adapter_in_model(_peft_config(config), model)
    for weight in trained_weights(changed).values():
        weight.data = weight.data.float()
    return changed


def trained_weights(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The low-rank weights by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    """The low-rank weights as a folder of peft names them, float32 on the CPU."""
    return {
        _file_name(name): weight.detach().float().cpu().contiguous()
        for name, weight in trained_weights(model).items()
    }


def set_weights(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> None:
    """Set what `weights_of` returned; raises KeyError if one is missing."""
    for name, weight in trained_weights(model).items():
        weight.data.copy_(weights[_file_name(name)])


def lora_files(config: LoraConfig, weights: Mapping[str, Tensor]) -> dict[str, bytes]:
    """The files of a folder of peft, of what `weights_of` returned."""
    settings: dict[str, Any] = _peft_config(config).to_dict()
    settings["target_modules"] = sorted(config.target_modules)
    return {
        CONFIG: json.dumps(settings, indent=2, sort_keys=True, default=str).encode(),
        WEIGHTS: safetensors.torch.save(dict(weights)),
    }


def merged(model: PreTrainedModel, config: LoraConfig, data: bytes) -> PreTrainedModel:
    """`model` with the low-rank weights of the file `data` added to its own, in place.

    The sums are rounded to the model's dtype.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    changed = add_lora(model, config)
    set_weights(changed, safetensors.torch.load(data))
    layers = {
        name: module
        for name, module in changed.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    for name, layer in layers.items():
        layer.merge()
        parent, _, own_name = name.rpartition(".")
        setattr(changed.get_submodule(parent), own_name, layer.get_base_layer())
    return changed.requires_grad_(False).eval()


def _file_name(name: str) -> str:
    """A parameter's name in a folder of peft: without the name of the adapter, "default"."""
    return _PREFIX + name.replace(".default.", ".")


def _peft_config(config: LoraConfig) -> Any:
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
    )
