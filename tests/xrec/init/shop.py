"""The sample's town as a shop would export it: CSV files and columns of other names."""

from pathlib import Path

import pyarrow as pa

from xrec.config.data import SampleSource
from xrec.init.settings import Machine
from xrec.sample import generate_town, town_tables

CPU = Machine(num_cpus=2, num_gpus=0, has_bf16_cpu=True)
GPU = Machine(num_cpus=16, num_gpus=4, has_bf16_cpu=False)
SIZES = {"num_users": 60, "num_items": 24, "interactions_per_user": 8, "explanations_per_user": 4}


def write_shop(folder: Path, **sizes: int) -> Path:
    """Write clients.csv, catalogue.csv, orders.csv and feedback.csv to `folder`."""
    tables = town_tables(generate_town(SampleSource(kind="sample", **{**SIZES, **sizes})))
    ids = {"user_id": "cust_no", "item_id": "sku"}
    clients = {"user_id": "cust_no", "profile": "about"}
    catalogue = {"item_id": "sku", "title": "label", "profile": "description"}
    files: dict[str, tuple[pa.Table, dict[str, str], dict[str, object]]] = {
        "clients": (tables["users"], clients, {"joined": "2024-01-01"}),
        "catalogue": (tables["items"], catalogue, {"price": "9.90"}),
        "orders": (tables["interactions"], ids, {"qty": 1}),
        "feedback": (tables["explanations"], {**ids, "explanation": "why_bought"}, {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (table, columns, more) in files.items():
        rows = table.select([*columns]).rename_columns([*columns.values()]).to_pandas()
        path, numbered = folder / f"{name}.csv", name == "orders"
        rows.assign(**more).to_csv(path, index=numbered, index_label="order_no")
    return folder
