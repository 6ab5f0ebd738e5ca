"""How good explanations are: metrics of scored pairs, the evaluation artifact, its report.

It reads plain tables and needs neither Ray nor training.
"""

from xrec.evaluate.bootstrap import Estimate, bootstrap_mean
from xrec.evaluate.evaluation import REPORT, read_coverage, read_evaluation, write_evaluation
from xrec.evaluate.metrics import METRICS, Metrics, compute_metrics, flat_metrics
from xrec.evaluate.report import Lineage, render_report
from xrec.evaluate.scores import SCORED_PAIRS, Coverage, ScoredPair, scored_pairs_table
from xrec.evaluate.shuffle import other_users
from xrec.evaluate.summary import coverage_lines, example_lines, summary_lines

__all__ = [
    "METRICS",
    "REPORT",
    "SCORED_PAIRS",
    "Coverage",
    "Estimate",
    "bootstrap_mean",
    "Lineage",
    "Metrics",
    "ScoredPair",
    "compute_metrics",
    "coverage_lines",
    "example_lines",
    "flat_metrics",
    "other_users",
    "read_coverage",
    "read_evaluation",
    "render_report",
    "scored_pairs_table",
    "summary_lines",
    "write_evaluation",
]
