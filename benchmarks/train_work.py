"""Measures the rate of a matrix product, which the work of a contestant is compared with."""

import time

import torch

_SIDE = 1024
_NUM_LOOPS = 10
_PRODUCTS_PER_LOOP = 4


def matrix_rate(dtype: torch.dtype) -> float:
    """Return the FLOP a second of the product of two square matrices, the best of short loops.

    All of torch's threads work. The time is the CPU time of the calling thread, which works as long
    as the others, so that another process on the machine does not lower the rate.
    """
    left, right = (torch.randn(_SIDE, _SIDE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_NUM_LOOPS):
        start = time.thread_time()
        for _ in range(_PRODUCTS_PER_LOOP):
            left @ right
        seconds.append(time.thread_time() - start)
    return 2 * _SIDE**3 * _PRODUCTS_PER_LOOP / min(seconds)
