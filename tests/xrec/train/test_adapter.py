"""A worker of adapter training: its steps, DeepSpeed's settings, and what fits its memory."""

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import safetensors.torch
import torch

from tests.errors import raises
from tests.world.models import attach_toy, toy_model
from tests.xrec.train.adapter_town import OFFLOAD, RANDOM, float16_here, load_here, make_config
from tests.xrec.train.worker import Trained, train_here, worker_here
from xrec.adapter.model import Adapters, attach_adapters, build_adapters, embedding_scale
from xrec.config import Injection, TrainAdapterConfig, merged
from xrec.errors import ConfigError, ModelError, TrainingError
from xrec.graph.artifact import read_graph
from xrec.llm.loss import (
    Example,
    ExplanationLoss,
    PrefixCache,
    collate,
    num_prefix_tokens,
    token_nll,
)
from xrec.llm.model import load_model
from xrec.storage import location_of
from xrec.train import memory
from xrec.train.adapter_model import build_model, checkpoint_layers, try_step
from xrec.train.adapter_worker import AdapterWorker
from xrec.train.data import load_adapter_data
from xrec.train.deepspeed_engine import DEFAULT_CLIPPING, deepspeed_settings
from xrec.train.example_shards import write_examples
from xrec.train.memory import (
    largest_that_fits,
    memory_of_a_worker,
    model_bytes,
    with_zero_stage,
)

V = 64
EXAMPLES = [Example([5, 9, V, V + 5], [6, 7, 2]), Example([5, 8, V + 1, 9, 9, V + 6], [8, 2])]


def make_module(rule: Injection = "projected", *, split: bool = True) -> ExplanationLoss:
    model = toy_model()
    attach_toy(model, rule)
    prefixes = PrefixCache(model, [5], num_positions=9, budget_bytes=0, split=split)
    return ExplanationLoss(model, prefixes)


def test_training_mode_applies_to_the_adapters_only():
    module = make_module()
    adapters = {f"model.embed_tokens.{side}_adapter" for side in ("user", "item")}
    for mode in (True, False):
        module.train(mode)
        in_training = {name for name, part in module.model.named_modules() if part.training}
        assert in_training == (adapters if mode else set())
    assert not module.training


def gradients(rule: Injection, *, checkpointing: bool) -> dict[str, torch.Tensor]:
    module = make_module(rule, split=False)
    if checkpointing:
        checkpoint_layers(module.model)
    calls = Mock(return_value=None)
    module.model.model.layers[0].mlp.register_forward_pre_hook(calls)
    torch.manual_seed(0)
    module.train()(EXAMPLES).backward()
    assert calls.call_count == 1 + checkpointing  # the second one is for the gradients
    named = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize("rule", ["projected", "direct", "none"])
def test_checkpoint_layers_gives_all_adapter_weights_the_same_gradients(rule):
    expected, actual = (gradients(rule, checkpointing=checks) for checks in (False, True))
    adapters = {name for name, _ in make_module().named_parameters() if "_adapter." in name}
    assert len(adapters) == 8
    assert expected.keys() == adapters
    assert all(gradient.any() for gradient in expected.values())
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    model = toy_model()
    model.supports_gradient_checkpointing = False
    with raises(ModelError, "no_gradient_checkpointing", "training.gradient_checkpointing"):
        checkpoint_layers(model)


def train(workspace: str, folder: Path, **settings: Any) -> Trained:
    """Train an adapter with noise in this process."""
    settings = {"model": RANDOM, "num_workers": 1, "zero_stage": 1, "num_epochs": 1, **settings}
    return train_here(folder, make_config(workspace, adapter=folder / "adapter", **settings))


@pytest.mark.parametrize("average_over", ["tokens", "explanations"])
def test_step_is_adamw_on_the_mean_that_the_config_names(workspace, tmp_path, average_over):
    """The mean is over the global batch; the oracle is a loop over single examples."""
    plain = {"gating_noise": False}
    settings = {"average_over": average_over, "max_steps": 1, "max_pairs": 16}
    run = train(workspace, tmp_path, model=plain, **settings)
    weights = safetensors.torch.load_file(run.checkpoint / "adapter.safetensors")

    config = make_config(workspace, adapter=tmp_path / "adapter", model=plain, **settings)
    graph = read_graph(location_of(config, "graph"))
    model = load_model(Path(workspace, "llm"), dtype=torch.float32, device=CPU)
    adapters = toy_start(config, model, graph)
    parameters = [*adapters.user.parameters(), *adapters.item.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.training.learning_rate, weight_decay=0.0)
    examples = list(load_here(config).train)
    assert len({len(row.label_ids) for row in examples}) > 1
    losses = [token_nll(model, collate([row])).sum() for row in examples]
    counts = [len(row.label_ids) for row in examples]
    if average_over == "tokens":
        loss = sum(losses) / sum(counts)
    else:
        loss = sum(nll / count for nll, count in zip(losses, counts, strict=True)) / len(losses)
    assert run.history[0]["train_loss"] == pytest.approx(float(loss), rel=1e-5)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, DEFAULT_CLIPPING)
    optimizer.step()
    expected = adapters.state_dict()
    assert weights.keys() == expected.keys()
    # Adam's first step is the sign of the gradient, which rounding decides where it is about zero.
    wrong = sum(int((weights[name] - expected[name]).abs().gt(1e-4).sum()) for name in expected)
    assert wrong <= 0.01 * sum(parameter.numel() for parameter in parameters)


def toy_start(config: TrainAdapterConfig, model: Any, graph: Any) -> Adapters:
    """Attach the adapters that a training starts from."""
    scale = embedding_scale(model)
    torch.manual_seed(config.training.seed)
    sizes = {"embedding_dim": graph.users.shape[1], "hidden_size": model.config.hidden_size}
    adapters = build_adapters(config.model, **sizes)
    adapters.user.fit_input(graph.users, scale)
    adapters.item.fit_input(graph.items, scale)
    attach_adapters(model, adapters, user_vectors=graph.users, item_vectors=graph.items)
    return adapters


def test_step_that_float16_skips_is_repeated_with_the_same_rows_and_random_numbers(
    workspace, tmp_path, monkeypatch
):
    losses = []
    for power in (10, 20):
        float16_here(monkeypatch, first_scale_power=power, steps_to_double=1000)
        settings = {"dtype": "float16", "max_steps": 3, "max_validation_pairs": 4}
        run = train(workspace, tmp_path / str(power), **settings)
        assert any("overflowed" in note for note in run.notes) == (power == 20)
        losses.append(run.history[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_loss_that_is_not_finite_is_an_error_that_names_the_examples(workspace, tmp_path):
    key = "training.learning_rate"
    with raises(TrainingError, "loss_not_finite", key) as caught:
        train(workspace, tmp_path, learning_rate=1e30)
    assert re.match(r"epoch 1, step 2: .* \(training examples: \d+, \d+", str(caught.value))


def test_gradient_that_is_not_finite_is_an_error_without_a_loss_scale(workspace, tmp_path):
    config = make_config(workspace, adapter=tmp_path, num_workers=1, zero_stage=1, dtype="bfloat16")
    write_examples(config, {}, {})
    with worker_here(tmp_path):
        worker = AdapterWorker(config, load_adapter_data(config), "run")
        hooked = next(iter(worker.trained.values()))
        hooked.register_hook(lambda gradient: gradient * float("nan"))
        with raises(TrainingError, "gradient_not_finite", "training.learning_rate"):
            worker.run_epoch()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_trial_step_in_16_bits_changes_no_tensor(workspace, tmp_path, dtype):
    """Buffers stay in float32: the rotary frequencies in 16 bits would be other positions."""
    config = make_config(workspace, adapter=tmp_path, dtype=dtype, num_workers=1, zero_stage=1)
    write_examples(config, {}, {})

    def tensors() -> dict[str, torch.Tensor]:
        named = dict((*model.named_parameters(), *model.named_buffers()))
        return {name: tensor.detach().clone() for name, tensor in named.items()}

    with worker_here(tmp_path):
        data = load_adapter_data(config)
        model, _ = build_model(config, data)
        before = tensors()
        try_step(config, model, [data.train[0], data.train[1]])
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert before["model.rotary_emb.inv_freq"].dtype == torch.float32
    for key, tensor in tensors().items():
        assert tensor.dtype == before[key].dtype
        assert torch.equal(tensor, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_model_at_stage_3_is_sharded_among_the_workers(workspace, tmp_path):
    config = make_config(workspace, adapter=tmp_path, num_workers=2)
    write_examples(config, {}, {})
    with worker_here(tmp_path, num_workers=2):
        model, _ = build_model(config, load_adapter_data(config))
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    share = sum(weight.ds_tensor.numel() for weight in frozen)
    assert share / sum(weight.ds_numel for weight in frozen) == pytest.approx(0.5, abs=0.01)


# DeepSpeed's settings


def settings_of(world_size: int = 2, dtype: Any = torch.float32, **changes: Any) -> dict[str, Any]:
    zero = {"zero_optimization": {"stage": 1}}
    config = {"workspace": "w", "llm": {"model": "m"}, "deepspeed": zero, **changes}
    return deepspeed_settings(
        TrainAdapterConfig.model_validate(config), dtype=dtype, world_size=world_size
    )


def test_deepspeed_settings_are_ours_updated_with_the_users():
    on_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    given = {"zero_hpz_partition_size": 2, "offload_param": {"device": "cpu"}}
    found = settings_of(deepspeed={"zero_optimization": given, "wall_clock_breakdown": True})
    assert found["zero_optimization"] == {**given, "stage": 3, "offload_param": on_cpu}
    assert (found["gradient_clipping"], found["wall_clock_breakdown"]) == (1.0, True)
    found = settings_of(deepspeed={"zero_optimization": {"stage": 1}, "gradient_clipping": 0.5})
    assert (found["zero_optimization"], found["gradient_clipping"]) == ({"stage": 1}, 0.5)


# Memory

CPU = torch.device("cpu")
ROWS = [
    Example([*range(1, 12), V], [2]),  # the longest beginning
    Example([1, V + 1, 5, 6, 7, 8], [9, 2]),  # the longest rest
    Example([1, 2, V + 2], [7, 8, 9, 2]),  # the longest explanation
]
GRAPH: Any = SimpleNamespace(users=torch.zeros(5, 6))


def data_of(rows: Sequence[Example]) -> Any:
    beginnings = [num_prefix_tokens(row.prompt_ids, V) for row in rows]
    rests = [len(row) - length for row, length in zip(rows, beginnings, strict=True)]
    longest = (max(beginnings), max(rests), max(len(row.label_ids) for row in rows))
    return SimpleNamespace(graph=GRAPH, longest=lambda: longest)


DATA = data_of(ROWS)


HPZ = "deepspeed.zero_optimization.zero_hpz_partition_size"


def with_zero(config: TrainAdapterConfig, **zero: Any) -> TrainAdapterConfig:
    deepspeed = merged(config.deepspeed, {"zero_optimization": zero})
    return config.model_copy(update={"deepspeed": deepspeed})


@pytest.fixture
def auto(tmp_path):
    """A config with the stage and size of auto; of the model there is only its config."""
    toy_model().config.save_pretrained(tmp_path / "llm")
    return make_config(str(tmp_path), zero_stage=None, micro_batch_size="auto")


@pytest.fixture
def two(tmp_path):
    """This process as one of two workers, each alone on its node."""
    with worker_here(tmp_path, num_workers=2, num_here=1) as worker:
        yield worker


def test_model_bytes_are_frozen_weights_and_the_adapters_with_adam(auto, two):
    frozen = toy_model().num_parameters() * 4
    num_trained = 2 * 2 * (6 * 2 * 32 + 6 + 2 * 6)  # sides, experts, D to 2 tokens of H = 32
    found = model_bytes(auto, DATA, num_workers=2)
    # DeepSpeed counts 2 bytes for a weight and 18 that are shared out.
    assert found[1] == frozen + num_trained * (2 + 18 // 2)
    sharded = frozen / 2 + num_trained * 18 / 2
    assert found[3] == pytest.approx(sharded, abs=4 * 64 * 32)
    grouped = model_bytes(with_zero(auto, zero_hpz_partition_size=2), DATA, num_workers=2)
    assert grouped[3] - found[3] == frozen // 2  # a node's copy
    with raises(ModelError, "model_does_not_fit", "deepspeed.zero_optimization.stage"):
        with_zero_stage(auto, DATA, memory=1000)


@pytest.mark.parametrize(
    ("share", "zero", "quantization", "expected"),
    [
        (1.0, {}, None, 1),
        (0.99, {}, None, 3),
        (0.99, {}, "int8", 1),  # whose linear maps take a quarter
        (0.0, OFFLOAD, None, 3),
        (0.0, {"stage": 1}, None, 1),
    ],
)
def test_zero_stage_is_1_where_the_whole_model_fits(auto, two, share, zero, quantization, expected):
    there = model_bytes(auto, DATA, num_workers=2)[1] * share / memory.SHARE_FOR_THE_MODEL
    update = {"llm": auto.llm.model_copy(update={"quantization": quantization})}
    config = with_zero(auto, **zero).model_copy(update=update)
    config = with_zero_stage(config, DATA, memory=int(there) + 2)
    assert config.zero_stage == expected
    if not zero:
        assert two.notes[-1].endswith(f"deepspeed.zero_optimization.stage = {expected}")


@pytest.mark.parametrize(
    ("texts", "expected"), [([], 2000), (["max\n"], 2000), (["1000\n"], 500), (["9" * 19], 2000)]
)
def test_memory_of_a_worker_is_its_share_of_the_node_or_the_containers_limit(
    tmp_path, texts, expected
):
    files = [tmp_path / "max", tmp_path / "limit"]
    for file, text in zip(files, texts, strict=False):
        file.write_text(text)
    assert memory_of_a_worker(CPU, 2, limits=files, node_bytes=4000) == expected


def test_micro_batch_size_is_the_largest_whose_step_fits(two):
    full = torch.OutOfMemoryError("CUDA out of memory.")
    for results, expected in (([None], 16), ([full, full, None], 4)):
        assert largest_that_fits([1, 2, 4, 8, 16], Mock(side_effect=results)) == expected
    with raises(ModelError, "row_does_not_fit", "training.micro_batch_size"):
        largest_that_fits([1, 2], Mock(side_effect=full))
    with pytest.raises(RuntimeError, match="device-side assert"):
        largest_that_fits([1, 2], Mock(side_effect=RuntimeError("device-side assert")))


@pytest.mark.usefixtures("two")
def test_group_of_workers_that_would_span_nodes_is_refused(auto):
    config = with_zero(auto, stage=3, zero_hpz_partition_size=2)
    with raises(ConfigError, "group_spans_nodes", HPZ, 2):
        with_zero_stage(config, DATA)
