"""Language models as judges of texts: GPTScore.

judge       scores of pairs by several samples
load        judges from a config
agreement   how far judges agree
"""

from xrec.lab.judge.agreement import agreement_lines
from xrec.lab.judge.judge import Judge
from xrec.lab.judge.load import (
    JudgeAccess,
    describe_judge,
    judge_identity,
    judge_keys,
    load_judge,
)

__all__ = [
    "Judge",
    "JudgeAccess",
    "agreement_lines",
    "describe_judge",
    "judge_identity",
    "judge_keys",
    "load_judge",
]
