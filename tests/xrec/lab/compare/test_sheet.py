"""Blind sheets for human judges: what they show, what may come back, and what is said of it."""

import numpy as np
import pandas as pd
import pytest

from tests.errors import raises
from tests.xrec.lab.compare.conftest import run
from xrec.errors import ConfigError, DataError
from xrec.lab.compare.sheet import CRITERIA, krippendorff_alpha, read_sheets, write_sheet


def test_sheets_hide_the_entry_and_come_back_as_means_with_agreement(make_config, tmp_path):
    config = make_config(entries=["profile", "ours", "nearest"], seeds=[0])
    made, judges, orders = run(config), [], []
    for seed, lowest in enumerate((1, 1, 2)):
        path = str(tmp_path / f"{seed}.csv")
        num_texts = write_sheet(config, made, path, num_pairs=6, seed=seed)
        rows = pd.read_csv(path, dtype=str).fillna("")
        orders.append(rows["text"].to_list())
        assert len(rows) == num_texts <= 18
        assert {*rows.columns} == {"id", "title", "item", "user", "history", "text", *CRITERIA}
        assert not rows[["title", "item", "user", "history", "text"]].eq("").any(axis=None)
        # Profiles are rated one below the others; the third judge rates all one above.
        is_profile = rows["text"].to_numpy() == rows["item"].to_numpy()
        rows["true"] = np.where(is_profile, lowest, lowest + 1)
        rows["personal"], rows["fluent"] = 4, 1 + rows.index % 5
        rows[::-1].to_csv(path, index=False)  # in any order
        judges.append(path)
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    found = read_sheets(config, judges[:2])
    assert found.num_texts["profile"] == found.num_texts["nearest"] == 6
    assert [found.own[name][0].value for name in found.own] == [1, 2, 2]
    assert [found.minus_first[name][0].low for name in ("ours", "nearest")] == [1, 1]
    assert [found.agreement[name] for name in CRITERIA[:2]] == [1, None]
    assert found.agreement["fluent"] < 0.8
    three = read_sheets(config, judges)
    assert three.own["nearest"][0].value == pytest.approx(7 / 3)
    assert three.own["nearest"][0].low < 2  # judges differ
    assert three.minus_first["nearest"][0].low == 1  # but not in this
    assert three.agreement["true"] < 1
    _check_refusals(config, judges[0])
    with raises(ConfigError, "file_exists", "--to", judges[0]):
        write_sheet(config, made, judges[0], num_pairs=6, seed=0)
    write_sheet(config, made, other := str(tmp_path / "b.csv"), num_pairs=3, seed=0)
    rows = pd.read_csv(other).fillna(5)
    rows.astype(dict.fromkeys(CRITERIA, int)).to_csv(other, index=False)
    with raises(DataError, "other_rows", other, (num_texts, len(rows))):
        read_sheets(config, [judges[0], other])


def _check_refusals(config, path):
    rows = pd.read_csv(path, dtype=str)
    first = rows["id"][0]
    for code, saw, changed in (
        ("other_rows", (1, 0), rows[1:]),
        ("other_rows", (0, 1), pd.concat([rows, rows[:1].assign(id=f"{first}0")])),
        ("another_comparison", "abc", rows.assign(id="abc-" + rows["id"].str[-4:])),
        ("broken_rows", None, rows.assign(true="6")),
        ("broken_rows", None, rows.assign(fluent="")),
        ("broken_rows", None, pd.concat([rows, rows[:1]])),
        ("missing_column", None, rows.drop(columns="personal")),
    ):
        changed.to_csv(f"{path}-{code}.csv", index=False)
        with raises(DataError, code) as caught:
            read_sheets(config, [f"{path}-{code}.csv"])
        assert saw in (None, caught.value.saw)


def test_alpha_equals_krippendorffs_example():
    """Example C of "Computing Krippendorff's Alpha-Reliability": ordinal, with missing scores."""
    nan = np.nan
    scores = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert krippendorff_alpha(np.array(scores)) == pytest.approx(0.815, abs=5e-4)
