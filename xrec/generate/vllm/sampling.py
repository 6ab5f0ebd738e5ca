"""The settings of vLLM for a text that is drawn, or for a token whose likelihood is asked."""

from collections.abc import Sequence

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from xrec.generate.engine import Failure, TextParams
from xrec.storage import fingerprint_of

_GRAMMARS = {"json_schema": "json", "regex": "regex", "ebnf": "grammar"}
_HIGHEST_TEMPERATURE = 2.0


def one_text(
    prompt: Sequence[int],
    params: TextParams,
    number: int,
    stop_token_ids: Sequence[int],
    *,
    is_streaming: bool,
) -> SamplingParams:
    """The settings of text `number` of a request.

    Its seed follows from the request's seed, the prompt and the number only. vLLM returns each
    token at once if `is_streaming` or if a stop string has to be searched for.
    """
    grammar = None if params.constraint is None else params.constraint.grammar
    return SamplingParams(
        max_tokens=params.max_new_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        seed=int(fingerprint_of([params.seed, number, *prompt]), 16) >> 1,
        stop_token_ids=[*stop_token_ids, *params.stop_token_ids],
        structured_outputs=grammar
        and StructuredOutputsParams(**{_GRAMMARS[grammar.kind]: grammar.source}),
        detokenize=False,
        output_kind=RequestOutputKind.DELTA
        if is_streaming or params.stop
        else RequestOutputKind.FINAL_ONLY,
    )


def one_token(token: int) -> SamplingParams:
    """The settings that give the log-likelihood of `token` as the next one."""
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=[token],
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def unsupported(params: TextParams) -> Failure | None:
    """Why vLLM cannot draw texts with `params`; None if it can."""
    if params.constraint is not None and params.constraint.grammar is None:
        return Failure(
            "unsupported_request",
            "its constraint has no grammar, only a mask of its own; vLLM computes masks in another "
            "process, from a grammar: give one, or set engine.kind=transformers",
        )
    if params.temperature > _HIGHEST_TEMPERATURE:
        return Failure(
            "unsupported_request",
            f"temperature {params.temperature}; vLLM samples with at most {_HIGHEST_TEMPERATURE}: "
            "lower it, or set engine.kind=transformers",
        )
    return None
