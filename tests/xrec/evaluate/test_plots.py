import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from xrec.evaluate.plots import history_plot, length_plot, nll_plot

HISTORY = [
    {"epoch": 1, "train_loss": None, "validation_loss": 2.0},
    {"epoch": 2, "train_loss": 1.0, "validation_loss": 1.5},
]
SVG = "{http://www.w3.org/2000/svg}"


def _plots() -> dict[str, str]:
    rng = np.random.default_rng(0)
    return {
        "history": history_plot(HISTORY, ("train_loss", "validation_loss"), "nats per token"),
        "length": length_plot(rng.integers(0, 60, 100), rng.integers(5, 40, 100)),
        "nll": nll_plot(rng.normal(2, 1, 100), rng.normal(2, 1, 100)),
    }


@pytest.mark.parametrize("name", ["history", "length", "nll"])
def test_plot_is_well_formed_svg_in_the_pages_colours_with_nothing_fetched(name):
    svg = _plots()[name]
    assert ET.fromstring(svg).tag == f"{SVG}svg"
    assert "var(--first)" in svg
    assert "var(--muted)" in svg
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", svg))
    assert colours == set()  # a colour of its own would not follow light and dark
    assert all(
        "fill: var(--muted)" in element.attrib["style"]
        for element in ET.fromstring(svg).iter(f"{SVG}text")
    )
    assert not re.search(r'(?:href|src)="(?!#)', svg)


def test_plots_on_one_page_share_no_id_with_another_meaning():
    seen: dict[str, str] = {}
    for svg in _plots().values():
        for element in ET.fromstring(svg).iter():
            if "id" in element.attrib:
                content = ET.tostring(element, encoding="unicode")
                assert seen.setdefault(element.attrib["id"], content) == content


@pytest.mark.parametrize(
    ("history", "x"),
    [(HISTORY, "epoch"), ([{"step": 10, "train_loss": 1.0}, {"step": 20}], "step")],
)
def test_history_plot_leaves_missing_values_out_and_labels_its_lines(history, x):
    svg = history_plot(history, ("train_loss", "validation_loss"), "nats per token")
    texts = {element.text for element in ET.fromstring(svg).iter(f"{SVG}text")}
    assert {"train loss", "validation loss", x, "nats per token"} <= texts


def test_plots_of_very_many_pairs_stay_small_and_of_equal_values_work():
    values = np.random.default_rng(0).normal(2, 1, 50_000)
    assert len(nll_plot(values, values + 0.1)) < 1_000_000
    assert nll_plot([1.0, 1.0], [1.0, 1.0]).startswith("<svg")
    assert length_plot([0, 0], [0, 0]).startswith("<svg")
