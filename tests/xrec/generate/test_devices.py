"""Generation where the model is on a GPU that is not there (tests/fake_gpu.py)."""

import pytest
import torch

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.world.models import NUM_USERS
from tests.xrec.generate.builtin.toy_cores import V, make_core, make_model
from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import text_params

SHARED = [9, 8, 7] * 8
PROMPTS = [
    [*SHARED, V + user, *range(3, 20 + user), V + NUM_USERS + item]
    for user in range(3)
    for item in range(2)
]
DECODINGS = {
    "greedy": DecodingConfig(max_new_tokens=6),
    "sampled": DecodingConfig(max_new_tokens=6, temperature=0.8, top_p=0.9, seed=3),
}


def steps_of(device: torch.device, decoding: DecodingConfig) -> list[str]:
    core = make_core(make_model().to(device), max_rows=4)
    for prompt in PROMPTS:
        core.add(prompt, text_params(decoding))
    steps = []
    while not core.is_idle:
        steps += [str(advance) for advance in core.step()]
    return steps


@pytest.mark.parametrize("decoding", DECODINGS)
def test_texts_on_a_gpu_are_those_of_a_cpu(decoding):
    """The core's steps, in this thread: the stand-in is of one thread."""
    expected = steps_of(CPU, DECODINGS[decoding])
    with FakeGPU():
        assert steps_of(GPU, DECODINGS[decoding]) == expected
