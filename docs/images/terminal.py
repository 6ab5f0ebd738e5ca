"""Record terminal.svg: a shop's purchases become recommendations with their reasons.

    python docs/images/terminal.py

It generates 20,000 purchases of a made-up shop, runs the commands that the picture shows, and draws
what they print. Nothing in the picture is edited, but it has only the first lines of each command.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
MAX_LINES = 13  # of one command
KINDS = {
    "Coffee": "Hand Grinder, Gooseneck Kettle, Pour-Over Cone, Milk Pitcher, Scale, Moka Pot",
    "Hiking": "Trail Map, Wool Socks, Trekking Poles, Headlamp, Rain Shell, Water Filter",
    "Baking": "Proofing Basket, Dough Scraper, Bread Lame, Cake Ring, Rolling Pin, Oven Stone",
    "Music": "Clip Tuner, Drum Key, Capo, String Winder, Practice Amp, Music Stand",
    "Garden": "Pruning Saw, Seed Tray, Plant Labels, Hose Reel, Kneeling Pad, Compost Pail",
}
COLORS = "Red, Blue, Green, Steel, Oak, Folding, Large, Mini, Classic, Pro"
COMMANDS = (
    "head -n 3 exports/*.csv",
    "xrec init shop --from exports",
    "xrec run shop/xrec.yaml --quiet",
)


def write_shop(folder: Path) -> None:
    """Write purchases.csv and goods.csv: most people buy goods of two kinds."""
    draw = random.Random(0)
    (folder / "exports").mkdir()
    goods = [
        (kind, f"{color} {name}")
        for kind, names in KINDS.items()
        for name in names.split(", ")
        for color in COLORS.split(", ")
    ]
    ids = {title: f"sku-{number}" for number, (_, title) in enumerate(goods, start=1)}
    rows = [f"{ids[title]},{title}" for _, title in goods]
    (folder / "exports" / "goods.csv").write_text("\n".join(["item_id,title", *rows]))
    by_kind = {kind: [title for each, title in goods if each == kind] for kind in KINDS}
    pairs: set[tuple[str, str]] = set()
    while len(pairs) < 20_000:
        liked = draw.sample(sorted(KINDS), 2)
        for _ in range(draw.randint(4, 14)):
            titles = by_kind[draw.choice(liked)]
            title = titles[min(int(draw.expovariate(0.1)), len(titles) - 1)]  # some sell better
            pairs.add((f"c{len(pairs) // 9:04}", ids[title]))
    lines = ["user_id,item_id", *(f"{user},{item}" for user, item in sorted(pairs))]
    (folder / "exports" / "purchases.csv").write_text("\n".join(lines))


def main() -> None:
    """Run the commands in a folder of their own, and write terminal.svg beside this file."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        write_shop(Path(folder))
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            done = subprocess.run(
                command, shell=True, cwd=folder, check=True, text=True, capture_output=True,
                env={**os.environ, "PATH": programs},
            )  # fmt: skip
            lines = done.stdout.replace(folder, "~").splitlines()
            for line in lines[:MAX_LINES]:
                for row in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""]:
                    console.print(Text(row), no_wrap=True)
            console.print()
    drawn = console.export_svg(title="xrec")
    without_fonts = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)  # of another host
    Path(__file__).with_name("terminal.svg").write_text(without_fonts)


if __name__ == "__main__":
    main()
