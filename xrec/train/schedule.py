"""The learning rate over the steps of a training."""

from collections.abc import Callable

from xrec.config.adapter import LearningRateConfig


def learning_rate_share(rate: LearningRateConfig, num_steps: int) -> Callable[[int], float]:
    """Return a function from a step, 0 to num_steps - 1, to its share of the peak rate.

    The share rises linearly in the warm-up and then falls linearly. It is above zero at each step,
    while DeepSpeed's WarmupDecayLR begins with two steps at zero.
    """
    num_warmup_steps = max(1, round(rate.warmup_share * num_steps))
    return lambda step: min(
        (step + 1) / num_warmup_steps, (num_steps - step) / (num_steps - num_warmup_steps + 1)
    )
