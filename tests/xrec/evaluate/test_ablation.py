"""The ablation's figures against plain means, its differences pair by pair, and the artifact."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from xrec.evaluate import ScoredPair
from xrec.evaluate.ablation import compute_ablation, write_ablation
from xrec.evaluate.text_metrics import corpus_bleu
from xrec.storage import content_hash, finished, open_location

SETTINGS = {"encoder": None, "batch_size": 4, "num_samples": 300, "seed": 0}


def make_scores(
    above: float, *, with_texts: bool = False, num_pairs: int = 60, aspect: str | None = "live jazz"
) -> list[ScoredPair]:
    """Pairs of 20 users; own NLL is `above` that of the same pair with above = 0."""
    rng = np.random.default_rng(0)
    base, gain = rng.normal(2.0, 0.5, num_pairs), rng.normal(0.2, 0.1, num_pairs)
    return [
        ScoredPair(
            user_id=f"user-{index % 20}",
            item_id=f"item-{index}",
            reference="It has live jazz.",
            nll_own=float(base[index] + above),
            nll_shuffled=float(base[index] + gain[index] + above),
            explanation=("It has live jazz." if index % 4 else "It has a river view.")
            if with_texts and index < 40
            else None,
            aspect=aspect,
            aspects=None if aspect is None else (aspect, "river view"),
        )
        for index in range(num_pairs)
    ]


def test_ablation_values_are_the_plain_means_over_pairs():
    scores = make_scores(0.0)
    metrics = compute_ablation({"full": scores}, **SETTINGS)["full"]
    assert metrics["nll_own"].value == pytest.approx(np.mean([score.nll_own for score in scores]))
    assert metrics["personalization_gain"].value == pytest.approx(
        np.mean([score.nll_shuffled - score.nll_own for score in scores])
    )
    assert set(metrics) == {"nll_own", "nll_shuffled", "personalization_gain"}


def test_ablation_difference_is_paired_so_that_what_pairs_share_does_not_widen_it():
    metrics = compute_ablation(
        {"full": make_scores(0.0), "constant": make_scores(0.05)}, **SETTINGS
    )
    above = metrics["constant"]["nll_above_full"]
    assert (above.value, above.low, above.high) == pytest.approx((0.05, 0.05, 0.05))
    unpaired = metrics["constant"]["nll_own"]
    assert unpaired.high - unpaired.low > 0.1
    assert "nll_above_full" not in metrics["full"]


def test_ablation_texts_are_scored_where_there_are_any():
    scores = make_scores(0.0, with_texts=True)
    metrics = compute_ablation({"full": scores}, **SETTINGS)["full"]
    assert metrics["aspect_accuracy"].value == pytest.approx(0.75)
    written = [score for score in scores if score.explanation]
    assert len(written) == 40
    assert metrics["bleu"].value == pytest.approx(
        corpus_bleu(
            [score.explanation for score in written], [score.reference for score in written]
        )
    )
    assert 0 < metrics["rouge_l"].value < 1
    assert metrics["coverage"].value == 1.0
    assert "embedding_f1" not in metrics
    assert (
        "aspect_accuracy"
        not in compute_ablation(
            {"full": make_scores(0.0, with_texts=True, aspect=None)}, **SETTINGS
        )["full"]
    )


def test_ablation_artifact_holds_the_same_figures_in_every_form(tmp_path):
    scores = {
        "full": make_scores(0.0, with_texts=True),
        "constant": make_scores(0.05, with_texts=True),
    }
    location, metrics = open_location(str(tmp_path)), compute_ablation(scores, **SETTINGS)
    manifest = write_ablation(
        location, scores, metrics, config={"seed": 0}, inputs={"graph": "0123"}
    )
    assert location.files() == [
        "manifest.json",
        "metrics.json",
        "metrics.parquet",
        "pairs.parquet",
        "report.md",
    ]
    assert manifest.files == {
        name: content_hash((tmp_path / name).read_bytes())
        for name in location.files()
        if name != "manifest.json"
    }
    assert finished(location, "ablation", {"seed": 0}, {"graph": "0123"}) == manifest
    rows = {
        (row["variant"], row["metric"]): row
        for row in pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    }
    values = json.loads((tmp_path / "metrics.json").read_text())
    for variant, of_variant in metrics.items():
        assert list(values[variant]) == list(of_variant)
        for name, estimate in of_variant.items():
            assert (rows[variant, name]["value"], rows[variant, name]["low"]) == (
                estimate.value,
                estimate.low,
            )
            assert values[variant][name] == {
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
            }
    assert manifest.metrics["constant"]["nll_above_full"] == pytest.approx(0.05)
    pairs = pq.read_table(tmp_path / "pairs.parquet").to_pylist()
    assert [row["variant"] for row in pairs] == ["full"] * 60 + ["constant"] * 60
    assert pairs[60]["nll_own"] == scores["constant"][0].nll_own
