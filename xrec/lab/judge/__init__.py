"""Language models as judges of texts: GPTScore, and statements that the other text supports.

questions   the prompts, from files
replies     what a judge is to answer
judge       scores of pairs by several samples
statements  precision and recall of statements
tally       what judges cost and failed at
load        judges from a config
agreement   how far judges agree
published   scores of judges that others published
"""

from xrec.lab.judge.agreement import AGREEMENT, JUDGE_SCORES, agreement, judge_scores
from xrec.lab.judge.judge import Judge
from xrec.lab.judge.load import (
    JudgeAccess,
    describe_judge,
    judge_identity,
    judge_keys,
    load_judge,
)
from xrec.lab.judge.published import published_scores, read_judge_scores

__all__ = [
    "AGREEMENT",
    "JUDGE_SCORES",
    "Judge",
    "JudgeAccess",
    "agreement",
    "describe_judge",
    "judge_identity",
    "judge_keys",
    "judge_scores",
    "load_judge",
    "published_scores",
    "read_judge_scores",
]
