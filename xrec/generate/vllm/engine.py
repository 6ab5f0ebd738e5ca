"""The engine over vLLM, with its continuous batching and its prefix cache.

A collaborative token is an id above the vocabulary. vLLM identifies prompts and the blocks of its
prefix cache by token ids only, so both work without a change. It refuses ids that its tokenizer
lacks, so it gets one that lacks none (xrec.generate.vllm.tokenizer), and the core checks the
range of ids. From version 0.33 on vLLM always refuses them (xrec.generate.vllm.plugin).
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedTokenizerBase
from vllm import LLMEngine

from xrec.adapter.artifact import TrainedAdapter
from xrec.config.llm import Dtype, EngineConfig
from xrec.errors import ModelError
from xrec.generate.shared_engine import SharedEngine
from xrec.generate.vllm.arguments import engine_arguments, resolve_vllm_dtype, start_settings
from xrec.generate.vllm.core import VllmCore
from xrec.generate.vllm.plugin import unknown_family
from xrec.generate.vllm.vectors import users_in, write_attachment
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import folder_stop_token_ids
from xrec.storage import content_hash


class VllmEngine(SharedEngine):
    """An engine over the base model in `model_folder` with the users and items of `graph`.

    The caller has checked that they are those of the adapter, and the version of vLLM
    (`check_installed_vllm`).

    On a CPU each process of vLLM has as many threads as torch has in this process. With
    `is_streaming` the core tells each token of a text.

    The last `num_reserved_users` users of the graph are places for users who come later: vLLM sees
    what is written into `users` (U, D) there. `users` is None if the adapter does not read the
    graph's vectors.

    vLLM starts processes that import the caller's main module again. A script must therefore guard
    its main part (`if __name__ == "__main__":`) and import xrec inside the guard. Otherwise vLLM
    0.32 fails on a CPU with "'_lib_fn_wrapper' object has no attribute 'get'".

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
        num_reserved_users: int = 0,
    ):
        config = AutoConfig.from_pretrained(model_folder, local_files_only=True)
        if unknown := unknown_family(config.architectures):
            raise ModelError(f"{model_folder}: {unknown}; use engine.kind=builtin")
        self.vocabulary = Vocabulary(
            config.vocab_size, len(graph.users), len(graph.items), adapter.config.model.num_tokens
        )
        self.stop_token_ids = folder_stop_token_ids(model_folder, tokenizer)
        # The workers read this folder.
        self._folder = TemporaryDirectory(prefix="xrec-vllm-")
        attachment, users = write_attachment(Path(self._folder.name), adapter, graph)
        self.users: Tensor | None = users if adapter.config.model.vectors == "graph" else None
        self._num_known_users = len(graph.users) - num_reserved_users
        arguments = engine_arguments(
            model_folder,
            config,
            attachment,
            engine,
            dtype=resolve_vllm_dtype(dtype, device),
            device=device,
        )
        try:
            with start_settings(torch.get_num_threads()):
                self._engine = LLMEngine.from_engine_args(arguments)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"vLLM did not start: {error}; see what it has logged") from error
        super().__init__(
            VllmCore(
                self._engine,
                self.vocabulary,
                self.stop_token_ids,
                self._cache_salt,
                context=config.max_position_embeddings,
                max_rows=engine.max_rows,
                is_streaming=is_streaming,
            )
        )

    def close(self) -> None:
        """End vLLM's processes. They also end when this process ends."""
        self._engine.engine_core.shutdown()
        self._folder.cleanup()

    def _cache_salt(self, prompt: Sequence[int]) -> str | None:
        """What keeps the prefix cache of a prompt apart from that of the same ids.

        The id of a reserved row means another vector each time the row is written.
        """
        reserved = [
            user for user in users_in(prompt, self.vocabulary) if user >= self._num_known_users
        ]
        if not reserved or self.users is None:
            return None
        return content_hash(self.users[reserved].contiguous().view(torch.uint8).numpy().tobytes())
