"""When a text ends; whole runs are tested with the engine (test_transformers_engine)."""

from xrec.generate.packed.sequences import Stopping


def test_stopping_decodes_a_text_once_whatever_the_number_of_stop_strings() -> None:
    decoded: list[list[int]] = []

    def decode(token_ids: list[int]) -> str:
        decoded.append(token_ids)
        return " ".join(map(str, token_ids))

    stopping = Stopping(frozenset({9}), ("1 2", "7", "3 4"), decode, max_new_tokens=5)
    texts = [[1], [1, 3], [1, 3, 4], [5, 1, 2], [1, 9], [1, 1, 1, 1, 1]]
    reasons = [stopping.reason(ids, 10) for ids in texts]
    assert reasons == [None, None, "stop", "stop", "stop", "length"]
    assert decoded == [ids for ids in texts if ids[-1] != 9]
