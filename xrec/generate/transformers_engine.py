"""The default engine: left-padded batches of similar length through transformers' own `generate`."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from xrec.config import DecodingConfig
from xrec.generate.engine import Completion
from xrec.llm.collaborative import CollaborativeEmbedding


class TransformersEngine:
    """An `Engine` over a transformers model with collaborative tokens (xrec.adapter.model.attach_adapters).

    It takes the model's own generation settings (sampling, penalties) away: `generate` would fill in from them whatever
    `_generation_config` leaves open, and only the job's config may decide a backfill.
    """

    def __init__(self, model: PreTrainedModel, stop_token_ids: Sequence[int], batch_size: int):
        self.model = model
        self.model.generation_config = GenerationConfig()
        self.stop_token_ids = list(stop_token_ids)
        self.batch_size = batch_size

    def generate(self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig) -> Iterator[Completion]:
        """Yield one completion a prompt, in order of prompt length; ValueError for an empty prompt or an id out of range."""
        self._check(prompts)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            # The seed of a batch depends on what is in it, so that a repeated run repeats its samples.
            outputs = self._generate_batch([prompts[index] for index in indices], decoding, seed=decoding.seed + start)
            for index, output in zip(indices, outputs, strict=True):
                yield self._completion(index, output)

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, seed: int) -> list[list[int]]:
        input_ids, attention_mask = _left_padded(prompts)
        torch.manual_seed(seed)
        output = self.model.generate(
            input_ids=input_ids.to(self.model.device),
            attention_mask=attention_mask.to(self.model.device),
            generation_config=self._generation_config(decoding),
        )
        generated: list[list[int]] = output[:, input_ids.shape[1] :].tolist()
        return generated

    def _generation_config(self, decoding: DecodingConfig) -> GenerationConfig:
        sampling = {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0} if decoding.temperature > 0 else {}
        return GenerationConfig(
            max_new_tokens=decoding.max_new_tokens, eos_token_id=self.stop_token_ids, pad_token_id=self.stop_token_ids[0], **sampling
        )

    def _completion(self, index: int, generated: list[int]) -> Completion:
        """Cut the row at its first stop token; without one it ran into the length limit."""
        end = next((position for position, token in enumerate(generated) if token in self.stop_token_ids), None)
        return Completion(index, generated[:end], "length" if end is None else "stop")

    def _check(self, prompts: Sequence[Sequence[int]]) -> None:
        embedding = self.model.get_input_embeddings()
        num_ids = embedding.vocabulary.num_ids if isinstance(embedding, CollaborativeEmbedding) else embedding.num_embeddings
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {index} is empty")
            if not 0 <= min(prompt) <= max(prompt) < num_ids:
                raise ValueError(f"prompt {index}: token ids must be in 0..{num_ids - 1}, saw {min(prompt)}..{max(prompt)}")


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, prompts))
    input_ids = torch.zeros(len(prompts), length, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, length - len(prompt) :] = 1
    return input_ids, attention_mask
