"""The default engine: our run (xrec.generate.packed) over a transformers decoder."""

from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedModel

from xrec.config.llm import DecodingConfig, EngineConfig
from xrec.generate.engine import Completion, RequestParams, text_params
from xrec.generate.engine_report import EngineReport
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.run import PackedRun
from xrec.generate.shared_run import SharedRun
from xrec.llm.int8_linear import quantize_linears
from xrec.llm.packed_linear import pack_linears


class TransformersEngine:
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
        self.run = PackedRun(
            PackedModel(model),
            stop_token_ids,
            decode,
            max_rows=max_rows,
            key_value_bytes=key_value_bytes,
            passes_per_step=passes_per_step,
        )
        self._shared = SharedRun(self.run)

    @property
    def report(self) -> EngineReport:
        """What all calls since the last `take_report` cost."""
        return self.run.report

    def take_report(self) -> EngineReport:
        """`report`, which then begins anew."""
        return self.run.take_report()

    def complete(
        self, requests: Sequence[tuple[Sequence[int], RequestParams]]
    ) -> Iterator[Completion]:
        """See `Engine`."""
        return self._shared.complete(requests)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        """See `Engine`."""
        params = text_params(decoding)
        return self._shared.complete([(prompt, params) for prompt in prompts])


def load_engine(
    model: PreTrainedModel,
    stop_token_ids: Sequence[int],
    decode: Callable[[list[int]], str],
    config: EngineConfig,
    *,
    passes_per_step: int | None = None,
) -> TransformersEngine:
    """The engine that `config` describes; `model`'s linear layers get other products, in place.

    Raises ModelError for a decoder that cannot run packed passes, and for int8 layers on a GPU.
    """
    if config.linear_layers == "int8":
        quantize_linears(model)
    if config.linear_layers != "plain":
        pack_linears(model)
    return TransformersEngine(
        model,
        stop_token_ids,
        max_rows=config.max_rows,
        key_value_bytes=int(config.key_value_gib * 2**30),
        decode=decode,
        passes_per_step=passes_per_step,
    )
