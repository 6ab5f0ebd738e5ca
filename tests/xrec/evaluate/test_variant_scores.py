import pytest

from xrec.errors import ArtifactNotFoundError
from xrec.evaluate import ScoredPair
from xrec.evaluate.variant_scores import of_the_same_pairs, read_scores, write_scores
from xrec.storage import open_location


def score(user: str, item: str, nll: float) -> ScoredPair:
    return ScoredPair(user, item, "text", None, nll, nll + 1)


def test_scores_are_read_as_written(tmp_path):
    scores = [
        ScoredPair(
            "u", "i", "a text", "another", 1.5, 2.5, None, "jazz", ("jazz", "view"), "Fox", True
        ),
        score("v", "i", 0.5),
    ]
    location = open_location(str(tmp_path))
    with pytest.raises(ArtifactNotFoundError):
        read_scores(location)
    manifest = write_scores(location, scores, config={"seed": 1}, inputs={"adapter": "01"})
    assert read_scores(location) == scores
    assert (manifest.kind, manifest.row_counts) == ("scores", {"pairs": 2})


def test_of_the_same_pairs_drops_a_pair_that_one_variant_lacks_and_lines_up_the_rest():
    full = [score("u", "a", 1), score("u", "b", 2), score("v", "a", 3)]
    other = [score("v", "a", 30), score("u", "a", 10), score("w", "a", 40)]
    matched = of_the_same_pairs({"full": full, "constant": other})
    assert [row.nll_own for row in matched["full"]] == [1, 3]
    assert [row.nll_own for row in matched["constant"]] == [10, 30]
