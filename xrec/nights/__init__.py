"""Nights: bring a project up to date, judge the result, publish it, and forget people.

    plan        which jobs a night runs; costs: what they cost, within one budget
    gate        compare a finished run with the published version; one that fails is a candidate
    publish     inspect a candidate, or publish it by force
    forget      remove people from all artifacts and tables

A night's artifacts are in <workspace>/nights/N. The commit that publishes its explanations names
them (`xrec.backfill.made_from`), so all of them become current at once, and a rollback restores
the previous ones. `xrec refresh` (xrec.jobs.pipeline) runs a night.
"""

from xrec.nights.costs import NightCosts
from xrec.nights.forget import check_forgotten, forget
from xrec.nights.gate import Gate, GateFigure, check_kept, make_gate
from xrec.nights.plan import plan_night
from xrec.nights.publish import look_at_candidate, publish_candidate
from xrec.nights.sample import Sample, diff_lines

__all__ = [
    "Gate",
    "GateFigure",
    "NightCosts",
    "Sample",
    "check_forgotten",
    "check_kept",
    "diff_lines",
    "forget",
    "look_at_candidate",
    "make_gate",
    "plan_night",
    "publish_candidate",
]
