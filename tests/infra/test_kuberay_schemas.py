"""The Ray manifests against the schemas of KubeRay's custom resources.

The schemas are not in this repository; they are looked for beside the checkout.
"""

import functools
import json
from typing import Any

import jsonschema
import pytest

from tests.infra.manifests import OVERLAYS, ROOT, Manifest, built, source_documents

SCHEMAS = next(
    (
        folder / "shared" / "schemas"
        for folder in ROOT.parents
        if (folder / "shared" / "schemas").is_dir()
    ),
    None,
)
_FILES = {
    "RayCluster": "rayclusters.v1.json",
    "RayJob": "rayjobs.v1.json",
    "RayService": "rayservices.v1.json",
}


@functools.cache
def _validator(kind: str) -> jsonschema.Draft202012Validator:
    if SCHEMAS is None:
        pytest.skip(
            "no ../shared/schemas: the published schemas of KubeRay's CRDs lie beside the checkout"
        )
    schema = json.loads((SCHEMAS / _FILES[kind]).read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(schema: Any) -> Any:
    """Return the schema with unknown keys refused; Kubernetes drops them without a message."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault(
            "additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields"))
        )
    return made


def _errors(manifest: Manifest) -> list[str]:
    return [
        f"{error.json_path}: {error.message}"
        for error in _validator(manifest["kind"]).iter_errors(manifest)
    ]


SOURCES = [
    pytest.param(document, id=str(path.name))
    for path, document in source_documents()
    if document["kind"] in _FILES
]


@pytest.mark.parametrize("manifest", SOURCES)
def test_source_is_valid(manifest: Manifest) -> None:
    assert _errors(manifest) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_is_valid(overlay: str) -> None:
    manifests = [document for document in built(overlay) if document["kind"] in _FILES]
    assert manifests
    assert {
        document["metadata"]["name"]: _errors(document)
        for document in manifests
        if _errors(document)
    } == {}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"rayVerison": "2.60.0"}, "rayVerison"),
        ({"enableInTreeAutoscaling": "yes"}, "enableInTreeAutoscaling"),
        ({"authOptions": {"mode": "open"}}, "authOptions.mode"),
    ],
)
def test_validator_sees_what_is_wrong(change: dict[str, Any], part: str) -> None:
    (cluster,) = [
        document for _, document in source_documents() if document["kind"] == "RayCluster"
    ]
    assert any(
        part in error for error in _errors({**cluster, "spec": {**cluster["spec"], **change}})
    )
