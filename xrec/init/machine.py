"""What the machine has that settings depend on."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Machine:
    """What this process may use; `has_bf16_cpu` if the CPU has instructions for bfloat16."""

    num_cpus: int
    num_gpus: int
    memory_gib: float
    has_bf16_cpu: bool

    def describe(self) -> str:
        """One line for a person."""
        gpus = f"{self.num_gpus} GPU(s)" if self.num_gpus else "no GPU"
        return f"{self.num_cpus} CPU core(s), {self.memory_gib:.0f} GiB of memory, {gpus}"


def this_machine() -> Machine:
    """The machine that this process runs on."""
    import torch  # takes seconds to load, and is needed here only

    return Machine(
        num_cpus=len(os.sched_getaffinity(0)),
        num_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        memory_gib=psutil.virtual_memory().total / 2**30,
        has_bf16_cpu=bool(_cpu_flags() & _BF16_FLAGS),
    )


def _cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.split()}
