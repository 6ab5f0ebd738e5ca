"""Our figures against the libraries' own commands, where they are installed."""

import csv
import subprocess
import sys

import pytest

from xrec.data.dataset import HeldOutPair
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.overlap import Overlap, of_corpus

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
