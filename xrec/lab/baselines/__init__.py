"""Baselines: published models that explain recommendations, and low-rank weights.

    train_baseline         dataset in, a trained baseline out   (train, trainer)
    write_baseline_texts   pairs in, texts out                  (texts, write)

baseline    one of them with its seed: what it reads, where its model lies
models      one module a model: Att2Seq, NRT, PETER, PEPLER, LoRA
words       texts as rows of words; language_model: as tokens of a language model
aspects     the aspect that PETER+ reads
data        explained pairs as examples; batch: as tensors; prompts: as prompts in words
progress    when a training stops, and what its best epoch is
artifact    the trained baseline in files
"""

from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.texts import write_baseline_texts
from xrec.lab.baselines.train import train_baseline

__all__ = ["Baseline", "train_baseline", "write_baseline_texts"]
