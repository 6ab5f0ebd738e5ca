from xrec.data.parser import parse


def test_parse_mark_between_words_without_a_blank_becomes_one_mark_and_a_blank():
    texts = ["A fit..price is good", "Great tone,price too"]
    assert [doc.text for doc in parse(texts)] == [
        "A fit. price is good",
        "Great tone, price too",
    ]
