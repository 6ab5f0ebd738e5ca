"""Model Runner V2, which vLLM takes on GPUs, gives transformers' tokens, and waits for nothing.

It runs on the CPU here (runner_v2.py). On a GPU tests/gpu/test_vllm.py compares the same.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy import toy_tokenizer
from tests.xrec.generate.vllm.vllm_town import (
    attached,
    greedy_by_hand,
    make_adapter,
    make_graph,
    make_model,
    make_prompts,
)
from xrec.config.adapter import Injection

pytest.importorskip("vllm", reason="vLLM is not installed here (the extra `vllm` brings it)")
pytest.importorskip("triton", reason="Triton is not installed here: pip install triton")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "rule", "mode"),
    [
        ("llama", "projected", "eager"),
        ("llama", "direct", "compiled"),
        ("qwen3", "direct", "eager"),
        ("qwen3", "projected", "compiled"),
    ],
)
def test_runner_v2_gives_the_tokens_of_transformers_and_reads_nothing(
    tmp_path: Path, family: str, rule: Injection, mode: str
) -> None:
    output = subprocess.run(
        [sys.executable, "-m", "tests.xrec.generate.vllm.runner_v2", tmp_path, family, rule, mode],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    found = json.loads(output.splitlines()[-1])
    graph = make_graph(tmp_path / "expected")
    model = attached(make_model(family), make_adapter(rule, graph), graph)
    ends = [toy_tokenizer().eos_token_id, 3]
    expected = [greedy_by_hand(model, prompt, 16, ends) for prompt in make_prompts(40)]
    assert found["texts"] == [expected, expected]
    assert found["num_decode_steps"] > 10
    assert found["reads_in_decode_steps"] == 0
    assert found["reads_in_prefill_steps"] == 0
