"""The speed of training, and the trace of its steps."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.toy import toy_model
from xrec.llm.examples import Example, collate, token_nll
from xrec.llm.prefix import batch_key_values, compute_key_values
from xrec.storage import open_location
from xrec.train.profiler import TRACE, profiled_steps
from xrec.train.work import Speed, WorkMeter, describe_speed, peak_tflops


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A10G", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_peak_tflops_goes_by_whole_words_of_the_devices_name(
    device: str, expected: float | None
) -> None:
    assert peak_tflops(device, torch.bfloat16) == expected
    assert peak_tflops(device, torch.float16) == expected
    assert peak_tflops(device, torch.float32) is None


def test_speed_row_is_by_second_and_by_worker() -> None:
    speed = Speed(num_tokens=3000, flop=8e12, seconds=2.0, num_workers=4)
    assert speed.row(None) == {"tokens_per_second": 1500, "tflops_per_worker": 1}
    row = speed.row(10.0)
    assert row["share_of_peak"] == pytest.approx(0.1)
    assert describe_speed(row) == ", 1,500 tokens a second, 10.0% of the peak"
    assert describe_speed(speed.row(None)) == ", 1,500 tokens a second"
    assert describe_speed({}) == ""


def test_work_meter_counts_weights_that_zero_3_has_sharded() -> None:
    whole, sharded = toy_model(), toy_model()
    for parameter in sharded.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    assert WorkMeter(whole)._matrix_weights == WorkMeter(sharded)._matrix_weights > 0


@pytest.mark.parametrize("with_beginnings", [False, True])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_work_meter_counts_the_products_that_torch_counts(
    with_gradient: bool, with_beginnings: bool
) -> None:
    model = toy_model()
    model.set_attn_implementation("eager")  # its products are all seen, and none is repeated
    model.enable_input_require_grads()  # the adapted vectors in the input have a gradient
    model.requires_grad_(False)
    meter = WorkMeter(model)
    rows = [Example([5, 9, 7], [8, 2]), Example([4, 6, 3], [9, 2])]
    past = None
    if with_beginnings:
        past = batch_key_values(None, compute_key_values(model, [[1, 2, 3, 4], [4, 3, 2, 1]]))
        meter.flop = 0
    with torch.set_grad_enabled(with_gradient), FlopCounterMode(display=False) as counted:
        nll = token_nll(model, collate(rows), past).sum()
        if with_gradient:
            nll.backward()
    assert meter.flop == counted.get_total_flops() > 0


def make_steps(number: int, asked: int, folder: Path) -> set[str]:
    """Return the operations in the trace of `asked` of `number` steps; step 3 multiplies."""
    with profiled_steps(asked, open_location(str(folder))) as after_step:
        for step in range(number):
            ones = torch.ones(3, 3)
            _ = ones @ ones if step == 3 else ones + ones
            after_step()
    path = folder / TRACE
    if not path.exists():
        return set()
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return {event["name"] for event in events}


def test_profiled_steps_writes_the_steps_after_the_first_two(tmp_path: Path) -> None:
    names = make_steps(8, 2, tmp_path)
    assert "aten::mm" in names
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= names
    assert not {"ProfilerStep#1", "ProfilerStep#4"} & names


def test_profiled_steps_of_a_run_that_ends_early_has_what_was_done(tmp_path: Path) -> None:
    assert "aten::add" in make_steps(3, 50, tmp_path)


def test_profiled_steps_writes_nothing_where_none_are_asked_for(tmp_path: Path) -> None:
    assert make_steps(5, 0, tmp_path) == set()
    assert list(tmp_path.iterdir()) == []
