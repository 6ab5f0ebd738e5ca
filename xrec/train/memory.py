"""How much memory a worker of the adapter's training needs, and the ZeRO stage that follows.

`worker_memory` adds the parts up from the language model's shape and the training's settings;
nothing is loaded. The parts are explained beside their formulas, and configs/llama2-7b.yaml works
them out for one model. All sizes are in bytes; people are shown GB of 1e9 or MB of 1e6 bytes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from xrec.config.adapter import AdapterModelConfig
from xrec.errors import ModelError

SHARE_OF_CPU_MEMORY = 0.8
"""Share of a node's memory that the workers may fill. The system and Ray take the rest."""

SHARE_OF_GPU_MEMORY = 0.95
"""Share of a GPU's memory that can be filled. The rest is lost between blocks of other sizes."""

GPU_CONTEXT_BYTES = 1_500_000_000
"""What CUDA, its libraries and NCCL take of a GPU before the first tensor."""

_NO_LIMIT = 2**60  # a control group without a limit reports a number of about 2^63


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a language model that its memory depends on.

    `query_size` is the width of all query heads together, and `key_value_size` that of all key
    heads. `num_linear_parameters` counts the weights of the layers' linear maps, which an 8-bit
    model holds in one byte each, and `largest_linear` is the largest of them.
    """

    num_parameters: int
    num_linear_parameters: int
    largest_linear: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    query_size: int
    key_value_size: int
    vocab_size: int
    has_query_norm: bool


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of `config` without memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config.get_text_config(decoder=True)
        )
    return model


def shape_of(model: PreTrainedModel) -> ModelShape:
    """Return the shape of `model`, which may be an `empty_model`."""
    config, layers = model.config, model.get_decoder().layers
    linear = [part.weight.numel() for part in layers.modules() if isinstance(part, nn.Linear)]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    num_key_value_heads = getattr(config, "num_key_value_heads", None)
    return ModelShape(
        num_parameters=model.num_parameters(),
        num_linear_parameters=sum(linear),
        largest_linear=max(linear),
        num_layers=len(layers),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        query_size=config.num_attention_heads * head_dim,
        key_value_size=(num_key_value_heads or config.num_attention_heads) * head_dim,
        vocab_size=config.vocab_size,
        has_query_norm=any(name.endswith("q_norm") for name, _ in layers.named_modules()),
    )


def num_trained_parameters(
    config: AdapterModelConfig, *, embedding_dim: int, hidden_size: int
) -> int:
    """Return the number of parameters of both adapters."""
    experts = embedding_dim * config.num_tokens * hidden_size + embedding_dim
    return 2 * config.num_experts * (experts + 2 * embedding_dim)


@dataclass(frozen=True)
class Load:
    """What goes through the model and what is kept beside it.

    `longest_row` counts the tokens of a prompt and its explanation. `longest_rest` is the part of
    it that goes through the model in every step, and `longest_beginning` is what comes before,
    whose keys and values may be kept (xrec.train.prefix_cache); the two may be of different rows.
    `dtype_bytes` is the size of one number of the model.
    """

    micro_batch_size: int
    longest_row: int
    longest_rest: int
    longest_explanation: int
    num_trained: int
    dtype_bytes: int
    longest_beginning: int = 0
    gradient_checkpointing: bool = False
    prefix_cache_bytes: int = 0
    max_live_parameters: int = 1_000_000_000
    is_int8: bool = False


@dataclass(frozen=True)
class WorkerMemory:
    """The parts of one worker's memory, in bytes."""

    weights: int
    whole_for_use: int
    activations: int
    logits: int
    adapters_and_optimizer: int
    gradient_buffer: int
    prefix_cache: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(self.parts.values())

    @property
    def parts(self) -> Mapping[str, int]:
        """The parts by name."""
        parts: dict[str, int] = asdict(self)
        return parts


def worker_memory(shape: ModelShape, load: Load, *, stage: int, num_workers: int) -> WorkerMemory:
    """Return the memory of one of `num_workers` workers at ZeRO stage `stage`.

    Stages 1 and 2 are counted as stage 0, because they share out the small optimizer state only.
    """
    num_parts = num_workers if stage == 3 else 1
    live = min(load.max_live_parameters, shape.num_parameters) if stage == 3 else 0
    if load.is_int8:
        # For the gradient of its input, an 8-bit map is turned into the model's own numbers.
        live += shape.largest_linear
    # The trained weight and its gradient, and in float32 the weight that is stepped (if it is
    # another one) and two moments.
    adapter_bytes = 2 * load.dtype_bytes + (4 if load.dtype_bytes < 4 else 0) + 8
    return WorkerMemory(
        weights=-(-_weight_bytes(shape, load) // num_parts),
        whole_for_use=live * load.dtype_bytes,
        activations=load.micro_batch_size * _activation_bytes(shape, load),
        logits=_logit_bytes(shape, load),
        adapters_and_optimizer=-(-load.num_trained * adapter_bytes // num_parts),
        gradient_buffer=load.num_trained * load.dtype_bytes,
        prefix_cache=0 if load.gradient_checkpointing else _prefix_bytes(shape, load),
    )


def _weight_bytes(shape: ModelShape, load: Load) -> int:
    if not load.is_int8:
        return shape.num_parameters * load.dtype_bytes
    rest = shape.num_parameters - shape.num_linear_parameters
    return shape.num_linear_parameters + rest * load.dtype_bytes


def _activation_bytes(shape: ModelShape, load: Load) -> int:
    """Return what one row keeps for the gradient of the adapted vectors, in bytes."""
    in_layer = _layer_bytes(shape, load)
    if not load.gradient_checkpointing:
        return shape.num_layers * in_layer
    # The inputs of all layers, and one layer that is computed again.
    inputs = shape.num_layers * load.longest_row * shape.hidden_size * load.dtype_bytes
    return inputs + in_layer


def _layer_bytes(shape: ModelShape, load: Load) -> int:
    """Return what one layer keeps of one row, in bytes.

    Of each token: the inputs of two norms in float32; the inputs of q, k and v and of gate and up;
    q and attention's output; gate, silu(gate), up and their product. Keys and values are kept of
    all positions, those of the prompt's beginning too, and are repeated for all query heads.
    """
    num_tokens = load.longest_row if load.gradient_checkpointing else load.longest_rest
    numbers = 2 * shape.hidden_size + 2 * shape.query_size + 4 * shape.intermediate_size
    in_float32 = 2 * shape.hidden_size
    if shape.has_query_norm:
        in_float32 += shape.query_size + shape.key_value_size
    keys_and_values = load.longest_row * 2 * shape.query_size * load.dtype_bytes
    return num_tokens * (4 * in_float32 + load.dtype_bytes * numbers) + keys_and_values


def _prefix_bytes(shape: ModelShape, load: Load) -> int:
    """Return the bytes of the beginnings' keys and values: those that are kept, and a batch's.

    A pass has a copy of its rows' beginnings. The model holds them a second time, with the rest's
    behind them; where all query heads have keys of their own, that is what activations count.
    """
    positions = load.longest_beginning
    if positions and shape.key_value_size < shape.query_size:
        positions += load.longest_beginning + load.longest_rest
    a_position = shape.num_layers * 2 * shape.key_value_size * load.dtype_bytes
    return load.prefix_cache_bytes + load.micro_batch_size * positions * a_position


def _logit_bytes(shape: ModelShape, load: Load) -> int:
    """Return the bytes of logits and their gradient, and of one row's in float32 (xrec.llm.nll)."""
    row = load.longest_explanation * shape.vocab_size
    return load.micro_batch_size * row * 2 * load.dtype_bytes + row * 8


def unsharded_stage(load: Load) -> int:
    """Return the ZeRO stage that leaves the frozen model whole: 0 in float32, 1 in 16 bits.

    In 16 bits the optimizer also holds the trained weights in float32. Stage 1 shares them and
    Adam's moments out among the workers. The losses are the same at both stages.
    """
    return 0 if load.dtype_bytes == 4 else 1


@dataclass(frozen=True)
class Sharding:
    """A choice of the ZeRO stage, and the table that explains it."""

    stage: int
    explanation: str


def choose_sharding(
    shape: ModelShape, load: Load, *, num_workers: int, available: int, asked: int | None = None
) -> Sharding:
    """Return the stage without sharding if its memory fits into `available` bytes, else 3.

    With a stage that is `asked` for, the choice is that one. Raises ModelError if the model fits at
    neither stage and none is asked for.
    """
    stages = [unsharded_stage(load), 3] if asked is None else [asked]
    if load.is_int8:
        stages = [stage for stage in stages if stage != 3]
    sums = {
        stage: worker_memory(shape, load, stage=stage, num_workers=num_workers) for stage in stages
    }
    fitting = [stage for stage, memory in sums.items() if memory.total <= available]
    table = _table(sums, num_workers, available)
    if asked is not None:
        verdict = "as asked" if fitting else "as asked, although the sum is more than there is"
        return Sharding(asked, f"{table}\n  deepspeed.zero_stage = {asked}, {verdict}")
    if not fitting:
        raise ModelError(
            f"the language model fits at no ZeRO stage.\n{table}\n"
            "  lower training.micro_batch_size, prompt.max_prompt_tokens or "
            "training.prefix_cache_gib, set training.gradient_checkpointing=true, raise "
            "scaling.num_workers, or take a smaller model; deepspeed.zero_stage=3 with "
            "deepspeed.offload=cpu keeps the weights in the node's memory"
        )
    return Sharding(fitting[0], f"{table}\n  auto: deepspeed.zero_stage = {fitting[0]}")


def _table(sums: Mapping[int, WorkerMemory], num_workers: int, available: int) -> str:
    heads = [f"stage {stage}" for stage in sums]
    rows = [
        (name.replace("_", " "), [memory.parts[name] for memory in sums.values()])
        for name in next(iter(sums.values())).parts
    ]
    rows.append(("sum", [memory.total for memory in sums.values()]))
    unit, size = ("GB", 1e9) if max(memory.total for memory in sums.values()) > 1e9 else ("MB", 1e6)
    lines = [
        f"memory of one of {num_workers} worker(s) by estimate, in {unit}:",
        f"  {'':24}" + "".join(f"{head:>10}" for head in heads),
        *(
            f"  {name:24}" + "".join(f"{value / size:10.2f}" for value in values)
            for name, values in rows
        ),
        f"  {'there is':24}{available / size:10.2f}",
    ]
    return "\n".join(lines)


def device_memory(device: torch.device, num_local_workers: int) -> int:
    """Return the bytes that one worker may fill: of its GPU, or its part of the node's memory."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return int(total * SHARE_OF_GPU_MEMORY) - GPU_CONTEXT_BYTES
    return int(_node_memory() * SHARE_OF_CPU_MEMORY) // num_local_workers


def _node_memory() -> int:
    """Return the node's memory in bytes; in a container, its limit."""
    limits = [int(psutil.virtual_memory().total)]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits)
