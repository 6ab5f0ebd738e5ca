"""Files of a user of xrec: reviews, exports of a shop, project files."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import yaml

from xrec.config import CONFIG_TYPES, ArtifactName, JobConfig, SampleSource
from xrec.sample import generate_town, town_tables

SAMPLE = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 12,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}
"""A source of `prepare` that takes no time to generate."""
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY="
_SIZES = {"num_users": 60, "num_items": 24, "interactions_per_user": 8, "explanations_per_user": 4}


def review(user: str, item: str, text: str = "A warm tone.", **more: Any) -> dict[str, Any]:
    """Return a row of a table of reviews, by default with five stars."""
    return {"user_id": user, "item_id": item, "review": text, "rating": 5.0, **more}


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write the rows as JSON Lines, gzipped if the name ends with .gz, and return `path`."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def write_shop(folder: Path, **sizes: int) -> Path:
    """Write clients.csv, catalogue.csv, orders.csv and feedback.csv, with columns of other names.

    They hold the sample's town; `sizes` are keys of its source. Returns `folder`.
    """
    tables = town_tables(generate_town(SampleSource(kind="sample", **{**_SIZES, **sizes})))
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


def write_yaml(path: Path, values: Any) -> Path:
    """Write the values as YAML, and return `path`."""
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def with_uris(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config with the artifacts among its keys in `artifacts`."""
    names = get_args(ArtifactName)
    uris = {name: str(uri) for name, uri in values.items() if name in names and uri is not None}
    rest = {name: value for name, value in values.items() if name not in names}
    return {**rest, "artifacts": uris} if uris else rest


def write_project(path: Path, config: JobConfig, **changes: Any) -> Path:
    """Write a project file whose only section is `config` with `changes`, and return `path`.

    Secrets are left out; a test that needs them passes `storage`.
    """
    (job,) = [name for name, each in CONFIG_TYPES.items() if each is type(config)]
    secrets = {"storage": {"access_key_id", "secret_access_key"}}
    return write_yaml(
        path, {job: {**config.model_dump(mode="json", exclude=secrets), **with_uris(changes)}}
    )
