"""The loss: the negative log-likelihood (NLL) of explanations given their prompts, as token IDs.

    prompt = [shared | own | rest]

`shared` is the beginning that all prompts have in common, `own` is what this prompt adds to it, and
`rest` starts at the first collaborative token. Attention is causal, the language model is frozen,
and no adapter acts on `shared` and `own`, so their keys and values are constants. A forward pass
over `rest` alone, given those keys and values, has the same logits and gradients as one over the
whole prompt. `PrefixCache` keeps the constants across epochs, within a memory budget.

Logits are the largest tensor of a training step: 8 rows of 50 labels over a vocabulary of 49,152
take 79 MB in float32, and autograd over float(), log_softmax, and nll_loss would keep four such
tensors. `label_nll` has its own gradient, so only the model's logits and their gradient are kept,
both in the model's dtype. Float32 copies exist for one row at a time; sums are in float32.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.masking_utils import create_masks_for_generate
from transformers.modeling_layers import GradientCheckpointingLayer

from xrec.llm.collaborative import CollaborativeEmbedding, to_device
from xrec.llm.model import unusual_layers

IGNORE = -100
CACHE = "cache" if Version(transformers.__version__) >= Version("5.24") else "past_key_values"
"""The argument of a model's `forward` that takes a cache. Unknown names are silently ignored."""


@dataclass(frozen=True)
class Example:
    """A prompt and the explanation to learn, as token IDs; the explanation has the end token."""

    prompt_ids: Sequence[int]
    label_ids: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.label_ids)

    def packed(self) -> "Example":
        """Return the example in arrays, which take 4 bytes per token, a tenth of a list."""
        return Example(array("i", self.prompt_ids), array("i", self.label_ids))


@dataclass(frozen=True)
class Batch:
    """Left-padded rows: `input_ids` and `attention_mask` (B, S), `labels` (B, L), all int64.

    Shorter explanations are padded with labels of -100.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return Batch(*(to_device(tensor, device) for tensor in vars(self).values()))


def collate(examples: Sequence[Example]) -> Batch:
    """Return the examples as one batch, in which all explanations end in the last column."""
    rows = [torch.tensor([*example.prompt_ids, *example.label_ids]) for example in examples]
    labels = [torch.tensor(list(example.label_ids)) for example in examples]
    padded = partial(pad_sequence, batch_first=True, padding_side="left")
    return Batch(
        input_ids=padded(rows),
        attention_mask=padded([torch.ones_like(row) for row in rows]),
        labels=padded(labels, padding_value=IGNORE),
    )


@dataclass(frozen=True)
class KeyValues:
    """Keys and values of P positions in every layer, for B rows.

    `tensor` (layers, 2, B, heads, P, head_dim); `mask` (B, P), on the CPU, is 1, and 0 at padding.
    """

    tensor: Tensor
    mask: Tensor

    def cache(self) -> DynamicCache:
        """Return a cache for transformers; appending to it does not change `self`."""
        return DynamicCache([(layer[0], layer[1]) for layer in self.tensor])


def token_nll(model: PreTrainedModel, batch: Batch, past: KeyValues | None = None) -> Tensor:
    """Return the NLL in nats of each label token, (B, L); 0 where a label is -100.

    `past` holds the positions before the batch's rows. Logits (B, L, V) are computed only at the L
    positions that predict a label. The batch should be on the CPU.
    """
    embeds = embed_tokens(model, batch.input_ids)
    mask, cache = batch.attention_mask.cpu(), None
    if past is not None:
        mask, cache = torch.cat([past.mask, mask], dim=1), past.cache()
    length, num_labels = batch.input_ids.shape[1], batch.labels.shape[1]
    logits = model(
        inputs_embeds=embeds,
        attention_mask=attention_masks(model, embeds, mask, cache),
        position_ids=to_device(last_positions(mask, length), model.device),
        use_cache=cache is not None,
        # Given a number, transformers would slice, and multiplying the slice copies it per row.
        logits_to_keep=torch.arange(length - num_labels - 1, length - 1, device=model.device),
        **{CACHE: cache},
    ).logits
    return label_nll(logits, to_device(batch.labels, model.device))


def attention_masks(
    model: PreTrainedModel, embeds: Tensor, mask: Tensor, cache: DynamicCache | None
) -> Tensor | dict[str, Tensor | None] | None:
    """Return the masks that `model` would make from `mask` (B, P + S), by kind of layer if several.

    `embeds` (B, S, H) are its input, after the P positions in `cache`. With `mask` on a GPU, the
    model would wait for it to know whether there is padding, so `mask` is on the CPU. Returns None
    if the model needs no mask.
    """
    if not unusual_layers(model):
        shape = torch.empty(*embeds.shape[:2], 0, dtype=embeds.dtype)
        masks = create_masks_for_generate(model.config, shape, mask, **{CACHE: cache})
        if isinstance(masks, dict):
            return {
                kind: None if each is None else to_device(each, embeds.device)
                for kind, each in masks.items()
            }
        if masks is None and cache is not None:
            return None  # without a cache, the model would look at the positions for packed rows
        mask = mask if masks is None else masks
    return to_device(mask, embeds.device)


def embed_tokens(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Return the input vectors (B, S, H) of token IDs (B, S), which should be on the CPU."""
    embedding = model.get_input_embeddings()
    is_ours = isinstance(embedding, CollaborativeEmbedding)
    vectors: Tensor = embedding(input_ids if is_ours else to_device(input_ids, model.device))
    return vectors


def last_positions(mask: Tensor, count: int) -> Tensor:
    """Return position IDs (B, count) of the last columns of a mask (B, S), not counting padding."""
    return (mask.cumsum(-1) - 1).clamp_min(0)[:, -count:]


def label_nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)[label] in nats, (B, L) float32; 0 where the label is -100.

    `logits` (B, L, V) of any floating-point type, `labels` (B, L) int64.
    """
    nll: Tensor = _LabelNLL.apply(logits, labels)  # type: ignore[no-untyped-call]
    return nll


class _LabelNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        rows = zip(logits, labels, strict=True)
        return torch.stack(
            [
                functional.cross_entropy(row.float(), label, ignore_index=IGNORE, reduction="none")
                for row, label in rows
            ]
        )

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """d nll / d logits is softmax(logits), minus 1 at the label."""
        logits, labels = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for row, label, weight, target in zip(
            logits, labels, grad_outputs[0] * (labels != IGNORE), gradient, strict=True
        ):
            probabilities = functional.softmax(row, dim=-1, dtype=torch.float32)
            probabilities.scatter_add_(
                1, label.clamp_min(0)[:, None], probabilities.new_full((len(label), 1), -1.0)
            )
            target.copy_(probabilities.mul_(weight[:, None]))
        return gradient, None


class ExplanationLoss(nn.Module):
    """The sum over examples that training minimizes the mean of, in nats.

    Averaging over tokens, an example adds the NLL of its label tokens. Averaging over explanations
    (the paper's formula), it adds their mean NLL. `count` is the number to divide by.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: "PrefixCache",
        average_over: Literal["tokens", "explanations"] = "tokens",
    ):
        super().__init__()
        self.model = model
        self.prefixes = prefixes
        self._average_over = average_over

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """Return the sum, a scalar."""
        past, rest = self.prefixes.split(self.model, examples)
        nll = token_nll(self.model, collate(rest), past)
        if self._average_over == "tokens":
            return nll.sum()
        lengths = torch.tensor([len(example.label_ids) for example in examples])
        return (nll.sum(dim=1) / to_device(lengths, nll.device)).sum()

    def train(self, mode: bool = True) -> "ExplanationLoss":
        """Set the adapters' mode; the frozen model stays in eval mode, without dropout."""
        super().train(mode)
        self.model.eval()
        embedding = self.model.get_input_embeddings()
        embedding.user_adapter.train(mode)
        embedding.item_adapter.train(mode)
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
                # transformers only checkpoints layers in training mode. Their parts stay in eval.
                layer.training = mode
        return self


# Prefixes


def num_prefix_tokens(prompt_ids: Sequence[int], num_text_tokens: int) -> int:
    """Return the number of tokens before the first collaborative one.

    The last token of the prompt never counts, because its output predicts the first label.
    """
    return next(
        (position for position, token in enumerate(prompt_ids[:-1]) if token >= num_text_tokens),
        len(prompt_ids) - 1,
    )


@torch.no_grad()
def compute_key_values(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], past: KeyValues | None = None
) -> list[Tensor]:
    """Return keys and values (layers, 2, heads, length, head_dim) of each row of token IDs.

    `past`, with B = 1, holds positions that come before every row. This is one forward pass of the
    decoder over the left-padded rows, without autograd and logits.
    """
    length = max(len(row) for row in rows)
    input_ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    cache = DynamicCache()
    if past is not None:
        before = past.mask.expand(len(rows), -1)
        mask = torch.cat([before, mask], dim=1)
        cache = KeyValues(past.tensor.expand(-1, -1, len(rows), -1, -1, -1), before).cache()
    embeds = embed_tokens(model, input_ids)
    model.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=attention_masks(model, embeds, mask, cache),
        position_ids=to_device(last_positions(mask, length), model.device),
        use_cache=True,
        **{CACHE: cache},
    )
    tensor = torch.stack(
        [
            torch.stack([layer.keys[..., -length:, :], layer.values[..., -length:, :]])
            for layer in cache.layers
        ]
    )
    return [tensor[:, :, index, :, length - len(row) :].clone() for index, row in enumerate(rows)]


def batch_key_values(shared: Tensor | None, rows: Sequence[Tensor | None]) -> KeyValues | None:
    """Return a batch with the positions [shared | padding | own] for each row.

    `shared` and `rows` are tensors from `compute_key_values`, or None where there are no tokens.
    Returns None if there is no position at all.
    """
    parts = [part for part in (shared, *rows) if part is not None]
    if not parts:
        return None
    num_shared = 0 if shared is None else shared.shape[-2]
    length = num_shared + max((row.shape[-2] for row in rows if row is not None), default=0)
    layers, two, heads, _, head_dim = parts[0].shape
    tensor = parts[0].new_zeros(layers, two, len(rows), heads, length, head_dim)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    mask[:, :num_shared] = 1
    if shared is not None:
        tensor[..., :num_shared, :] = shared[:, :, None]
    for index, row in enumerate(rows):
        if row is not None:
            tensor[:, :, index, :, length - row.shape[-2] :] = row
            mask[index, length - row.shape[-2] :] = 1
    return KeyValues(tensor, mask)


def can_split(model: PreTrainedModel, num_positions: int) -> bool:
    """Return whether a pass in two parts over `num_positions` positions gives the same as one pass.

    It does if every layer attends to all of the positions, padding included.
    """
    config = model.config.get_text_config(decoder=True)
    window = getattr(config, "sliding_window", None)
    return not unusual_layers(model) and (window is None or num_positions <= window)


class PrefixCache:
    """Splits examples at their first collaborative token, and keeps the prefixes' keys and values.

    All prompts begin with `shared_ids`, and no batch has more than `num_positions` columns. With
    `split=False`, whole examples go through the model each time. Under ZeRO stage 3 all workers
    must make the same forward passes, so `agree` is given whether this worker has a prefix to
    compute, and returns whether any worker does.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        shared_ids: Sequence[int],
        *,
        num_positions: int,
        budget_bytes: int,
        agree: Callable[[bool], bool] = bool,
        split: bool = True,
    ):
        self._num_text_tokens = model.get_input_embeddings().vocabulary.num_text_tokens
        self.can_split = can_split(model, num_positions)
        """Whether a pass in two parts gives the same result; independent of `split`."""
        self._splits = split and self.can_split
        self._shared_ids = list(shared_ids) if self._splits else []
        self._shared: Tensor | None = None
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._budget_bytes = budget_bytes
        self._agree = agree
        self.num_bytes = 0
        """Size of the kept keys and values, without the shared ones."""

    def split(
        self, model: PreTrainedModel, examples: Sequence[Example]
    ) -> tuple[KeyValues | None, list[Example]]:
        """Return the keys and values of the examples' prefixes, and the rest of the examples."""
        num_shared = len(self._shared_ids)
        assert all(
            list(example.prompt_ids[:num_shared]) == self._shared_ids for example in examples
        )
        if self._shared is None and self._shared_ids:
            (self._shared,) = compute_key_values(model, [self._shared_ids])
        own_ids, rest = list[tuple[int, ...]](), list[Example]()
        for example in examples:
            length = (
                num_prefix_tokens(example.prompt_ids, self._num_text_tokens) if self._splits else 0
            )
            own_ids.append(tuple(example.prompt_ids[num_shared:length]))
            rest.append(Example(example.prompt_ids[length:], example.label_ids))
        computed = self._compute(
            model, [ids for ids in dict.fromkeys(own_ids) if ids and ids not in self._kept]
        )
        rows = [computed.get(ids, self._kept.get(ids)) for ids in own_ids]
        return batch_key_values(self._shared, rows), rest

    def _compute(
        self, model: PreTrainedModel, missing: list[tuple[int, ...]]
    ) -> dict[tuple[int, ...], Tensor]:
        if not self._agree(bool(missing)):
            return {}
        # If only other workers have prefixes to compute, this one passes some token along.
        rows = missing or [(0,)]
        past = batch_key_values(self._shared, [None])
        computed = dict(zip(rows, compute_key_values(model, rows, past), strict=True))
        for ids in missing:
            num_bytes = computed[ids].nbytes
            if self.num_bytes + num_bytes <= self._budget_bytes:
                self._kept[ids] = computed[ids]
                self.num_bytes += num_bytes
        return computed
