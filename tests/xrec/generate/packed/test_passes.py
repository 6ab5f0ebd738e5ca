"""The clock of phases waits for the device; another kernel can take attention's place."""

import pytest
import torch
from torch import Tensor

from tests.xrec.generate.packed.runs import (
    GREEDY,
    all_by_hand,
    finish,
    make_model,
    make_prompts,
    make_run,
    texts,
)
from xrec.generate.packed import passes
from xrec.generate.packed.attention import PackedLayout, attend_by_products
from xrec.generate.packed.passes import seconds_on


def test_clock_waits_for_a_gpu_and_for_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", events.append)
    monkeypatch.setattr(passes.time, "perf_counter", lambda: events.append("clock") or 7.0)
    gpu = torch.device("cuda:1")
    assert seconds_on(torch.device("cpu")) == 7
    assert seconds_on(gpu) == 7
    assert events == ["clock", gpu, "clock"]


def test_kernel_gets_every_layer_of_every_pass_and_its_output_is_used() -> None:
    layers: list[int] = []

    def kernel(
        layout: PackedLayout, layer: int, query: Tensor, softcap: float | None, window: int | None
    ) -> Tensor:
        layers.append(layer)
        assert sum(part.tokens.stop - part.tokens.start for part in layout.parts) == len(query)
        return attend_by_products(layout, layer, query, softcap, window)

    run = make_run(make_model(), kernel=kernel)
    requests = [run.add(prompt, GREEDY) for prompt in make_prompts()]
    assert texts(finish(run), requests) == all_by_hand("projected")
    num_passes = run.report.num_prefill_passes + run.report.num_decode_steps
    assert layers == [0, 1] * num_passes
