"""How good explanations are: metrics of scored pairs, the evaluation artifact, its report.

It reads plain tables and needs neither Ray nor training.
"""

from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.evaluate.evaluation import REPORT, read_evaluation, write_evaluation
from xrec.evaluate.metrics import METRICS, Metrics, compute_metrics, flat_metrics
from xrec.evaluate.report import Lineage, render_report
from xrec.evaluate.scores import SCORED_PAIRS, ScoredPair, scored_pairs_table
from xrec.evaluate.shuffle import other_users
from xrec.evaluate.summary import example_lines, summary_lines

__all__ = [
    "METRICS",
    "REPORT",
    "SCORED_PAIRS",
    "Estimate",
    "bootstrap_mean",
    "Lineage",
    "Metrics",
    "ScoredPair",
    "compute_metrics",
    "example_lines",
    "flat_metrics",
    "other_users",
    "read_evaluation",
    "render_report",
    "scored_pairs_table",
    "summary_lines",
    "write_evaluation",
]
