"""The input vectors of a step under vLLM's Model Runner V2, which GPUs use.

The runner tells a model state each request's token ids on the host, once, and in each step which
of their positions are computed. So the adapters run once for a request, and in a step the places of
users and items are known without reading anything from the device. A step that only decodes looks
words up and does nothing else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.mm.encoder_cache import EncoderCache
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.states import RequestState


@dataclass(eq=False)
class _Entities:
    """The users and items of one request: positions (n,) and ids (n,), on the host.

    `vectors` (n, H) are on the device; they are None until the adapters have run.
    """

    positions: np.ndarray
    token_ids: np.ndarray
    vectors: Tensor | None = None


class CollaborativeModelState(DefaultModelState):
    """vLLM's state of a decoder, with the users and items of the requests at work."""

    supports_prompt_embeds = False

    def __init__(
        self,
        vllm_config: VllmConfig,
        model: nn.Module,
        encoder_cache: EncoderCache | None,
        device: torch.device,
    ):
        super().__init__(vllm_config, model, encoder_cache, device)
        # Captured graphs read it at this address.
        self._embeds = torch.zeros(
            self.max_num_tokens, self.inputs_embeds_size, dtype=self.dtype, device=device
        )
        self._entities: dict[str, _Entities] = {}

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        """Note the users and items of a request that are still to be computed."""
        super().add_request(req_index, new_req_data)
        token_ids = np.asarray(new_req_data.prefill_token_ids)
        start = new_req_data.num_computed_tokens
        positions = start + np.flatnonzero(token_ids[start:] >= self.model.vectors.num_text_tokens)
        if len(positions):
            self._entities[new_req_data.req_id] = _Entities(positions, token_ids[positions])

    def remove_request(self, req_id: str) -> None:
        """Forget a request that has ended or was preempted."""
        super().remove_request(req_id)
        self._entities.pop(req_id, None)

    def apply_staged_writes(self) -> None:
        """Run the adapters for the requests that were added since the last call, all in one."""
        super().apply_staged_writes()
        added = [entities for entities in self._entities.values() if entities.vectors is None]
        if not added:
            return
        token_ids = torch.from_numpy(np.concatenate([one.token_ids for one in added]))
        vectors = self.model.vectors(token_ids)
        lengths = [len(one.token_ids) for one in added]
        for one, part in zip(added, vectors.split(lengths), strict=True):
            one.vectors = part

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """The model's inputs of a step: vectors instead of ids."""
        num_tokens = input_batch.num_tokens
        self._embeds[:num_tokens] = self.model.embed_text(input_batch.input_ids[:num_tokens])
        rows, parts = self._scheduled(input_batch)
        if rows:
            places = async_tensor_h2d(np.concatenate(rows), device=self.device)
            vectors = torch.cat(parts)
            self._embeds.index_copy_(0, places, vectors.to(self.dtype))
            self.model.injection.write_at(places, vectors, num_tokens)
        else:
            self.model.injection.clear()
        return {
            **super().prepare_inputs(input_batch, req_states),
            "input_ids": None,
            "inputs_embeds": self._embeds[: input_batch.num_tokens_after_padding],
        }

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        """The inputs with which graphs are captured."""
        return {
            **super().prepare_dummy_inputs(num_reqs, num_tokens),
            "input_ids": None,
            "inputs_embeds": self._embeds[:num_tokens],
        }

    def _scheduled(self, input_batch: InputBatch) -> tuple[list[np.ndarray], list[Tensor]]:
        """Which rows of the step are users and items, with their vectors; all from the host."""
        rows: list[np.ndarray] = []
        vectors: list[Tensor] = []
        if not input_batch.has_prefill:
            return rows, vectors
        for place, req_id in enumerate(input_batch.req_ids):
            one = self._entities.get(req_id)
            if one is None:
                continue
            start = input_batch.num_computed_tokens_np[place]
            stop = start + input_batch.num_scheduled_tokens[place]
            first, last = np.searchsorted(one.positions, (start, stop))
            if first < last:
                assert one.vectors is not None
                row_of_start = int(input_batch.query_start_loc_np[place]) - int(start)
                rows.append(one.positions[first:last] + row_of_start)
                vectors.append(one.vectors[first:last])
        return rows, vectors
