"""The engine with vLLM's continuous batching and prefix cache.

The adapters run in this process. Each prompt includes their vectors (xrec.generate.vllm.modality),
which vLLM's model merges and injects (xrec.generate.vllm.model).
"""

import os
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase
from vllm import LLMEngine

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.model import input_vectors
from xrec.config import Dtype, EngineConfig
from xrec.errors import ModelError
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.vllm.arguments import (
    COUNTS_NANS,
    engine_arguments,
    resolve_vllm_dtype,
    start_settings,
)
from xrec.generate.vllm.core import VllmCore
from xrec.generate.vllm.modality import PromptInputs
from xrec.generate.vllm.plugin import unknown_family
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import folder_stop_token_ids


class VllmEngine(SharedEngine):
    """An engine over the base model in `model_folder`, with the users and items in `graph`.

    The caller must check that both belong to the adapter, and the version of vLLM
    (`check_installed_vllm`).

    On a CPU, each of vLLM's processes uses as many threads as torch does in this process. With
    `is_streaming`, vLLM reports each token at once, which costs this process more time.

    A request gets the vectors that are in `graph` when it is added. Later changes of `graph.users`
    affect later requests.

    vLLM starts processes that import the caller's main module again. A script must therefore guard
    its main part (`if __name__ == "__main__":`) and import xrec inside the guard.

    Raises ModelError for a model that is not in `FAMILIES`, for a device that this build of vLLM
    does not support, for options that would make texts wrong, and if vLLM does not start, for
    example because it runs out of memory.
    """

    def __init__(
        self,
        model_folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        adapter: TrainedAdapter,
        graph: GraphEmbeddings,
        engine: EngineConfig,
        *,
        dtype: Dtype,
        device: torch.device,
        is_streaming: bool = False,
    ):
        config = AutoConfig.from_pretrained(model_folder, local_files_only=True)
        if unknown := unknown_family(config.architectures):
            raise ModelError(
                f"{model_folder}: {unknown}; use engine.kind=builtin",
                code="unsupported_family",
                key="engine.kind",
                saw="vllm",
            )
        vllm_dtype = resolve_vllm_dtype(dtype, device)
        adapters = adapter.adapters
        self.vocabulary = Vocabulary(
            config.vocab_size, len(graph.users), len(graph.items), adapters.user.num_tokens
        )
        self.stop_token_ids = folder_stop_token_ids(model_folder, tokenizer)
        inputs = PromptInputs(
            self.vocabulary,
            input_vectors(adapter.config.model, graph.users, graph.items),
            (adapters.user, adapters.item),
            model=adapter.fingerprint,
            placeholder=self.stop_token_ids[0],
            dtype=vllm_dtype,
        )
        arguments = engine_arguments(
            model_folder,
            config,
            adapters.injection,
            engine,
            dtype=vllm_dtype,
            device=device,
            is_streaming=is_streaming,
        )
        os.environ[COUNTS_NANS] = "1"
        try:
            with start_settings(torch.get_num_threads()):
                self._engine = LLMEngine.from_engine_args(arguments)
            # If vLLM cannot set up the modality, it silently treats the model as text-only.
            self._engine.renderer.get_mm_processor()
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"vLLM did not start: {error}; see its log", code="vllm_not_started"
            ) from error
        super().__init__(
            VllmCore(
                self._engine,
                self.vocabulary,
                self.stop_token_ids,
                inputs,
                context=config.max_position_embeddings,
                max_rows=engine.max_rows,
            ),
            engine.row_seconds,
        )

    def close(self) -> None:
        """Stop vLLM's processes. They also stop when this process exits."""
        self._engine.engine_core.shutdown()
