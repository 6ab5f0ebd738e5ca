"""What auto becomes is recorded, and what is settled is the same on every machine."""

import pytest
import torch

from xrec.config.engine import EngineConfig, OwnEngineConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import StorageConfig
from xrec.generate.computation import computation, settled_computation

AUTO = LLMConfig(model="none")


def test_computation_of_auto_on_a_cpu_is_float32_by_our_own_engine() -> None:
    found = computation(AUTO, "cpu", EngineConfig(), StorageConfig())
    assert found == {"dtype": "float32", "device": "cpu", "engine": "transformers"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_computation_of_auto_without_a_gpu_is_on_the_cpu() -> None:
    found = computation(AUTO, "auto", OwnEngineConfig(), StorageConfig())
    assert (found["device"], found["dtype"]) == ("cpu", "float32")


def test_settled_computation_equals_the_one_of_this_machine_and_is_none_with_auto() -> None:
    llm = LLMConfig(model="none", dtype="bfloat16")
    found = settled_computation(llm, "cpu", OwnEngineConfig())
    assert found == computation(llm, "cpu", OwnEngineConfig(), StorageConfig())
    assert settled_computation(AUTO, "cpu", OwnEngineConfig()) is None
    assert settled_computation(llm, "auto", OwnEngineConfig()) is None
    assert settled_computation(llm, "cpu", EngineConfig()) is None
