"""Language models as judges of texts (judge: GPTScore), and how far they agree (agreement)."""

from xrec.lab.judge.agreement import agreement_lines
from xrec.lab.judge.judge import Judge, JudgeAccess, judge_keys, load_judge

__all__ = ["Judge", "JudgeAccess", "agreement_lines", "judge_keys", "load_judge"]
