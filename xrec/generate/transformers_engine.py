"""The default engine: our run (xrec.generate.packed) over a transformers decoder."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from xrec.config.engine import EngineConfig
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.run import PackedRun
from xrec.generate.shared_run import RunEngine
from xrec.llm.packed_linear import pack_linears


class TransformersEngine(RunEngine):
    """An `Engine` over a transformers model, with collaborative tokens or without.

    (`xrec.adapter.model.attach_adapters` adds them.) At most `max_rows` texts are at work at the
    same time, fewer if `key_value_bytes` does not hold as many. `decode` gives the text of token
    ids; it is needed for stop strings. `passes_per_step` is `PackedRun`'s. The model's own
    generation settings are not used, so that only the job's config decides.

    Raises ModelError for a decoder that cannot run packed passes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        *,
        max_rows: int,
        key_value_bytes: int,
        decode: Callable[[list[int]], str],
        passes_per_step: int | None = None,
    ):
        super().__init__(
            PackedRun(
                PackedModel(model),
                stop_token_ids,
                decode,
                max_rows=max_rows,
                key_value_bytes=key_value_bytes,
                passes_per_step=passes_per_step,
            )
        )


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    decode: Callable[[list[int]], str],
    config: EngineConfig,
    *,
    passes_per_step: int | None = None,
) -> TransformersEngine:
    """The engine that `config` describes; `model`'s linear layers get other products, in place.

    Raises ModelError for a decoder that cannot run packed passes.
    """
    pack_linears(model)
    return TransformersEngine(
        model,
        stop_token_ids,
        max_rows=config.max_rows,
        key_value_bytes=int(config.key_value_gib * 2**30),
        decode=decode,
        passes_per_step=passes_per_step,
    )
