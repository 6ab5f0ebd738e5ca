"""The sample's language model: a small Llama that knows the town's language, but not its people.

Its artifact is a Hugging Face model folder with a manifest. It is trained on the examples of
`xrec.sample.texts`, and then frozen like any other model.
"""

import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from xrec.config import BuildSampleLLMConfig, PromptConfig, identity_of
from xrec.data.language import title_spans
from xrec.llm.collaborative import Vocabulary
from xrec.llm.loss import Batch, Example, collate, token_nll
from xrec.llm.prompt import PairTexts, PromptBuilder
from xrec.llm.title_placeholder import TitlePlaceholder
from xrec.progress import progress
from xrec.sample import LanguageExample, generate_language_examples
from xrec.storage import Manifest, location_of, write_contents, write_manifest

logger = logging.getLogger("xrec")

_START, _END, _PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_NUM_SPECIAL = 3
VOCAB_SIZE = 1024  # at most
HIDDEN_SIZE, NUM_LAYERS = 128, 3
_NUM_HEADS, _NUM_KEY_VALUE_HEADS = 4, 2  # grouped-query attention
_COPY_LENGTH = 24
NUM_COPY_STEPS = 100
BATCH_SIZE = 32  # texts per step
_NUM_SHARDS = 2
"""Number of threads that share a step, each with the whole model and a part of the batch.

The operations are so small that torch's own threads would mostly spin while they wait, which halves
the speed when another process is running.
"""
LEARNING_RATE = 3e-3  # at its peak
_SEED = 0  # of the texts and of the initialization


def build_sample_llm(config: BuildSampleLLMConfig) -> Manifest:
    """Train and write the model, and return its manifest."""
    torch.set_num_threads(1)
    model, tokenizer, loss = train_sample_model(config.num_steps, config.prompt)
    logger.info("sample language model: loss %.3f nats per token", loss)
    with tempfile.TemporaryDirectory(prefix="xrec-llm-") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    output = location_of(config, "llm")
    hashes, metrics = write_contents(output, files), {"loss": loss}
    return write_manifest(
        output, "llm", config=identity_of(config), inputs={}, files=hashes, metrics=metrics
    )


def train_sample_model(
    num_steps: int, prompt: PromptConfig
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase, float]:
    """Train a model and a tokenizer from scratch, and return them with their loss.

    The loss is the mean over the last tenth of the steps, in nats per token.
    """
    torch.manual_seed(_SEED)
    examples = generate_language_examples(num_steps * BATCH_SIZE, _SEED)
    plain = [_plain_text(example, prompt) for example in examples[:2000]]
    tokenizer = train_tokenizer(plain, VOCAB_SIZE)
    model = build_model(tokenizer, hidden_size=HIDDEN_SIZE, num_layers=NUM_LAYERS)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    num_all = NUM_COPY_STEPS + num_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _learning_rate_share(step, num_all)
    )
    batches = itertools.chain(
        _copy_batches(len(tokenizer)), _text_batches(examples, tokenizer, prompt)
    )
    losses: list[float] = []
    with ThreadPoolExecutor(_NUM_SHARDS) as threads:
        for rows in progress(batches, "sample language model", num_all):
            losses.append(_backward(model, rows, threads))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    last = losses[-max(1, len(losses) // 10) :]
    return model.eval(), tokenizer, sum(last) / len(last)


def _learning_rate_share(step: int, num_steps: int) -> float:
    """Return the share of the peak rate: warm-up in the first tenth, decay in the second half."""
    warmup, decay = min(1.0, 10 * (step + 1) / num_steps), min(1.0, 2 * (1 - step / num_steps))
    return warmup * max(0.05, decay)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of at most `vocab_size` tokens, with a ChatML template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_END,
        pad_token=_PAD,
        additional_special_tokens=[_START],
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def build_model(
    tokenizer: PreTrainedTokenizerBase, *, hidden_size: int, num_layers: int
) -> LlamaForCausalLM:
    """Return a freshly initialized Llama with grouped-query attention."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=_NUM_HEADS,
            num_key_value_heads=_NUM_KEY_VALUE_HEADS,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _plain_text(example: LanguageExample, prompt: PromptConfig) -> str:
    values = {"user": "", "item": "", **vars(example)}
    user, item = prompt.user.format(**values), prompt.item.format(**values)
    hidden = _hidden_title(example, TitlePlaceholder(prompt.untitled))
    return f"system user assistant\n{prompt.instruction}\n{user}\n{item}\n{hidden}"


def _hidden_title(example: LanguageExample, placeholder: TitlePlaceholder) -> str:
    """Return the explanation as the model learns it, with the placeholder for the title."""
    spans = title_spans(example.explanation, example.item_title)
    return placeholder.hide(example.explanation, spans)


def _copy_batches(vocab_size: int) -> Iterator[list[Example]]:
    """Yield batches of random tokens, with the same tokens again as the target.

    A model learns to copy from these in a hundred short steps; from texts alone it needs a
    thousand.
    """
    for _ in range(NUM_COPY_STEPS):
        tokens = torch.randint(_NUM_SPECIAL, vocab_size, (2 * BATCH_SIZE, _COPY_LENGTH)).tolist()
        yield [Example(row + row[:1], row[1:]) for row in tokens]


def _text_batches(
    examples: Sequence[LanguageExample], tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig
) -> Iterator[list[Example]]:
    builder = PromptBuilder(tokenizer, prompt, Vocabulary(len(tokenizer), 0, 0))
    for start in range(0, len(examples), BATCH_SIZE):
        yield [_example(builder, example) for example in examples[start : start + BATCH_SIZE]]


def _example(builder: PromptBuilder, example: LanguageExample) -> Example:
    texts = PairTexts(example.user_profile, example.item_title, example.item_profile)
    hidden = _hidden_title(example, builder.placeholder)
    return Example(builder.build_without_tokens(texts), builder.encode_explanation(hidden))


def _backward(
    model: LlamaForCausalLM, examples: list[Example], threads: ThreadPoolExecutor
) -> float:
    """Set the gradients of the mean NLL of the explanations' tokens; return the NLL in nats."""
    parameters = list(model.parameters())
    batches = [collate(examples[shard::_NUM_SHARDS]) for shard in range(_NUM_SHARDS)]
    num_tokens = sum(int((batch.labels >= 0).sum()) for batch in batches)

    def part(batch: Batch) -> tuple[float, tuple[torch.Tensor, ...]]:
        loss = token_nll(model, batch).sum() / num_tokens
        return loss.item(), torch.autograd.grad(loss, parameters)

    losses, gradients = zip(*threads.map(part, batches), strict=True)
    for parameter, parts in zip(parameters, zip(*gradients, strict=True), strict=True):
        parameter.grad = sum(parts[1:], start=parts[0])
    return float(sum(losses))
