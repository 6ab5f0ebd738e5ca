"""The sample's language model: a few steps; its quality is the demo's business."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from jobs.build_sample_llm import run
from xrec.config.data import BuildSampleLLMConfig
from xrec.config.llm import LLMConfig
from xrec.config.prompt import PromptConfig
from xrec.errors import ArtifactMismatchError
from xrec.llm.examples import Example, collate, token_nll
from xrec.llm.model import load_model, load_tokenizer
from xrec.llm.source import resolve_model
from xrec.sample import generate_language_examples
from xrec.sample.language_model import (
    _backward,
    build_model,
    train_sample_model,
    train_tokenizer,
)

TINY = {"_HIDDEN_SIZE": 32, "_NUM_LAYERS": 1, "_VOCAB_SIZE": 400, "_NUM_COPY_STEPS": 1}


@pytest.fixture(autouse=True)
def few_short_steps(monkeypatch):
    for name, value in {**TINY, "_BATCH_SIZE": 4}.items():
        monkeypatch.setattr(f"xrec.sample.language_model.{name}", value)


def test_train_sample_model_learns_and_repeats_with_its_seed(monkeypatch):
    model, tokenizer, loss = train_sample_model(6, PromptConfig())
    again = train_sample_model(6, PromptConfig())
    assert loss == again[2]
    assert all(
        torch.equal(left, right)
        for left, right in zip(model.parameters(), again[0].parameters(), strict=True)
    )
    monkeypatch.setattr("xrec.sample.language_model._LEARNING_RATE", 1e-2)
    assert train_sample_model(30, PromptConfig())[2] < loss - 0.3
    assert model.config.vocab_size == len(tokenizer) == 400
    assert not model.training


def test_backward_of_a_batch_in_shards_gives_the_gradients_of_the_whole_batch():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a text"], 300)
    model = build_model(tokenizer, hidden_size=32, num_layers=1)
    lengths = [(3, 2), (7, 5), (4, 1), (5, 4), (6, 3)]
    examples = [
        Example(torch.randint(3, 250, (m,)).tolist(), torch.randint(3, 250, (n,)).tolist())
        for m, n in lengths
    ]
    with ThreadPoolExecutor(2) as threads:
        loss = _backward(model, examples, threads)
    in_shards = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    batch = collate(examples)
    whole = token_nll(model, batch).sum() / (batch.labels >= 0).sum()
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-5)
    for gradient, parameter in zip(in_shards, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_train_tokenizer_gives_every_text_back():
    texts = [example.explanation for example in generate_language_examples(50, seed=0)]
    tokenizer = train_tokenizer(texts, 400)
    for text in [*texts[:5], "naïve 😀 \t two  spaces <|im_end|>"]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids
    message = [{"role": "user", "content": "Hi"}]
    shown = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_build_sample_llm_writes_a_model_that_loads_and_does_no_work_twice(tmp_path, monkeypatch):
    config = BuildSampleLLMConfig(workspace=str(tmp_path), num_steps=6)
    manifest = run(config)
    folder = resolve_model(LLMConfig(model=str(tmp_path / "llm")))
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.shape == (len(load_tokenizer(folder)), 32)
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {"manifest.json"}

    monkeypatch.setattr("xrec.sample.language_model.train_sample_model", None)
    assert run(config) == manifest
    with pytest.raises(ArtifactMismatchError, match="holds the llm of another run"):
        run(config.model_copy(update={"num_steps": 7}))
