"""Bars are as long as their values, and labels are escaped."""

import re

from xrec.evaluate.chart import Bar, bar_chart


def test_bars_and_bounds_are_on_one_axis_that_ends_at_a_round_number():
    svg = bar_chart("Cost", "s", [Bar("a", 13), Bar("b<i>", 0, bound=5)])
    assert re.findall(r'<rect [^>]*width="([\d.]+)%', svg) == ["65.00", "0.00"]
    assert re.findall(r'class="bound" x1="([\d.]+)%', svg) == ["25.00"]
    assert re.findall(r'class="tick"[^>]*>([\d.]+)<', svg) == ["0", "5", "10", "15", "20"]
    assert "b&lt;i&gt;" in svg
    assert "<i>" not in svg


def test_chart_without_bars_is_empty_and_one_of_zeros_has_an_axis():
    assert bar_chart("Cost", "s", []) == ""
    assert (
        re.findall(r'class="tick"[^>]*>([\d.]+)<', bar_chart("Cost", "s", [Bar("a", 0)]))[-1] == "1"
    )
