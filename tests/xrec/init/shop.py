"""The machines that projects are written for."""

from xrec.init.settings import Machine

CPU = Machine(num_cpus=2, num_gpus=0, has_bf16_cpu=True)
GPU = Machine(num_cpus=16, num_gpus=4, has_bf16_cpu=False)
