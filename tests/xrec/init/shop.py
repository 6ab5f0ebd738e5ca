"""The sample's town as a shop would export it: CSV files and columns of other names."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from xrec.config.data import SampleSource
from xrec.init.settings import Machine
from xrec.sample import generate_town, town_tables

CPU = Machine(num_cpus=2, num_gpus=0, has_bf16_cpu=True)
GPU = Machine(num_cpus=16, num_gpus=4, has_bf16_cpu=False)
SIZES = {
    "num_users": 60,
    "num_items": 24,
    "interactions_per_user": 8,
    "explanations_per_user": 4,
}


def write_shop(folder: Path, **sizes: int) -> Path:
    """Write clients.csv, catalogue.csv, orders.csv and feedback.csv to `folder`."""
    town = generate_town(SampleSource(kind="sample", **{**SIZES, **sizes}))
    tables = {name: table.to_pylist() for name, table in town_tables(town).items()}
    users, items = tables["users"], tables["items"]
    pairs, explained = tables["interactions"], tables["explanations"]
    folder.mkdir(parents=True, exist_ok=True)
    _write(
        folder / "clients.csv",
        ("cust_no", "about", "joined"),
        ((row["user_id"], row["profile"], "2024-01-01") for row in users),
    )
    _write(
        folder / "catalogue.csv",
        ("sku", "label", "description", "price"),
        ((row["item_id"], row["title"], row["profile"], "9.90") for row in items),
    )
    _write(
        folder / "orders.csv",
        ("order_no", "cust_no", "sku", "qty"),
        ((number, row["user_id"], row["item_id"], 1) for number, row in enumerate(pairs)),
    )
    _write(
        folder / "feedback.csv",
        ("cust_no", "sku", "why_bought"),
        ((row["user_id"], row["item_id"], row["explanation"]) for row in explained),
    )
    return folder


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
