"""The sample's town as a shop would export it: CSV files and columns of other names."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from xrec.config.data import SampleSource
from xrec.sample import generate_town, town_source


def write_shop(
    folder: Path,
    *,
    num_users: int = 60,
    num_items: int = 24,
    interactions_per_user: int = 8,
    explanations_per_user: int = 4,
) -> None:
    """Write clients.csv, catalogue.csv, orders.csv and feedback.csv to `folder`."""
    source = town_source(
        generate_town(
            SampleSource(
                kind="sample",
                num_users=num_users,
                num_items=num_items,
                interactions_per_user=interactions_per_user,
                explanations_per_user=explanations_per_user,
            )
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    users, items = source.users.to_pylist(), source.items.to_pylist()
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
        (
            (number, row["user_id"], row["item_id"], 1)
            for number, row in enumerate(source.interactions.to_pylist())
        ),
    )
    _write(
        folder / "feedback.csv",
        ("cust_no", "sku", "why_bought"),
        (
            (row["user_id"], row["item_id"], row["explanation"])
            for row in source.explanations.to_pylist()
        ),
    )


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
