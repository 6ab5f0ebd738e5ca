"""A closed list of prompts, as tests ask an engine for it."""

from collections.abc import Iterator, Sequence

from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import Completion, text_params
from xrec.generate.shared_engine import SharedEngine


def generate(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
) -> Iterator[Completion]:
    """Yield the completions of the prompts, in the order in which they finish."""
    params = text_params(decoding)
    return engine.complete([(prompt, params) for prompt in prompts])
