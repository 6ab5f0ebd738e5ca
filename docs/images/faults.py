"""Draw faults.svg: rows lost and duplicated by six tools under five faults, from faults.json.

    python docs/images/faults.py

The figures are those of the log's entry that faults.json names. The bars are those of the reports.
"""

import json
import re
from pathlib import Path

from xrec.evaluate.chart import Bar, bar_chart

NUM_PAIRS = 8000
WIDTH, PANEL, ROW, TOP = 836, 244, 256, 88  # pixels; ROW: from a panel to the one below
STYLE = """
.back { fill: #fff; } text { fill: #17211f; font-size: 13px; } rect { fill: #d97706; }
.lost { fill: #b42318; } .soft, .tick { fill: #56635f; font-size: 12px; } .grid { stroke: #d9dfdc; }
.title { font-size: 16px; } .title, .tool { font-weight: 600; } .value { text-anchor: end; }
@media (prefers-color-scheme: dark) {
  .back { fill: #101514; } text { fill: #e6edea; } rect { fill: #fbbf24; } .lost { fill: #f97066; }
  .soft, .tick { fill: #9fb0aa; } .grid { stroke: #2c3836; }
}"""


def panel(tool: str, faults: list[str], rows: list[list[int]]) -> str:
    """Return the SVG of a tool's bars, one for each fault."""
    words = [": lost" if lost else ": duplicated" if twice else "" for lost, twice in rows]
    bars = [Bar(a + b, max(each)) for a, b, each in zip(faults, words, rows, strict=True)]
    kinds = iter(rows)
    chart = bar_chart(tool, "rows", bars, most=NUM_PAIRS)
    chart = re.sub("<rect", lambda _: f'<rect class="{"lost" if next(kinds)[0] else ""}"', chart)
    return re.search("<svg.*</svg>", chart)[0].replace('width="100%"', f'width="{PANEL}"')


def main() -> None:
    """Write faults.svg beside this file."""
    run = json.loads(Path(__file__).with_name("faults.json").read_text())
    parts = []
    for number, (tool, rows) in enumerate(run["lost_and_duplicated"].items()):
        x, y = 24 + number % 3 * (WIDTH - 48 - PANEL) // 2, TOP + number // 3 * ROW
        whole = f"{sum(each == [0, 0] for each in rows)} of {len(rows)}"
        parts += [
            f'<text class="tool" x="{x}" y="{y}">{tool}</text>',
            f'<text class="soft value" x="{x + PANEL}" y="{y}">{whole}</text>',
            f'<svg x="{x}" y="{y + 8}" overflow="visible">{panel(tool, run["faults"], rows)}</svg>',
        ]
    title = f"Rows lost or duplicated, of {NUM_PAIRS:,}, after each of five faults"
    height = TOP + 2 * ROW
    Path(__file__).with_name("faults.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f"font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\">\n"
        f"<title>{title}</title>\n<style>{STYLE}\n</style>\n"
        f'<path class="back" d="M0 0H{WIDTH}V{height}H0z"/>\n'
        f'<text class="title" x="24" y="32">{title}</text>\n'
        f'<text class="soft" x="24" y="52">Out of the box. 3 of 5: after three of the faults, '
        f"each row was there once. A bad row is one whose function raises.</text>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
