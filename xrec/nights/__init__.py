"""Nights: bring a project up to date, judge the result, publish it, and forget people.

    plan        which jobs a night runs; forecast: what they will do and cost
    costs       what they cost, within one budget; metrics: for Prometheus
    gate        compare a finished run with the published version; one that fails is a candidate
    claims      one of its figures, by a language model
    publish     inspect a candidate, or publish it by force
    places      what is in a workspace; forget: remove people from all of it
    prune       list nights, and delete those that nothing needs any more

A night's artifacts are in <workspace>/nights/N. The commit that publishes its explanations names
them (`xrec.backfill.made_from`), so all of them become current at once, and a rollback restores
the previous ones. `xrec refresh` (xrec.jobs.pipeline) runs a night.
"""

from xrec.nights.costs import NightCosts
from xrec.nights.forecast import forecast
from xrec.nights.forget import check_forgotten, forget
from xrec.nights.gate import Gate, GateFigure, check_kept, make_gate
from xrec.nights.metrics import write_metrics
from xrec.nights.plan import plan_night
from xrec.nights.prune import list_nights, prune_nights
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
    "forecast",
    "forget",
    "list_nights",
    "look_at_candidate",
    "make_gate",
    "plan_night",
    "prune_nights",
    "publish_candidate",
    "write_metrics",
]
