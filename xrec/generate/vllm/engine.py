"""The engine over vLLM, with its continuous batching and its prefix cache.

The adapters run in this process. vLLM gets their vectors with each prompt
(xrec.generate.vllm.modality), and its model merges and injects them (xrec.generate.vllm.model).
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
    """An engine over the base model in `model_folder` with the users and items of `graph`.

    The caller has checked that they are those of the adapter, and the version of vLLM
    (`check_installed_vllm`).

    On a CPU each process of vLLM has as many threads as torch has in this process. With
    `is_streaming` vLLM reports each token of a text at once, which costs this process more than the
    first and the last ones.

    A request has the vectors that `graph` has when it enters. What is written into `graph.users`
    later holds for later requests.

    vLLM starts processes that import the caller's main module again. A script must therefore guard
    its main part (`if __name__ == "__main__":`) and import xrec inside the guard.

    Raises ModelError for a family of models that is not one of `FAMILIES`, for a device for which
    this build of vLLM was not made, for options with which texts would be wrong, and if vLLM does
    not start, such as for lack of memory.
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
            # vLLM runs a model whose modality it could not set up as one of text, and says nothing.
            self._engine.renderer.get_mm_processor()
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"vLLM did not start: {error}; see what it has logged", code="vllm_not_started"
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
        """End vLLM's processes. They also end when this process ends."""
        self._engine.engine_core.shutdown()
