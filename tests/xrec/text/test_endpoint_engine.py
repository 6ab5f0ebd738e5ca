"""The tokenizer of words that stands in for an endpoint's own."""

from hypothesis import example, given
from hypothesis import strategies as st

from xrec.text.endpoint_engine import WordTokenizer

_ANY = st.text(st.characters(exclude_categories=()))


@given(st.lists(_ANY), st.integers(0, 5))
@example(["a quiet garden", "the \x00 quiet\ud83d\ude00 garden"], 2)
def test_word_tokenizer_keeps_few_words_and_loses_no_text(texts, max_words):
    tokenizer = WordTokenizer(max_words)
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    assert [tokenizer.decode(token_ids) for token_ids in encoded] == texts
    assert len({token for token_ids in encoded for token in token_ids if token > 0}) <= max_words
    assert all(token for token_ids in encoded for token in token_ids)  # 0 ends a text
