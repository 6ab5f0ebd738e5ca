import pytest

from xrec.evaluate import SCORED_PAIRS, ScoredPair, scored_pairs_table


def _pair(**values: object) -> ScoredPair:
    defaults = {
        "user_id": "u",
        "item_id": "i",
        "reference": "r",
        "explanation": "e",
        "nll_own": 1.0,
        "nll_shuffled": 2.0,
    }
    return ScoredPair(**{**defaults, **values})


def test_table_of_pairs_has_the_pinned_schema_and_keeps_order_and_nulls():
    table = scored_pairs_table(
        [_pair(user_id="b"), _pair(user_id="a", aspect="jazz", aspects=("jazz", "view"))]
    )
    assert table.schema.equals(SCORED_PAIRS)
    assert table["user_id"].to_pylist() == ["b", "a"]
    assert table["aspects"].to_pylist() == [None, ["jazz", "view"]]
    assert table["shuffled_explanation"].null_count == 2


@pytest.mark.parametrize("name", ["nll_own", "nll_shuffled"])
def test_pair_with_nan_nll_is_refused_naming_pair_and_field(name):
    with pytest.raises(ValueError, match=rf"'u', 'i'.*{name} is nan"):
        _pair(**{name: float("nan")})


def test_pair_has_both_likelihoods_or_neither():
    assert _pair(nll_own=None, nll_shuffled=None).gain is None
    assert _pair().gain == 1.0
    with pytest.raises(ValueError, match=r"nll_own is None and nll_shuffled 2\.0; expected both"):
        _pair(nll_own=None)


def test_pair_whose_aspect_is_not_the_items_is_refused():
    with pytest.raises(ValueError, match="'view' is not among"):
        _pair(aspect="view", aspects=("jazz",))
