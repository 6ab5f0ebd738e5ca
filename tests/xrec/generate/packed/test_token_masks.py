"""Masks over the next token: what a grammar allows is what is written, and nothing else."""

import random
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.toy import toy_model, toy_tokenizer
from tests.xrec.generate.packed.runs import (
    END,
    GREEDY,
    V,
    finish,
    make_model,
    make_prompts,
    make_run,
)
from xrec.generate.engine import Completion, Grammar, TextParams
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.run import PackedRun
from xrec.generate.packed.token_masks import apply_masks

EVEN = [token for token in range(4, V) if token % 2 == 0]


class Sequences:
    """A constraint: after token t, the tokens `follow[t]` may come; `first` before there is one.

    It is its own mask's maker, and counts the masks that it made.
    """

    grammar: Grammar | None = None

    def __init__(self, first: list[int], follow: dict[int, list[int]]):
        self.first, self.follow, self.num_started = first, follow, 0

    def start(self) -> "SequenceMask":
        self.num_started += 1
        return SequenceMask(self)


class SequenceMask:
    def __init__(self, of: Sequences):
        self._of, self._allowed = of, of.first

    def fill(self, bitmask: Tensor) -> bool:
        bitmask.fill_(0)
        words = bitmask.tolist()
        for token in self._allowed:
            words[token // 32] |= 1 << token % 32
        bitmask.copy_(torch.tensor([word - (word >= 2**31) * 2**32 for word in words]))
        return True

    def accept(self, token_id: int) -> None:
        assert token_id in self._allowed
        self._allowed = self._of.follow[token_id]


class AnyMask:
    """Allows everything and says so without writing a mask."""

    grammar: Grammar | None = None

    def start(self) -> "AnyMask":
        return self

    def fill(self, bitmask: Tensor) -> bool:
        return False

    def accept(self, token_id: int) -> None:
        pass


def complete(*requests: tuple[list[int], TextParams]) -> list[list[Completion]]:
    """The completions of each request, all at work together."""
    run = make_run(make_model())
    ids = [run.add(*request) for request in requests]
    ended = finish(run)
    return [
        [ended[one, number] for number in range(params.num_texts)]
        for one, (_, params) in zip(ids, requests, strict=True)
    ]


def test_apply_masks_leaves_the_allowed_logits_as_they_are() -> None:
    rng = random.Random(0)
    for vocabulary in (5, 32, 33, 64, 100):
        rows = [rng.sample(range(vocabulary), 3) for _ in range(4)]
        logits = torch.randn(6, vocabulary)
        before = logits.clone()
        masks = [None, *(Sequences(row, {}).start() for row in rows), AnyMask()]
        apply_masks(logits, masks)
        for row, allowed in enumerate([range(vocabulary), *rows, range(vocabulary)]):
            expected = torch.full((vocabulary,), -torch.inf)
            expected[list(allowed)] = before[row, list(allowed)]
            assert torch.equal(logits[row], expected)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_text_follows_its_mask_and_the_others_are_as_without(temperature: float) -> None:
    first, second, third = make_prompts()[:3]
    params = replace(GREEDY, temperature=temperature)
    digits = Sequences([5, 7], {5: [7, 9], 7: [5], 9: [5, END]})
    masked, free, any_token = complete(
        (first, replace(params, constraint=digits)),
        (second, params),
        (third, replace(params, constraint=AnyMask())),
    )
    text = masked[0].token_ids
    assert set(text) <= {5, 7, 9}
    assert all(after in digits.follow[token] for token, after in pairwise(text))
    assert complete((second, params)) == [[replace(free[0], index=0)]]
    assert complete((third, params)) == [[replace(any_token[0], index=0)]]


def test_greedy_text_takes_the_likeliest_of_the_allowed_tokens() -> None:
    prompt = make_prompts()[0]
    ((completion,),) = complete(
        (prompt, replace(GREEDY, constraint=Sequences(EVEN, dict.fromkeys(EVEN, EVEN))))
    )
    model, text = make_model(), completion.token_ids
    for place in range(len(text)):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *text[:place]]])).logits[0, -1]
        assert text[place] == max(EVEN, key=lambda token: float(logits[token]))


def test_each_text_of_a_request_has_a_mask_of_its_own() -> None:
    both = Sequences([5, 7], {5: [9], 7: [11], 9: [END], 11: [END]})
    params = TextParams(temperature=9.0, num_texts=8, constraint=both, seed=1)
    ((*several,),) = complete((make_prompts()[0], params))
    assert {tuple(one.token_ids) for one in several} == {(5, 9), (7, 11)}
    assert both.num_started == 8


def test_mask_that_leaves_no_token_fails_its_text_alone() -> None:
    first, second = make_prompts()[:2]
    dead_end = Sequences([5], {5: [7], 7: []})
    (failed,), (fine,) = complete((first, replace(GREEDY, constraint=dead_end)), (second, GREEDY))
    assert failed.failure is not None
    assert failed.failure.reason == "no_token_allowed"
    assert (failed.finish_reason, failed.token_ids) == ("failed", [])
    assert [[replace(fine, index=0)]] == complete((second, GREEDY))


def test_one_text_without_an_allowed_token_leaves_the_other_texts_of_its_request() -> None:
    one_dead_end = Sequences([5, 7], {5: [], 7: [END]})
    params = TextParams(temperature=9.0, num_texts=8, constraint=one_dead_end, seed=1)
    ((*several,),) = complete((make_prompts()[0], params))
    assert {one.finish_reason for one in several} == {"stop", "failed"}
    assert {tuple(one.token_ids) for one in several} == {(7,), ()}


class Matched:
    """A grammar of xgrammar as a constraint."""

    grammar: Grammar | None = None

    def __init__(self, compiled: Any):
        self._compiled = compiled

    def start(self) -> "Matcher":
        import xgrammar

        return Matcher(xgrammar.GrammarMatcher(self._compiled))


class Matcher:
    def __init__(self, matcher: Any):
        self._matcher = matcher

    def fill(self, bitmask: Tensor) -> bool:
        return bool(self._matcher.fill_next_token_bitmask(bitmask[None]))

    def accept(self, token_id: int) -> None:
        assert self._matcher.accept_token(token_id)


def test_matcher_of_xgrammar_is_a_mask_and_its_texts_match_the_grammar() -> None:
    xgrammar = pytest.importorskip("xgrammar")
    tokenizer = toy_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    info = xgrammar.TokenizerInfo.from_huggingface(
        tokenizer, vocab_size=len(tokenizer), stop_token_ids=[end]
    )
    pattern = r"(calm|near) (tea|fox)( and (tea|fox)){0,2}\."
    constraint = Matched(xgrammar.GrammarCompiler(info).compile_regex(pattern))
    run = PackedRun(
        PackedModel(toy_model(vocab_size=len(tokenizer))),
        [end],
        tokenizer.decode,
        max_rows=8,
        key_value_bytes=2**22,
    )
    params = TextParams(temperature=1.5, num_texts=12, constraint=constraint, seed=2)
    run.add(tokenizer("The user likes")["input_ids"], params)
    texts = [tokenizer.decode(one.token_ids) for one in finish(run).values()]
    assert len(texts) == 12
    assert len(set(texts)) > 3
    assert all(re.fullmatch(pattern, text) for text in texts)
